"""A budget that is too short for a study: what it is too short for, and what would do."""

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.reports.study_budget import smallest_lines, ways_out
from lmsm_cli.reports.study_plan import plan_lines
from lmsm_cli.sweeps import study_start
from tests.test_study import FLAGS, photos

COUNTS = [300, 150, 60, 20, 8]


def ways(share, **choices):
    """Return what would do where a budget allows that share of the trainings' time."""
    choices = {"dataset": "folder", "image_size": 96, "epochs": 40} | choices
    return ways_out(share, 7, Config(**choices), COUNTS)


def test_every_way_out_is_told_with_its_number():
    """By hand: 0.21 x 40 epochs, (32 / 96)^2 of the pixels, 3 x 28 + 20 + 8 of 538 images."""
    assert ways(0.21) == [
        "each of these would do, by an estimate:",
        "  --budget 7m",
        "  --epochs 8, of 40 (too few may teach little)",
        "  --image-size 32 --model resnet18, of 96",
        "  --images-per-class 28 --epochs 40, of 300 images in the largest class",
    ]
    assert sum(min(28, count) for count in COUNTS) <= 0.21 * sum(COUNTS)
    assert sum(min(29, count) for count in COUNTS) > 0.21 * sum(COUNTS)


def test_what_would_not_do_is_not_told():
    """The smallest images cannot be smaller; what leaves next to nothing teaches nothing."""
    assert not any("--image-size" in line for line in ways(0.21, image_size=32))
    assert not any("--image-size" in line for line in ways(0.2, image_size=64))
    assert ways(0.0) == ["what would do: --budget 7m"]


def test_the_smallest_study_is_told_by_its_parts():
    """Six nets of three arms in two folds, and two a side where test images decide."""
    parts = {"rounds": 225.0, "race": 50.0, "whole": 75.0}
    plan = {"folds": 2, "arms": 2, "pairs": 0}
    assert smallest_lines(plan, parts, 10) == [
        "the smallest study of these images takes about 5 min 50 s:",
        "  6 trainings of softmax and 2 losses: 3 min 45 s",
        "  10 last layers that race: 50.0 s",
        "  1 training on all training images: 1 min 15 s",
    ]
    more = smallest_lines(plan | {"arms": 1, "pairs": 3}, parts, 10)
    assert more[1].startswith("  4 trainings of softmax and 1 loss: ")
    assert more[3].startswith("  6 trainings on all training images: ")


@pytest.mark.parametrize("more", [(), ("--dry-run", "--json")])
def test_a_refused_budget_shows_the_smallest_study_first(tmp_path, monkeypatch, capsys, more):
    """On stderr, and the error in one sentence; stdout stays empty for programs."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    measured = {"seconds": 390.0, "bytes": 1, "free_bytes": 2, "device": "CPU"}
    monkeypatch.setattr(study_start, "_measured", lambda *_, **__: measured)
    flags = FLAGS.replace("--rounds 2+3", "--budget 5m").split()
    assert main(["study", "photos", *flags, *more]) == 2
    said = capsys.readouterr()
    assert not said.out
    lines = said.err.splitlines()
    first = next(line for line in lines if line.startswith("the smallest study of these images"))
    assert lines.index(first) == len(lines) - 6
    assert "what would do: --budget " in said.err
    assert lines[-1].startswith("error: a budget of 5 min 0 s does not allow one round: ")


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ((3,), "after round 3 it asks whether a loss is clearly better than softmax; if so, "),
        ((3, 5, 7), "after rounds 3, 5 and 7 it asks whether a loss is clearly better than "),
    ],
)
def test_a_plan_says_when_a_study_may_end(looks, said):
    """In a sentence that needs no statistics."""
    plan = {"folds": 2, "rounds": 7, "pairs": 0, "arms": 2, "expected_seconds": None}
    plan |= {"looks": looks, "epochs": None, "usual_epochs": None, "run_seconds": None}
    assert any(line.startswith(said) for line in plan_lines(plan, COUNTS, COUNTS, {}, 13))


@pytest.mark.parametrize(("seconds", "said"), [(None, "--rounds 3"), (9.0, "a larger --budget")])
def test_a_plan_of_few_rounds_says_what_gives_more(seconds, said):
    """That which gave these: no budget makes those of --rounds more."""
    plan = {"folds": 2, "rounds": 2, "pairs": 0, "arms": 2, "expected_seconds": None}
    plan |= {"looks": (), "epochs": None, "usual_epochs": None, "run_seconds": seconds}
    (line,) = [one for one in plan_lines(plan, COUNTS, COUNTS, {}, 13) if "too few rounds" in one]
    assert f"give {said}" in line


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([50, 46, 40], "about 136 held-out images over all classes: on these, differences below "),
        ([90, 50, 40], "about 40 held-out images of the rare classes: on these, differences below"),
        ([30, 18, 19], "about 67 held-out images over all classes: "),  # a verdict needs 20 images
    ],
)
def test_a_plan_tells_the_images_that_the_study_asks_about(counts, said):
    """Those of the rare classes, where some are and have images enough; else all, summed by hand.

    1.25 times as many images make no class rare.
    """
    plan = {"folds": 5, "rounds": 1, "pairs": 0, "arms": 2, "expected_seconds": None}
    plan |= {"looks": (), "epochs": None, "usual_epochs": None, "run_seconds": None}
    trained = [int(0.72 * count) for count in counts]
    assert any(line.startswith(said) for line in plan_lines(plan, counts, trained, {}, 13))
