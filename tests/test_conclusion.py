"""The answer as a student reads it: sentences for one, two, three and more losses, with numbers."""

import pytest

from lmsm_cli.comparison.conclusion import conclusion_of
from lmsm_cli.comparison.intervals import Difference
from tests.test_comparison_tables import group

AUTO = "lsoftmax:margin=auto,lambda_min=0,tau=1,weight_norm=shared,margin_max=1.3"


def told(mean, **more):
    """Return a difference whose interval excludes 0, of three paired seeds."""
    over = "seeds and test images"
    return Difference(mean, mean - 0.02, mean + 0.02, 3, paired=True, over=over, family=4, **more)


def better(mean):
    """Return one with that verdict."""
    return told(mean, verdict="better", p_holm=0.01)


def worse(mean):
    """Return one with that verdict."""
    return told(mean, verdict="worse", p_holm=0.01)


def close(mean):
    """Return one that is no verdict among four."""
    return told(mean, verdict="can't tell", p_holm=0.08, reason="not after Holm")


def unclear(fewest=4, most=9, **more):
    """Return one whose interval holds 0."""
    needed = {"seeds_needed": (fewest, most), "floor": 0.061}
    return Difference(*(0.01, -0.04, 0.06, 3, True, "can't tell"), **(needed | more))


SEE = "to see a difference of 5 points, 4 to 9 seeds in all are needed (3 are here)"


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"vs": better(0.05)}, "vs beats softmax by 5.0 points [3.0, 7.0]."),
        (
            {"vs": better(0.05), "ldam": better(0.09), "focal": worse(-0.04)},
            "ldam beats softmax by 9.0 points [7.0, 11.0]; vs beats softmax by 5.0 points "
            "[3.0, 7.0]; focal falls behind softmax by 4.0 points [2.0, 6.0].",
        ),
        ({"vs": unclear()}, f"vs shows no clear difference from softmax: {SEE}."),
        (
            {"vs": unclear(), AUTO: unclear()},
            f"vs and lsoftmax show no clear difference from softmax: {SEE}.",
        ),
        (
            {"vs": unclear(), "ldam": unclear(), "focal": unclear()},
            f"vs, ldam and focal show no clear difference from softmax: {SEE}.",
        ),
        (
            {name: unclear() for name in ("vs", "ldam", "focal", "lws", "crt")},
            f"vs, ldam, focal and 2 more show no clear difference from softmax: {SEE}.",
        ),
        (
            {"softmax post_hoc=adjust:1": unclear(), "softmax post_hoc=tau-norm:1": unclear()},
            "softmax post_hoc=adjust and softmax post_hoc=tau-norm show no clear difference from "
            f"softmax: {SEE}.",
        ),
        (
            {AUTO: unclear(), AUTO.replace("1.3", "1.6"): unclear()},
            f"{AUTO} and {AUTO.replace('1.3', '1.6')} show no clear difference from softmax: "
            f"{SEE}.",
        ),
        (
            {"vs": unclear(None, None)},
            "vs shows no clear difference from softmax: to see a difference of 5 points, more test "
            "images are needed, not seeds: these show none below 6.1.",
        ),
        (
            {"vs": unclear(None, None, reason="two seeds: give a third")},
            "vs shows no clear difference from softmax (two seeds: give a third).",
        ),
        (
            {"vs": close(0.03)},
            "vs is ahead of softmax by 3.0 points [1.0, 5.0], but among 4 comparisons that may be "
            "chance.",
        ),
        (
            {"vs": close(0.03), "ldam": close(0.05), "focal": close(-0.04)},
            "ldam is ahead of softmax by 5.0 points [3.0, 7.0] and vs by 3.0 points [1.0, 5.0], "
            "but among 4 comparisons that may be chance; focal is behind softmax by 4.0 points "
            "[2.0, 6.0], but among 4 comparisons that may be chance.",
        ),
        (
            {name: close(0.03) for name in ("vs", "ldam", "focal", "lws", "crt")},
            "vs is ahead of softmax by 3.0 points [1.0, 5.0], ldam by 3.0 points [1.0, 5.0], focal "
            "by 3.0 points [1.0, 5.0] and 2 others by less, but among 4 comparisons that may be "
            "chance.",
        ),
        (
            {"vs": unclear(at_chance=True), "ldam": unclear(at_chance=True)},
            "no run of softmax, vs or ldam is clearly better than guessing (50 %): train longer, "
            "or with another learning rate, before you compare.",
        ),
        (  # the runs on one set of test images guess, those on another do not
            {"vs": unclear(at_chance=True, reason="no run guesses better"), "ldam": better(0.09)},
            "ldam beats softmax by 9.0 points [7.0, 11.0]; vs shows no clear difference from "
            "softmax (no run guesses better).",
        ),
    ],
)
def test_the_answer_reads_as_a_sentence(held, sentence):
    """Names are joined by `and`, verbs fit them, and each number says what it is of."""
    groups = [group("softmax", 0.6, is_baseline=True)]
    groups += [group(label, 0.6, differences={"few": one}) for label, one in held.items()]
    assert conclusion_of(groups, 0.05).text == f"On the rare classes {sentence}"


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["vs"], "vs has 60.0 ± 1.0 % over 2 runs: train another loss to compare it with."),
        (
            ["cross-entropy", AUTO],
            "cross-entropy has 60.0 ± 1.0 % over 2 runs and lsoftmax has 60.0 ± 1.0 % over 2 runs: "
            "say which of them is the baseline, such as --baseline cross-entropy.",
        ),
    ],
)
def test_scores_without_a_baseline_read_as_a_sentence(labels, sentence):
    """What there is, and what to type."""
    groups = [group(label, 0.6) for label in labels]
    assert conclusion_of(groups, 0.05).text == f"On the rare classes {sentence}"
