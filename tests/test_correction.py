"""Corrections that a classifier has built in: by hand, in every command alike, and in files."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.commands.corrections import read_correction
from lmsm_cli.errors import CheckpointError, DataError, LmsmError
from lmsm_cli.inference.corrected_file import write_corrected
from lmsm_cli.inference.correction import (
    RequestedCorrection,
    check,
    corrected,
    held_by_scores,
    made,
)
from lmsm_cli.inference.coverage import answered_above, sureness_for
from lmsm_cli.inference.predict import predict_files
from lmsm_cli.inference.prior import shares_of
from lmsm_cli.inference.temperature import fit_temperature
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.models.affine import Affine
from lmsm_cli.runs import checkpoint
from lmsm_cli.training.run import start_run
from tests.conftest import (
    SilentDisplay,
    asked,
    digits_config,
    evaluation,
    plain_state,
    printed_json,
    save,
    write_class_folders,
)

CLASSES = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a softmax run on long-tailed digits, of factor 0.05."""
    config = digits_config(tmp_path_factory.mktemp("runs"), factor=0.05, loss="softmax")
    return start_run(config, SilentDisplay(), with_plots=False).path


def uint8_images(found):
    """Return the images of an evaluation as a classifier takes them, (N, C, H, W)."""
    return found.labelled.images.permute(0, 3, 1, 2).contiguous()


def test_a_map_by_hand():
    """Each class has its own factor and shift; one map after another is the one of both."""
    first = Affine(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    second = Affine(torch.tensor([0.25, 3.0]), torch.tensor([0.0, -1.0]))
    logits = torch.tensor([[3.0, 5.0], [-1.0, 0.0]])
    assert first.of(logits).tolist() == [[7, 5], [-1, 0]]
    assert first.then(second).of(logits).tolist() == [[1.75, 14], [-0.25, -1]]
    assert second.of(first.of(logits)).tolist() == [[1.75, 14], [-0.25, -1]]
    for scale, shift in ((0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, math.inf), (1e39, 0.0)):
        with pytest.raises(LmsmError, match="leave the range"):
            Affine(torch.tensor([scale, 1.0]).double(), torch.tensor([shift, 0.0]).double())


def test_a_temperature_by_hand():
    """Odds of 3 to 1 in truth, and logits 8 apart: the best temperature is 8 / ln 3."""
    logits = torch.tensor([[8.0, 0.0]] * 4)
    fit = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert fit.temperature == pytest.approx(8 / math.log(3), rel=1e-4)
    assert fit.cross_entropy == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    assert fit.cross_entropy_at_1 == pytest.approx((4 * math.log(1 + math.exp(8)) - 24) / 4)
    # the second class counts three times: even odds, which no finite temperature gives
    with pytest.raises(LmsmError, match="the logits tell nothing of their classes"):
        fit_temperature(logits, torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 3.0]))
    with pytest.raises(LmsmError, match=r"no temperature fits the 4 .* every one of them is right"):
        fit_temperature(logits, torch.tensor([0, 0, 0, 0]))


def test_a_temperature_is_that_of_another_search():
    """SciPy's Nelder-Mead over the weighted cross-entropy of NumPy finds the same."""
    draw = np.random.default_rng(0)
    labels, weights = draw.integers(0, 4, 300), np.array([1.0, 2.0, 0.5, 4.0])
    logits = 3 * draw.normal(size=(300, 4)) + 4 * np.eye(4)[labels]

    def entropy(log_temperature):
        shares = log_softmax(logits / math.exp(log_temperature[0]), axis=1)
        own = weights[labels]
        return -(own * shares[np.arange(300), labels]).sum() / own.sum()

    wanted = math.exp(minimize(entropy, [0.0], method="Nelder-Mead", tol=1e-9).x[0])
    given = (torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(weights))
    assert fit_temperature(*given).temperature == pytest.approx(wanted, rel=1e-4)


def test_shares_by_hand(tmp_path):
    """Uniform, named, and counted in folders; shares rounded to three digits become shares."""
    assert shares_of("uniform", ["cat", "dog"]) == {"cat": 0.5, "dog": 0.5}
    named = shares_of({"dog": 0.333, "cat": 0.666}, ["cat", "dog"])
    assert list(named) == ["cat", "dog"]
    assert named == {"cat": pytest.approx(2 / 3), "dog": pytest.approx(1 / 3)}
    write_class_folders(tmp_path, ["cat"], 6)
    write_class_folders(tmp_path, ["dog"], 2)
    assert shares_of(tmp_path, ["dog", "cat"]) == {"dog": 0.25, "cat": 0.75}


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"cat": 0.7, "bird": 0.3}, "the model has no class bird; its classes are cat, dog"),
        ({"cat": 1.0}, "no share of dog; every class of the model needs one above 0"),
        ({"cat": 1.0, "dog": 0.0}, "a share lies above 0 and is at most 1, not dog 0"),
        ({"cat": 1.2, "dog": -0.2}, "not cat 1.2, dog -0.2"),
        ({"cat": math.nan, "dog": 0.5}, "not cat nan"),
        ({"cat": 0.7, "dog": 0.2}, "the shares add up to 0.9; make them add up to 1"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(shares, told):
    """The message names what is wrong, and a folder without a class is bad data."""
    with pytest.raises(LmsmError, match=told):
        shares_of(shares, ["cat", "dog"])


def test_a_folder_of_other_classes_is_bad_data(tmp_path):
    """Its classes are the model's, each with an image."""
    write_class_folders(tmp_path, ["cat", "cow"], 1)
    with pytest.raises(DataError, match="the model has no class cow"):
        shares_of(tmp_path, ["cat", "dog"])


def test_what_is_sure_enough_by_hand():
    """Of confidences .9 .8 .7 .6 and .5 three fifths reach .7; of three answers two are right."""
    sure, guesses = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, 1, 0, 1, 0])
    assert sureness_for(sure, 0.6) == 0.7
    assert sureness_for(sure, 0.61) == 0.6
    assert [sureness_for(sure, share) for share in (0.01, 1.0)] == [0.9, 0.5]
    assert sureness_for(np.repeat(sure, 20), 0.57) == 0.7  # 57.00000000000001 of 100
    found = answered_above(0.7, guesses, sure, np.array([0, 1, 1, 1, 1]))
    assert found == {
        "answered": 0.6,
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": pytest.approx((1 + 1 / 2) / 2),
    }
    none = answered_above(0.95, guesses, sure, np.zeros(5, int))
    assert none == {"answered": 0.0, "accuracy": None, "balanced_accuracy": None}


def test_every_part_by_hand(run):
    """Adjustment, class shares and temperature, each alone and all together, in that order."""
    trained = read_trained(run)
    pi = np.array(trained.state.train_counts) / sum(trained.state.train_counts)
    q = dict(zip(CLASSES, (0.55, *[0.05] * 9), strict=True))
    log_q, z = np.log(list(q.values())), np.random.default_rng(0).normal(size=(4, 10))
    norms = np.linalg.norm(trained.model.head.weight.detach().numpy(), axis=1)
    for wanted, by_hand in (
        (RequestedCorrection(asked(adjust=1.5)), z - 1.5 * np.log(pi)),
        (RequestedCorrection(asked(tau_norm=0.5)), z / norms**0.5),
        (RequestedCorrection(None, q), z + log_q - np.log(pi)),
        (RequestedCorrection(None, "uniform"), z - np.log(pi) - math.log(10)),
        (RequestedCorrection(None, None, 2.5), z / 2.5),
        (RequestedCorrection(asked(adjust=1.5), q, 4.0), (z - 1.5 * np.log(pi) + log_q) / 4),
    ):
        found = made(check(trained, wanted, SilentDisplay()), None).affine.of(torch.from_numpy(z))
        np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tau", "left"), [(0.6, 0.4), (2.0, -1.0)])
def test_shares_take_out_only_what_the_training_left_in(run, tmp_path, tau, left):
    """After a loss with tau 0.6 0.4 of the log shares of the training are left, after 2 -1."""
    state = plain_state(run / "checkpoint.pt")
    state["config"]["loss"] = f"vs:tau={tau}"
    checkpoint.save(state, tmp_path / "c.pt")
    trained = read_trained(tmp_path / "c.pt")
    checked = check(trained, RequestedCorrection(None, "uniform"), SilentDisplay())
    pi = np.array(state["train_counts"]) / sum(state["train_counts"])
    shift = made(checked, None).affine.shift.numpy()
    np.testing.assert_allclose(shift - shift[0], -left * np.log(pi / pi[0]))


def weights_by_hand(counts, beta):
    """Return the inverse effective numbers of images (Cui et al. 2019), up to a factor."""
    return (1 - beta) / (1 - beta ** np.array(counts, float))


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"reweight": "effective", "reweight_beta": 0.9}, lambda n: n * weights_by_hand(n, 0.9)),
        ({"reweight": "effective"}, lambda n: n * weights_by_hand(n, 0.9999)),
        ({"reweight": "inverse"}, lambda n: np.ones(10)),
        ({"class_weights": {"3": 10.0}}, lambda n: n * np.where(np.arange(10) == 3, 10, 1)),
        ({"sampling": "balanced"}, lambda n: np.ones(10)),
        ({"sampling": "balanced", "loss": "logit-adjusted"}, lambda n: 1 / n),
        ({"reweight": "inverse", "rebalance_from": 5, "epochs": 6}, lambda n: n),
    ],
)
def test_shares_take_out_what_weights_and_draws_left_in(run, tmp_path, changes, held):
    """Weighted cross-entropy is fit at shares times weights, and balanced draws are even shares."""
    state = plain_state(run / "checkpoint.pt")
    state["config"] |= changes
    checkpoint.save(state, tmp_path / "c.pt")
    trained = read_trained(tmp_path / "c.pt")
    wanted = np.log(held(np.array(state["train_counts"], float)))
    found = held_by_scores(trained).numpy()
    np.testing.assert_allclose(found - found[0], wanted - wanted[0], atol=1e-5)
    prior = dict(zip(CLASSES, (0.55, *[0.05] * 9), strict=True))
    shift = made(check(trained, RequestedCorrection(None, prior), SilentDisplay()), None)
    moved = np.log(list(prior.values())) - wanted
    by_hand = shift.affine.shift.numpy()
    np.testing.assert_allclose(by_hand - by_hand[0], moved - moved[0], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"adjust": 1.0}, {"prior": dict.fromkeys(CLASSES, 0.1)}])
def test_a_temperature_is_fitted_for_the_shares_that_the_scores_are_for(run, options):
    """As the validation images are without a correction, all classes alike after these two."""
    held_out = evaluation(run, SilentDisplay(), split="validation", **options)
    labels = held_out.labelled.labels
    weights = torch.ones(10) if not options else 1 / torch.bincount(labels, minlength=10)
    wanted = fit_temperature(torch.from_numpy(held_out.logits), labels, weights)
    told = evaluation(run, SilentDisplay(), temperature="auto", **options).scores.adjustment
    assert told.temperature == pytest.approx(wanted.temperature, rel=1e-4)
    assert told.fitted_on.cross_entropy == pytest.approx(wanted.cross_entropy, rel=1e-4)


def test_a_correction_that_would_be_the_second_is_refused(run, tmp_path):
    """Shares that the scores are for already, tau-normalisation with shares, a corrected file."""
    trained, display = read_trained(run), SilentDisplay()
    with pytest.raises(LmsmError, match="--prior changes nothing here"):
        check(trained, RequestedCorrection(asked(adjust=1.0), "uniform"), display)
    with pytest.raises(LmsmError, match="both correct for the shares of the classes"):
        check(trained, RequestedCorrection(asked(tau_norm=1.0), "uniform"), display)
    file = tmp_path / "c.pt"
    write_corrected(run, RequestedCorrection(asked(adjust=1.0)), display, out=file)
    for wanted in (RequestedCorrection(asked(adjust=1.0)), RequestedCorrection(None, None, 2.0)):
        with pytest.raises(LmsmError, match="has a correction built in"):
            check(read_trained(file), wanted, display)


def test_every_command_gives_the_answers_of_eval(run, tmp_path):
    """predict, and the file that adjust writes: the same classes with the same shares."""
    wanted = RequestedCorrection(asked(adjust="auto"), None, "auto")
    found = evaluation(run, SilentDisplay(), adjust="auto", temperature="auto")
    images = uint8_images(found)[:200]
    file = tmp_path / "adjusted.pt"
    document = write_corrected(run, wanted, SilentDisplay(), out=file)
    told = found.scores.to_json()["adjustment"]
    assert document["correction"] == {
        key: value
        for key, value in told.items()
        if key not in ("unadjusted", "is_built_in", "difference")
    }
    loaded = load_checkpoint(file)
    with torch.no_grad():
        shares = loaded(images).softmax(1).numpy()
    of_eval = softmax(found.logits, axis=1)
    np.testing.assert_allclose(shares, of_eval[:200], atol=1e-5)
    assert np.array_equal(loaded.predict(images), found.predictions[:200])
    plain = load_checkpoint(run).predict(images)
    assert not np.array_equal(plain, found.predictions[:200])
    again = evaluation(file, SilentDisplay(), images=None, data_dir=tmp_path)
    assert again.scores.to_json()["adjustment"] == told | {"is_built_in": True}
    assert np.array_equal(again.predictions, found.predictions)
    names = [tmp_path / f"{number}.png" for number in range(20)]
    for name, pixels in zip(names, images, strict=False):
        Image.fromarray(pixels[0].numpy()).save(name)
    given = predict_files(read_trained(run), names, SilentDisplay(), correction=wanted)
    assert given.correction == document["correction"]
    for one, row in zip(given.images, of_eval, strict=False):
        assert one.likeliest[0] == (CLASSES[row.argmax()], pytest.approx(row.max(), abs=1e-5))


def test_a_scale_that_is_built_in_is_of_the_validation_images(run, tmp_path):
    """Answers of single images must not depend on which other images are with them."""
    wanted = RequestedCorrection(asked(scaled=0.05))
    trained = corrected(read_trained(run), wanted, "cpu", SilentDisplay()).trained
    held_out = evaluation(run, SilentDisplay(), scaled=0.05, split="validation").scores.to_json()
    assert trained.correction.facts.scale == pytest.approx(held_out["adjustment"]["scale"])
    state = plain_state(run / "checkpoint.pt")
    state["config"]["validation"] = 0.0
    checkpoint.save(state, tmp_path / "c.pt")
    with pytest.raises(LmsmError, match=r"no validation images .* to measure the scale"):
        corrected(read_trained(tmp_path / "c.pt"), wanted, "cpu", SilentDisplay())
    for auto in (
        RequestedCorrection(None, None, "auto"),
        RequestedCorrection(asked(adjust="auto")),
    ):
        with pytest.raises(LmsmError, match=r"no validation images .* give a number instead"):
            corrected(read_trained(tmp_path / "c.pt"), auto, "cpu", SilentDisplay())


def test_a_temperature_changes_no_class(run):
    """After any other correction too; fitted ones lower the cross-entropy of validation images."""
    for options in ({}, {"adjust": 1.0}, {"prior": "uniform"}):
        plain = evaluation(run, SilentDisplay(), **options)
        for temperature in ("auto", 0.2, 7.0):
            found = evaluation(run, SilentDisplay(), temperature=temperature, **options)
            assert np.array_equal(found.predictions, plain.predictions)
        fit = evaluation(run, SilentDisplay(), temperature="auto", **options).scores.adjustment
        assert fit.fitted_on.cross_entropy < fit.fitted_on.cross_entropy_at_1


def test_thousand_real_images_get_the_classes_of_eval(run, tmp_path, capsys):
    """`predict --adjust 1` and an exported adjusted ONNX: those that `eval --adjust 1` scores."""
    digits, folder, out = load_digits(), tmp_path / "images", tmp_path / "net.onnx"
    pixels = np.rint(digits.images[:1000] * 255 / 16).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=False)):
        save(folder / str(label) / f"{number:04}.png", image)
    found = evaluation(run, SilentDisplay(), images=folder, adjust=1.0)
    wanted = dict(zip(found.labelled.places.tolist(), found.predictions.tolist(), strict=True))
    assert len(wanted) == 1000
    words = ["predict", str(run), str(folder), "--adjust", "1", "--json", "-q"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)["images"]
    predicted = {
        os.fsencode(os.path.relpath(one["file"], folder)): int(one["predictions"][0]["class"])
        for one in told
    }
    assert predicted == wanted
    words = ["export", str(run), "--adjust", "1", "--images", "9", "-q", "--out", str(out)]
    assert main(words) == 0
    session, images = onnxruntime.InferenceSession(out), uint8_images(found).numpy()
    (logits,) = session.run(["logits"], {"images": images})
    assert logits.argmax(1).tolist() == found.predictions.tolist()
    metadata = {p.key: p.value for p in onnx.load(out).metadata_props}
    facts = {"method": "adjust", "tau": 1.0, "scale": None, "chosen_on": None}
    assert json.loads(metadata["correction"]) == facts
    plain = load_checkpoint(run).predict(torch.from_numpy(images)).numpy()
    assert (plain != found.predictions).sum() > 20  # so that the correction is seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_temperature_calibrates_an_overfitted_net(tmp_path, seed):
    """Trained on 120 digits at a high rate, it claims too much; fitted on held-out ones, less."""
    choices = {"imbalance": "none", "factor": 1.0, "epochs": 8, "lr": 0.1, "validation": 0.9}
    config = digits_config(tmp_path, loss="softmax", augment="none", seed=seed, **choices)
    path = start_run(config, SilentDisplay(), with_plots=False).path
    plain = evaluation(path, SilentDisplay())
    found = evaluation(path, SilentDisplay(), temperature="auto")
    assert found.scores.adjustment.temperature > 1
    assert found.scores.calibration_error < plain.scores.calibration_error
    assert found.scores.adjustment.unadjusted.calibration_error == plain.scores.calibration_error
    assert np.array_equal(found.predictions, plain.predictions)


def test_coverage_is_chosen_on_validation_images(run):
    """The confidence is the quantile of theirs; what is then right is of the test images."""
    held_out = evaluation(run, SilentDisplay(), split="validation")
    test = evaluation(run, SilentDisplay(), coverage=0.7)
    told = test.scores.coverage
    shares = np.sort(softmax(held_out.logits, axis=1).max(1))
    confidence = shares[-math.ceil(0.7 * len(held_out.labelled))]
    assert told.confidence == pytest.approx(confidence)
    sure = softmax(test.logits, axis=1).max(1) >= told.confidence
    right = test.predictions == test.labelled.labels.numpy()
    assert (told.chosen_on, told.answered) == ("validation", pytest.approx(sure.mean()))
    assert told.accuracy == pytest.approx(right[sure].mean())
    assert told.accuracy > test.scores.accuracy
    same = evaluation(run, SilentDisplay(), split="validation", coverage=0.7).scores.coverage
    assert (same.chosen_on, same.confidence) == ("these images", pytest.approx(confidence))


def test_a_share_of_images_is_chosen_where_all_are_sure(run):
    """Of logits a thousand times as large, whose probabilities are 1, it takes the share asked for:
    those whose highest logit is furthest above the second.
    """
    found = evaluation(run, SilentDisplay(), temperature=0.001, split="validation", coverage=0.7)
    told, count = found.scores.coverage, len(found.labelled)
    assert (np.float32(told.confidence), told.answered) == (1, math.ceil(0.7 * count) / count)
    gaps = np.diff(np.sort(found.logits.astype(float))[:, -2:])[:, 0]
    assert told.log_odds == pytest.approx(np.quantile(gaps, 0.3, method="higher"), rel=0.01)
    right = found.predictions == found.labelled.labels.numpy()
    surest = np.argsort(-gaps)[: math.ceil(0.7 * count)]
    assert told.accuracy == pytest.approx(right[surest].mean())


def test_a_run_does_not_go_on_from_a_corrected_file(run, tmp_path, capsys):
    """adjust overwrites no file of the run, and resume refuses a corrected one that lies there."""
    folder = shutil.copytree(run, tmp_path / "run")
    assert main(["adjust", str(folder), "--adjust", "1", "-q"]) == 0
    for name in ("checkpoint.pt", "best.pt", "adjusted.pt"):
        words = ["adjust", str(folder), "--adjust", "1", "--out", str(folder / name)]
        assert main(words) == (0 if name == "adjusted.pt" else 2)
    for name in ("checkpoint.pt", "best.pt"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    (folder / "adjusted.pt").replace(folder / "checkpoint.pt")
    assert main(["resume", str(folder), "--epochs", "5"]) == 4
    assert "has a correction built in, and no training goes on from it" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scale": torch.ones(9).double()}, "correction is not two numbers for each class"),
        ({"shift": torch.zeros(10)}, "correction is not two numbers for each class"),
        ({"scale": torch.zeros(10).double()}, "a scale that is not above 0"),
        ({"shift": torch.full((10,), math.nan).double()}, "numbers that are not finite"),
        ({"shift": torch.full((10,), 1e300, dtype=torch.float64)}, "leave the range of float32"),
        ({"facts": {"temperature": -1.0}}, "correction.facts"),
        ({"facts": None}, "correction.facts"),
    ],
)
def test_a_strangers_correction_is_checked(run, tmp_path, change, told):
    """Wrong sizes, numbers that are none, and facts that make no sense: exit code 4."""
    write_corrected(
        run, RequestedCorrection(asked(adjust=1.0)), SilentDisplay(), out=tmp_path / "c.pt"
    )
    state = plain_state(tmp_path / "c.pt")
    assert state["schema"] == checkpoint.CORRECTED  # which an lmsm without corrections refuses
    state["correction"] |= change
    checkpoint.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adjust", "none.pt"], "nothing to correct by: give --adjust, --tau-norm, --prior or"),
        (["adjust", "none.pt", "--temperature", "0"], "'0': give a number above 0, or auto"),
        (["eval", "none.pt", "--temperature", "hot"], "'hot': give a number above 0, or auto"),
        (["eval", "none.pt", "--coverage", "90"], "above 0 and at most 1, such as 0.9"),
        (["eval", "none.pt", "--prior", "unifrm"], "(did you mean 'uniform'?)"),
        (["export", "none.pt", "--prior", "cat=x"], "could not convert string to float"),
        (["export", "none.pt", "--adjust", "1", "--tau-norm", "1"], "exclude each other"),
    ],
)
def test_bad_flags_are_told_before_work(capsys, words, told):
    """Exit code 2 and one message, though there is no checkpoint."""
    assert main(words) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_shares_are_no_folder(tmp_path, monkeypatch):
    """Those of 100 classes are longer than a folder's name can be, and `uniform` is a word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uniform").mkdir()
    shares = {f"class {number}": 0.01 for number in range(100)}
    text = ",".join(f"{name}={share}" for name, share in shares.items())
    assert read_correction(None, None, text, None).prior == shares
    assert read_correction(None, None, "uniform", None).prior == "uniform"
    assert read_correction(None, None, "./uniform", None).prior == Path("uniform")


def test_the_words_of_each_command(run, tmp_path, capsys):
    """adjust, eval and export say what corrects; predict's JSON holds it."""
    file = str(tmp_path / "c.pt")
    assert main(["adjust", str(run), "--adjust", "1", "--temperature", "2", "--out", file]) == 0
    lines = ["logit adjustment with tau 1, as given"]
    lines.append("logits divided by the temperature 2, as given")
    assert capsys.readouterr().out.splitlines()[1:3] == lines
    assert main(["eval", file, "--coverage", "0.8", "-q"]) == 0
    *_, first, second, third = capsys.readouterr().out.splitlines()
    assert [first, second] == lines
    assert third.startswith("sure enough at a confidence of ")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    told = printed_json(capsys, "predict", file, tmp_path / "x.png", "-q")["correction"]
    assert (told["method"], told["tau"], told["temperature"]) == ("adjust", 1.0, 2.0)
