"""What a correction does on validation images: by hand, on a short training, without data."""

import shlex

import numpy as np
import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.inference import effect
from lmsm_cli.inference.corrected_file import write_corrected
from lmsm_cli.inference.correction import RequestedCorrection, corrected
from lmsm_cli.inference.effect import check_up, paired_difference
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.reports.tables_corrections import effect_line
from lmsm_cli.runs import checkpoint
from lmsm_cli.training.run import start_run
from tests.conftest import (
    SilentDisplay,
    asked,
    digits_config,
    evaluate,
    plain_state,
    printed_json,
    write_class_folders,
)

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on long-tailed digits that was trained for too short a time."""
    values = {"factor": 0.1, "loss": "softmax", "epochs": 1, "lr": 0.0005}
    config = digits_config(tmp_path_factory.mktemp("runs"), **values)
    return start_run(config, SilentDisplay(), with_plots=False).path


def checked(run, **wanted):
    """Return what a correction does on validation images, and the warnings."""
    display = SilentDisplay()
    request = RequestedCorrection(asked(**wanted))
    found = corrected(read_trained(run), request, "cpu", display)
    return check_up(found, "cpu", display), display.warned


def difference(changes, prior=None):
    """Return the difference of answers: (class, right before, right after) of each image."""
    labels, before, after = np.array(changes).T
    answers = [np.where(right, labels, 1 - labels) for right in (before, after)]
    return paired_difference(labels, *answers, CLASSES, prior)


def test_a_difference_by_hand():
    """30 cats of which 10 fall, 30 dogs of which 2 come: (-10 + 2) / 30 / 2, and t of 58."""
    cats = [(0, 1, 0)] * 10 + [(0, 1, 1)] * 20
    dogs = [(1, 0, 1)] * 2 + [(1, 0, 0)] * 28
    found = difference(cats + dogs)
    assert (found.score, found.images) == ("balanced_accuracy", 60)
    assert (found.before, found.after) == pytest.approx((0.5, (20 / 30 + 2 / 30) / 2))
    assert found.mean == pytest.approx(-8 / 60)
    # sample variances of a share p of n changed images: n p (1 - p) / (n - 1)
    variance = sum(0.25 * (p * (1 - p) * 30 / 29) / 30 for p in (1 / 3, 1 / 15))
    half = 2.001717 * variance**0.5  # the 97.5% point of Student's t with 58 degrees
    assert (found.low, found.high) == pytest.approx((-8 / 60 - half, -8 / 60 + half), rel=1e-5)
    assert found.verdict == "worse"
    turned = [(label, after, before) for label, before, after in cats + dogs]
    assert difference(turned).verdict == "better"
    # for a place with one cat among a hundred, the two dogs weigh more
    prior = {"dog": 0.99, "cat": 0.01}
    rare = difference(cats + dogs, prior)
    assert rare.score == "accuracy_at_prior"
    assert rare.mean == pytest.approx(0.99 * 2 / 30 - 0.01 * 10 / 30)
    assert rare.verdict == "can't tell"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([(0, 1, 0)] * 20 + [(1, 1, 1)] * 20, "worse"),  # all cats fall: nothing varies
        ([(0, 1, 0)] * 5 + [(1, 1, 1)] * 35, "can't tell"),  # five images may be chance
        ([(0, 1, 0)] * 9 + [(1, 1, 1)] * 9, "can't tell"),  # of too few images
        ([(0, 1, 1)] * 20 + [(1, 0, 0)] * 20, "can't tell"),  # no image changes
        ([(0, 1, 0)] * 3 + [(0, 0, 1)] * 3 + [(1, 1, 1)] * 34, "can't tell"),
    ],
)
def test_what_chance_explains_is_not_told(changes, verdict):
    """A verdict takes 20 images, six that changed, and an interval without 0, if there is one."""
    assert difference(changes).verdict == verdict


def test_a_class_of_one_image_has_no_part_in_the_interval():
    """Its image counts in the scores, and it is named; a class without images has no part."""
    cats = [(0, 1, 0)] * 10 + [(0, 1, 1)] * 20
    found = difference([*cats, (1, 0, 1)])
    assert found.classes_of_one_image == ("dog",)
    assert (found.before, found.after) == pytest.approx((0.5, (20 / 30 + 1) / 2))
    assert found.mean == pytest.approx(-1 / 3)
    assert difference([*cats, (1, 0, 0)]).verdict == "worse"
    assert difference(cats).before == 1.0
    # one dog that comes outweighs the cats that fall: what that says of others nobody knows
    assert (found.after > found.before, found.verdict) == (True, "can't tell")
    alone = difference([(1, 0, 1)])
    assert (alone.after, alone.mean, alone.verdict) == (1.0, None, "can't tell")


def test_a_correction_that_ruins_a_classifier_is_warned_of(run, tmp_path, capsys):
    """The scores are those of eval on validation images, and the best tau on them is named."""
    file = tmp_path / "c.pt"
    assert main(["adjust", str(run), "--adjust", "1", "--out", str(file), "--quiet"]) == 0
    told = capsys.readouterr()
    out, warning = told.out, " ".join(told.err.split())
    scores = evaluate(run, SilentDisplay(), split="validation", adjust=1.0)
    before, after = (
        f"{100 * one['balanced_accuracy']:.1f}"
        for one in (scores["adjustment"]["unadjusted"], scores)
    )
    best = evaluate(run, SilentDisplay(), adjust="auto")["adjustment"]
    assert f"balanced accuracy is {after} % in place of {before} %" in warning
    reached = f"{100 * best['chosen_on']['balanced_accuracy']:.1f}"
    finds = (
        f"take --adjust auto, which finds tau {best['tau']:g} here ({reached} %), or train longer"
    )
    none = "--adjust auto would find no tau that does better on them: train longer"
    assert (finds if best["tau"] else none) in warning
    images = scores["adjustment"]["difference"]["images"]
    assert f"What logit adjustment did on {images} validation images" in out
    assert out.splitlines()[-1].endswith(": worse")
    assert file.exists()


def test_the_effect_is_in_the_json(run, tmp_path, capsys):
    """As the words, and with the scores of eval."""
    out = ["--out", tmp_path / "c.pt", "--quiet"]
    document = printed_json(capsys, "adjust", run, "--adjust", "1", *out)
    scores = evaluate(run, SilentDisplay(), split="validation", adjust=1.0)
    told = document["effect"]
    assert document["not_checked"] is None
    assert told["unadjusted"] == scores["adjustment"]["unadjusted"]
    assert told["adjusted"] == {key: scores[key] for key in told["adjusted"]}
    assert told["difference"] == scores["adjustment"]["difference"]
    assert (told["difference"]["verdict"], told["chooses"]) == ("worse", None)


def test_a_chosen_tau_is_not_called_better(run, monkeypatch):
    """On the images that chose it anything looks good, and that is said."""
    better = difference([(0, 0, 1)] * 20 + [(1, 1, 1)] * 20)
    assert better.verdict == "better"
    monkeypatch.setattr(effect, "paired_difference", lambda *given: better)
    found, warned = checked(run, adjust="auto")
    assert (found.effect.chooses, found.effect.difference.verdict) == ("tau", "can't tell")
    assert warned == []
    assert checked(run, adjust=1.0)[0].effect.difference.verdict == "better"


def test_a_fitted_temperature_takes_no_verdict_back(run, monkeypatch):
    """It changes no answer, so the images that it was fitted on tell of the tau as any would."""
    better = difference([(0, 0, 1)] * 20 + [(1, 1, 1)] * 20)
    monkeypatch.setattr(effect, "paired_difference", lambda *given: better)
    request = RequestedCorrection(asked(adjust=1.0), temperature="auto")
    found = corrected(read_trained(run), request, "cpu", SilentDisplay())
    told = check_up(found, "cpu", SilentDisplay()).effect
    assert (told.chooses, told.difference.verdict) == ("the temperature", "better")
    assert "flatters" not in effect_line(told)


def test_eval_warns_too(run):
    """On test images, which choose no tau."""
    display = SilentDisplay()
    evaluate(run, display, adjust=1.0)
    (text,) = display.warned
    assert "on these 599 images its balanced accuracy is" in text
    assert "take --adjust auto, which chooses tau on the validation images" in text


def test_predict_says_what_it_does_not_check(run, tmp_path, capsys):
    """It needs no data for a given tau, so a line names the command that shows the scores."""
    write_class_folders(tmp_path, ["x"], 1, size=8)
    assert main(["predict", str(run), str(tmp_path / "x"), "--adjust", "1"]) == 0
    assert f"give the same flags to `lmsm eval {run}" in capsys.readouterr().err.replace("\n", "")


def test_export_tells_what_the_correction_does(run, tmp_path, capsys):
    """As adjust does; a file without a correction has no such keys."""
    words = ["export", run, "--images", "9", "--format", "torch", "--out", tmp_path / "m.pt2", "-q"]
    document = printed_json(capsys, *words, "--adjust", "1")
    assert document["effect"]["difference"]["verdict"] == "worse"
    assert "effect" not in printed_json(capsys, *words)


def without_validation(run, tmp_path):
    """Write the run's checkpoint as one that held nothing out."""
    state = plain_state(run / "checkpoint.pt")
    state["config"]["validation"] = 0.0
    checkpoint.save(state, tmp_path / "c.pt")
    return tmp_path / "c.pt"


def test_without_validation_images_that_is_said(run, tmp_path, capsys):
    """The file is written all the same, and the command is named that shows the test images."""
    place = tmp_path / "my runs"
    place.mkdir()
    file = without_validation(run, place)
    assert main(["adjust", str(file), "--adjust", "1"]) == 0
    wanted = (
        "what this does to the scores was not checked: the run held out no validation images; "
        f"`lmsm eval {shlex.quote(str(place / 'adjusted.pt'))}` shows it on the test images"
    )
    assert capsys.readouterr().out.splitlines()[-1] == wanted


def test_without_the_data_that_is_said(tmp_path):
    """Images that are gone stop no given tau, and what would be downloaded is not."""
    for label, name in enumerate(("ant", "bee")):
        write_class_folders(tmp_path / "data", [name], 30 - 15 * label, size=12)
    choices = {"dataset": "folder", "data_dir": tmp_path / "data", "image_size": 12}
    choices |= {"imbalance": "none", "factor": 1.0, "model": "paper-2d", "epochs": 1}
    config = digits_config(tmp_path / "runs", loss="softmax", batch_size=8, **choices)
    path = start_run(config, SilentDisplay(), with_plots=False).path
    wanted = RequestedCorrection(asked(adjust=1.0))
    there = write_corrected(path, wanted, SilentDisplay())
    assert there["effect"]["num_images"] > 0
    (tmp_path / "data").rename(tmp_path / "gone")
    gone = write_corrected(path, wanted, SilentDisplay())
    assert gone["effect"] is None
    assert str(tmp_path / "data") in gone["not_checked"]
    again = write_corrected(path, wanted, SilentDisplay(), data_dir=tmp_path / "gone")
    assert again["effect"] == there["effect"]
    state = plain_state(path / "checkpoint.pt")
    state["config"] |= {"dataset": "cifar10", "data_dir": str(tmp_path / "none")}
    checkpoint.save(state, tmp_path / "c.pt")
    found = write_corrected(tmp_path / "c.pt", wanted, SilentDisplay())
    assert found["not_checked"].startswith("cifar10 is not below")
    assert not (tmp_path / "none").exists()


def test_the_classifier_stays_corrected(run):
    """The look at the images takes the correction out of a copy alone."""
    found = corrected(
        read_trained(run), RequestedCorrection(asked(adjust=1.0)), "cpu", SilentDisplay()
    )
    shift = found.trained.model.logit_shift.clone()
    check_up(found, "cpu", SilentDisplay())
    assert torch.equal(found.trained.model.logit_shift, shift)
