"""What the report page opens with: the answer, and cards that crown nobody who is not told."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.result_files import read_results
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.reports.html.facts import DATASET_NAMES, summary
from lmsm_cli.reports.html.page import page
from tests.synthetic_runs import (
    document,
    images_of,
    metrics_of,
    records_in,
    scores_of,
    write_predicting_run,
    write_run,
)
from tests.test_differences import arms, group_of, run
from tests.test_page import Document, spaced, words

CLEAR = {
    "softmax": arms((0.9, 0.7, 0.3)),
    "balanced-softmax": arms((0.9, 0.7, 0.8), start=9),
    "vs": arms((0.9, 0.7, 0.32), start=50),
    "focal": arms((0.9, 0.7, 0.02), start=70),
}
OPEN = {"softmax": CLEAR["softmax"], "vs": arms((0.9, 0.7, 0.3), start=200)}
FALSE = (
    "can't tell",
    "Student's t",
    "not over other test images",
    "one in twenty",
    "Best ",
    "* best",
)


def shown(answers, **choices):
    """Return the comparison of losses, given as {loss: {seed: right (N,)}}, and its page."""
    records = [
        run(loss, s, right, **choices)
        for loss, rows in answers.items()
        for s, right in rows.items()
    ]
    comparison = compare_runs(records)
    return comparison, page(comparison, records)


def cards(html):
    """Return the cards by title, each as (undecided, large figure or None, words)."""
    part = html[html.index('<ul class="cards"') :].partition("</ul>")[0]
    found = {}
    for card in part.split("<li")[1:]:
        title = re.search('class="name">([^<]*)<', card)[1]
        value = re.search('class="value">([^<]*)<', card)
        text = spaced("<li" + card)
        found[title] = (card.startswith(' class="undecided"'), value and value[1], text)
    return found


def test_the_answer_comes_first():
    """The conclusion stands before the facts, every table, card and picture, and word for word."""
    comparison, html = shown(CLEAR)
    (conclusion,) = comparison.conclusions
    assert conclusion.text in words(Document(html))
    place = html.index('class="says better long"')
    assert all(place < html.index(mark) for mark in ('class="facts"', "<ul", "<table", "<svg"))


@pytest.mark.parametrize(
    ("answers", "finding"), [(CLEAR, "better"), (OPEN, "open"), ({"softmax": CLEAR["vs"]}, "open")]
)
def test_an_open_answer_is_plain(answers, finding):
    """Only an answer that tells something has the class that page.css colours and makes bold."""
    html = shown(answers)[1]
    assert re.findall(r'class="says (\w+)', html) == [finding]
    css = html[html.index("<style>") : html.index("</style>")]
    assert ".answer .better" in css
    assert ".answer .open" not in css


def test_the_answer_says_what_it_rests_on():
    """Losses, seeds, test images, epochs, and what the intervals allow for."""
    text = words(Document(shown(CLEAR)[1]))
    assert (
        "From 4 losses with seeds 0 to 2, tested on 600 images after 100 epochs; "
        "95% intervals over seeds and test images." in text
    )
    short = words(Document(shown(CLEAR, epochs=1)[1]))
    assert "after 1 epoch; 95% intervals over seeds and test images. " in short
    bare = words(Document(shown(CLEAR, predicts=False)[1]))
    assert "95% intervals over seeds alone." in bare
    some = CLEAR | {"vs": dict(list(CLEAR["vs"].items())[:2])}
    assert "From 4 losses with 2 to 3 seeds each, tested" in words(Document(shown(some)[1]))


def test_a_card_tells_a_difference_and_whom_it_is_of():
    """The large figure is the largest gain; the loss and the open group stand below it, small."""
    comparison, html = shown(CLEAR)
    gain, loss = (
        group_of(comparison, name).differences["few"] for name in ("balanced-softmax", "focal")
    )
    undecided, value, text = cards(html)["Accuracy on the rarest classes"]
    assert not undecided
    assert value == f"+{100 * gain.mean:.1f}"
    assert "2 balanced-softmax better than softmax" in text
    bounds = f"[+{100 * gain.low:.1f}, +{100 * gain.high:.1f}] over seeds and test images"
    assert bounds in text
    assert f"3 ✕ \N{MINUS SIGN}{-100 * loss.mean:.1f} worse" in text
    assert text.endswith("no clear difference: 4")


def test_no_card_crowns_what_is_not_told():
    """Without a verdict there is no figure, and `no clear difference` in place of a winner."""
    comparison, html = shown(OPEN)
    vs = group_of(comparison, "vs")
    assert {one.verdict for one in vs.differences.values() if one} == {"can't tell"}
    found = cards(html)
    assert "Accuracy on the rarest classes" in found
    for undecided, value, text in found.values():
        assert undecided
        assert value is None
        assert "no clear difference" in text
        assert "vs" not in text
    assert 'class="value"' not in html


def test_only_a_loss_is_a_card_that_says_worse():
    """Where nothing is better the card tells the largest loss, as a loss."""
    answers = {"softmax": CLEAR["balanced-softmax"], "focal": CLEAR["softmax"]}
    _, value, text = cards(shown(answers)[1])["Accuracy on the rarest classes"]
    assert value.startswith("\N{MINUS SIGN}")
    assert "2 focal worse than softmax" in text


def test_a_card_that_repeats_another_is_left_out():
    """On as many test images of each class accuracy is balanced accuracy, and shown once."""
    found = cards(shown(CLEAR)[1])
    assert "Balanced accuracy" in found
    assert "Accuracy" not in found


def test_one_group_has_its_scores_on_the_cards():
    """A run alone is held against nothing: its scores are the figures, and no verdict is there."""
    comparison, html = shown({"softmax": CLEAR["softmax"]})
    few = comparison.groups[0].metrics["few"]
    undecided, value, text = cards(html)["Accuracy on the rarest classes"]
    assert value == f"{100 * few.mean:.1f} ± {100 * few.sd:.1f}"
    assert not undecided
    assert "difference" not in text


def test_without_a_baseline_only_a_told_best_has_a_card():
    """Groups that nothing is held against crown one only where it is told from all others."""
    answers = {"vs": CLEAR["balanced-softmax"], "focal": CLEAR["focal"]}
    comparison, html = shown(answers)
    assert not any(group.differences for group in comparison.groups)
    assert "few" in group_of(comparison, "vs").best
    undecided, value, text = cards(html)["Accuracy on the rarest classes"]
    assert (undecided, value is None) == (False, False)
    assert "vs clearly better than every other group" in text
    alike = {"vs": CLEAR["vs"], "focal": CLEAR["softmax"]}
    assert 'class="cards"' not in shown(alike)[1]


@pytest.mark.parametrize("predicts", [True, False])
@pytest.mark.parametrize("answers", [CLEAR, OPEN])
def test_no_sentence_is_false(answers, predicts):
    """The words of intervals over seeds alone are gone, and the caption says over what they are."""
    _, html = shown(answers, predicts=predicts)
    text = words(Document(html))
    for old in FALSE:
        assert old not in text
    over = "seeds and test images (" if predicts else "seeds alone."
    assert f"with its 95% interval over {over}" in text
    assert "after Holm's correction" in text


def test_holm_is_said_in_the_cell():
    """A difference whose interval excludes 0 and that is no verdict says so where it stands."""
    base = arms((0.9, 0.7, 0.5), range(5))
    others = {
        loss: arms((0.9, 0.7, 0.5), range(5), start=1000 + 100 * number)
        for number, loss in enumerate(("focal", "ldam", "cosface", "arcface", "asoftmax"))
    }
    slight = arms((0.9, 0.7, 0.6), range(5), start=400)
    comparison, html = shown({"softmax": base, "vs": slight} | others)
    few = group_of(comparison, "vs").differences["few"]
    assert few.reason == "not after Holm"
    text = spaced(html)
    bounds = few.interval.replace("-", "\N{MINUS SIGN}")
    why = "better by itself, but not as one of 6 comparisons"
    assert f"+{100 * few.mean:.1f} no clear difference {bounds} {why}" in text
    assert "of 6 intervals one excludes 0 by chance in up to 30 % of all studies" in text
    assert "of all studies" not in spaced(shown(CLEAR)[1])


@pytest.mark.parametrize(("vs", "is_said"), [(0.35, True), (0.1, False)])
def test_how_sure_a_guess_is_stands_nowhere_in_front(vs, is_said):
    """Where no run knows the rare classes a better calibration has no card and no note."""
    answers = {"softmax": arms((0.9, 0.7, is_said * 0.6)), "vs": arms((0.9, 0.7, vs), start=9)}
    records = []
    for loss, error in (("softmax", 0.3), ("vs", 0.1)):
        for seed, right in answers[loss].items():
            record = run(loss, seed, right)
            more = {"calibration_error": error + 0.001 * seed * error}
            records.append(replace(record, scores=document(record.scores.to_json() | more)))
    comparison = compare_runs(records)
    found = group_of(comparison, "vs").differences
    assert found["calibration_error"].verdict == "better"
    assert found["few"].at_chance != is_said
    html = page(comparison, records)
    assert ("Calibration error" in cards(html)) == is_said
    assert ("better in calibration error" in spaced(html)) == is_said


def test_what_is_told_elsewhere_explains_the_verdict():
    """A row without a verdict names the scores in which it is better or worse."""
    answers = {
        "softmax": arms((0.9, 0.7, 0.5)),
        "vs": arms((0.5, 0.7, 0.9), start=50),
    }
    comparison, html = shown(answers)
    found = group_of(comparison, "vs").differences
    assert [found[key].verdict for key in ("few", "balanced_accuracy", "many")] == [
        "better",
        "can't tell",
        "worse",
    ]
    assert "3 paired seeds worse in many" in spaced(html)


def test_the_seeds_that_would_tell_have_a_table():
    """It has the range of seeds of each main score, and the floor of the test images."""
    answers = {"softmax": arms((0.9, 0.7, 0.5)), "vs": arms((0.9, 0.7, 0.5), start=200)}
    comparison, html = shown(answers)
    found = group_of(comparison, "vs").differences
    few, overall = found["few"], found["balanced_accuracy"]
    assert few.seeds_needed == (None, None)  # 200 frogs are too few for 5 points
    fewest, most = overall.seeds_needed
    table = html[html.index('<table class="needs">') :].partition("</table>")[0]
    assert "a difference of 5 points would show" in table
    assert (
        f"2 vs more test images at least {100 * few.floor:.1f} points "
        f"{fewest} to {most} seeds in all at least {100 * overall.floor:.1f} points"
    ) in spaced(table)
    assert 'class="needs"' not in shown(OPEN, predicts=False)[1]  # seeds alone say nothing of it


def test_many_medium_few_name_their_classes():
    """A sentence and a column of the class table say which class is which."""
    text = spaced(shown(CLEAR)[1])
    assert "Many: cat (500 training images)." in text
    assert "Few: frog (6 training images)." in text
    assert re.search(r"frog few 6 \d", text)


def test_groups_with_other_counts_have_no_such_column(tmp_path):
    """Where a class is rare in one group and common in another, nobody says it is rare."""
    for loss, counts in (("softmax", [50, 5]), ("focal", [5, 50])):
        write_run(tmp_path, loss, loss=loss, scores=scores_of(["a", "b"], train_counts=counts))
    records = records_in(tmp_path)
    html = page(compare_runs(records), records)
    assert "training images of each group" in html
    assert 'class="shots"' not in html


def test_the_head_says_what_was_trained_on_what(tmp_path):
    """The data set by its name, images of each part, epochs and seeds, from the run folders."""
    names, counts = ("a", "b"), (300, 30)
    images = images_of(names, training=range(330), validation=range(400, 412), test=range(500, 560))
    for seed in range(3):
        logits = [[1.0, 0.0]] * 60
        more = {"dataset": "imbalanced", "factor": 0.1, "epochs": 7, "metrics": metrics_of(7)}
        more["augment"] = "trivial"
        write_predicting_run(tmp_path, f"r{seed}", images, logits, counts, seed=seed, **more)
    records = records_in(tmp_path)
    facts = summary(compare_runs(records), records)
    assert facts == {
        "Data set": "CIFAR-10, long-tailed (exp, factor 0.1)",
        "Training images": "330",
        "Validation images": "12",
        "Test images": "60",
        "Model": "paper-2d",
        "Augmentation": "trivial",
        "Epochs": "7",
        "Seeds": "0 to 2",
        "Runs": "3 scored",
    }
    (tmp_path / "r0" / "images.npz").write_bytes(b"PK")
    assert summary(compare_runs(records), records)["Validation images"] == "unknown"


def test_runs_of_other_programs_have_a_head_too(tmp_path):
    """What nobody told is left out or unknown: no data set, no epochs, no rare classes to plan."""
    for loss, wrong in (("softmax", 20), ("mine", 5)):
        for seed in range(3):
            rows = ((n // 30, (n // 30 + (n % 30 < wrong + seed)) % 2) for n in range(60))
            text = "".join(f"{label},{guess}\n" for label, guess in rows)
            (tmp_path / f"{loss}-s{seed}.csv").write_text(f"label,prediction\n{text}")
    records, _ = read_results(sorted(tmp_path.iterdir()))
    comparison = compare_runs(records)
    html = page(comparison, records)
    facts = summary(comparison, records)
    assert facts == {
        "Training images": "unknown",
        "Test images": "60",
        "Seeds": "0 to 2",
        "Runs": "6 scored in 2 groups",
        "Baseline": "softmax",
    }
    assert ">2 classes, 60 test images</bdi></h2>" in html
    assert "tested on 60 images; 95% intervals over seeds and test images." in words(Document(html))
    table = html[html.index('<table class="needs">') :].partition("</table>")[0]
    assert "Balanced accuracy" in table
    assert "Few" not in table


def test_every_data_set_has_its_real_name():
    """A choice of --dataset that nobody named would stand in the head as typed."""
    assert set(DATASET_NAMES) == set(get_args(Dataset))
