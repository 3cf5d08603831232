"""The end of a study: the lines that the terminal and the page share."""

import pytest

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.config import Config
from lmsm_cli.reports.html.page import page
from lmsm_cli.reports.study_end import ending_of, named_by_arm, with_verdicts_of_study
from lmsm_cli.reports.study_hints import hints_of, model_line
from tests.test_differences import arms, run
from tests.test_page import spaced

PLAN = {"rounds": 3, "epochs": None, "usual_epochs": None}
NEVER_BRIEF = {"softmax": arms((0.9, 0.8, 0.2)), "vs": arms((0.6, 0.8, 0.9), start=50)}


def document(**more):
    """Return the document of a study that told vs, with what is said otherwise."""
    verdict = {"arm": "vs", "is_told": True, "decided_on": "test images", "reason": ""}
    verdict |= {"mean": 0.7, "low": 0.6, "high": 0.8}
    rows = [{"name": "softmax"}, {"name": "vs", "difference": 0.7}]
    found = {"rounds": 3, "pairs": 0, "ended": "the plan", "dropped": {}, "settled": {}}
    found |= {"question": "few", "verdict": verdict, "held_out": rows, "spent_seconds": 320.0}
    return found | {"model": {"name": "vs", "run": "runs/s/vs"}} | more


def untold(document):
    """Return a document in which nothing was told."""
    verdict = document["verdict"] | {"is_told": False, "decided_on": "held-out images"}
    return document | {"verdict": verdict, "model": {"name": "softmax", "run": "runs/s/one"}}


def compared(answers=NEVER_BRIEF, **choices):
    """Return the runs of a comparison, given as {loss: {seed: right (N,)}}, and the comparison."""
    records = [
        run(loss, seed, right, **choices)
        for loss, rows in answers.items()
        for seed, right in rows.items()
    ]
    return records, compare_runs(records)


def lines_of(document, plan=PLAN, answers=NEVER_BRIEF):
    """Return the lines of a study's end."""
    _, comparison = compared(answers)
    return ending_of(document, plan, comparison).lines


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "3 rounds done, as planned; 5 min 20 s in all"),
        ({"rounds": 1, "ended": "the budget"}, "1 of 3 planned rounds done: the time was over; "),
        ({"rounds": 2, "ended": "a look"}, "2 of 3 planned rounds done: more would tell no more; "),
        ({"pairs": 5}, "; then vs and softmax on all training images, 5 seeds each; "),
    ],
)
def test_how_many_of_the_planned_rounds_are_done_is_said(more, said):
    """With the reason for fewer, and what followed."""
    assert said in lines_of(document(**more))[0]


def test_what_the_advised_loss_costs_is_said():
    """Where it loses over all images, which here is over all classes too."""
    loser = {"softmax": arms((0.9, 0.8, 0.2)), "vs": arms((0.1, 0.6, 0.5), start=50)}
    (line,) = [one for one in lines_of(document(), answers=loser) if "accuracy over" in one]
    _, comparison = compared(loser)
    (vs,) = [one for one in comparison.groups if not one.is_baseline]
    few, all_of_them = (100 * vs.differences[key].mean for key in ("few", "accuracy"))
    assert all_of_them < -5
    assert line == (
        f"vs costs accuracy over all classes: rare classes {few:+.1f} points, all classes "
        f"{all_of_them:+.1f} points"
    )
    assert not any("accuracy over" in one for one in lines_of(untold(document()), answers=loser))
    assert not any("accuracy over" in one for one in lines_of(document()))


def test_losses_that_were_left_out_are_a_line_for_each_reason():
    """However many they are."""
    late = dict.fromkeys(["a", "b", "c", "d"], "the race had no time left")
    found = lines_of(document(dropped=late | {"crt": "it diverged"}))
    assert found[1:3] == (
        "left out: a, b, c and 1 more: the race had no time left",
        "left out: crt: it diverged",
    )


@pytest.mark.parametrize("is_told", [True, False])
def test_the_page_opens_with_the_answer_and_the_lines(is_told):
    """As the terminal has them; what a comparison would say of the same runs is not the answer."""
    records, comparison = compared()
    known = document() if is_told else untold(document())
    ending = ending_of(known, PLAN, comparison, ["more photos would help"])
    head = spaced(page(comparison, records, ending).partition("<section")[0])
    assert ending.answer in head
    assert ending.lines[-1] == "more photos would help"
    assert all(line in head for line in ending.lines)
    assert comparison.conclusions[0].text not in head
    assert ending.finding == ("better" if is_told else "open")
    assert comparison.conclusions[0].text in spaced(page(comparison, records))


@pytest.mark.parametrize("is_told", [True, False])
def test_the_page_gives_no_verdict_that_the_study_does_not(is_told):
    """On held-out images, which chose the losses and were looked at; test images chose nothing."""
    records, comparison = compared(NEVER_BRIEF | {"ldam": arms((0.9, 0.8, 0.9), start=90)})
    assert {one.differences["few"].verdict for one in comparison.groups if one.differences} == {
        "better"
    }
    known = document() if is_told else untold(document())
    assert with_verdicts_of_study(comparison, document()) == comparison
    held_out = known | {"verdict": known["verdict"] | {"decided_on": "held-out images"}}
    found = with_verdicts_of_study(comparison, held_out)
    verdicts = {
        (one.label, key): change.verdict
        for one in found.groups
        for key, change in one.differences.items()
        if change and change.verdict != "can't tell"
    }
    assert verdicts == ({("vs", "few"): "better"} if is_told else {})
    assert not any(one.best for one in found.groups)
    text = page(found, records, ending_of(held_out, PLAN, found))
    assert ("better than softmax" in spaced(text)) == is_told


@pytest.mark.parametrize(("rounds", "said"), [(1, "one round"), (2, "two rounds"), (3, None)])
def test_too_few_rounds_are_the_reason_why_nothing_is_told(rounds, said):
    """With two the interval may lie above 0, and no look was ever planned."""
    known = untold(document(rounds=rounds))
    answer = ending_of(known, PLAN, compared()[1]).answer
    assert (f"{said} cannot tell that from chance" in answer) == (said is not None)
    assert ("the level of 5% is for all looks" in answer) == (said is None)


def hints(counts, *, validation=3, told=False, model="torchvision:resnet18", **choices):
    """Return what a study of a folder of photos advises."""
    config = Config(dataset="folder", model=model, **choices)
    known = document() if told else untold(document())
    return hints_of(known, config, counts, {"validation": validation})


def test_few_photos_are_told_what_helps():
    """By the names of the rarest classes; with weights that were not taken, and a correction."""
    counts = {"cat": 200, "frog": 6, "ship": 12}
    weights, adjust = hints(counts)
    assert weights.startswith("few photos tell little: more of frog (6), ship (12) would help, and")
    assert "--pretrained imagenet" in weights
    assert adjust.endswith("lmsm adjust runs/s/one --adjust auto")
    assert hints(counts, validation=0)[1].endswith("--adjust 1")
    assert "pretrained" not in hints(counts, pretrained="imagenet")[0]
    assert "pretrained" not in hints(counts, model="paper-mnist")[0]
    assert len(hints({"cat": 11, "frog": 12})) == 1  # nothing to correct
    assert hints({"cat": 200, "frog": 60}) == hints(counts, told=True) == []


def test_what_the_model_was_trained_on_is_said():
    """Of photos without a test of their own all parts count; of others those for the training."""
    parts = {"training": 72, "validation": 8, "test": 20}
    assert model_line(parts, has_test=False) == (
        "the model was trained on 72 of 100 images (72%); held out were 20 for test and 8 for "
        "validation"
    )
    assert model_line(parts, has_test=True).startswith("the model was trained on 72 of 80 images (")
    whole = {"training": 80, "validation": 0, "test": 20}
    assert model_line(whole, has_test=True) == "the model was trained on all 80 training images"


@pytest.mark.parametrize(("epochs", "is_said"), [(20, True), (28, False)])
def test_trainings_that_were_too_short_are_said_to_be(epochs, is_said):
    """Of 566 images in batches of 32: 18 steps an epoch, and 500 are wanted."""
    _, comparison = compared(epochs=epochs)
    found = ending_of(document(), PLAN, comparison).lines
    said = "train longer to be sure, with more --epochs: fewer than 500 training steps in every"
    assert any(line.startswith(said) for line in found) == is_said


def test_groups_have_the_names_of_the_study():
    """As the race has them; a group that is none of its arms keeps its own."""
    _, comparison = compared()
    found = named_by_arm(comparison, {"vs, at the end": ["runs/vs-0", "runs/vs-1"]})
    assert [one.label for one in found.groups] == ["softmax", "vs, at the end"]
