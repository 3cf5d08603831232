"""`--adjust scaled:TAU`: logit adjustment with tau in units of the scale of the logits."""

import math

import numpy as np
import pytest
import torch

from lmsm_cli.errors import DivergedError, LmsmError
from lmsm_cli.inference import own_images
from lmsm_cli.inference.adjust import ByTau, choose_tau, logit_adjustment
from lmsm_cli.models.affine import Affine
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.training.evaluate import scores_and_scale_of, scores_of
from lmsm_cli.training.run import start_run
from tests.conftest import (
    SilentDisplay,
    batch_at,
    digits_config,
    evaluate,
    evaluation,
    head_with,
    plain_state,
)
from tests.test_resume import resumed, stopped

COUNTS = [300, 120, 50, 20, 8]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a softmax run on long-tailed digits, of factor 0.05."""
    config = digits_config(tmp_path_factory.mktemp("runs"), factor=0.05, loss="softmax")
    return start_run(config, SilentDisplay(), with_plots=False).path


def with_weights_times(run, factor, path):
    """Write the run's checkpoint with its class weights multiplied by a factor to a new file."""
    state = plain_state(run / "checkpoint.pt")
    state["model"]["head.weight"] *= factor
    checkpoint.save(state, path)
    return path


def test_by_hand():
    """Scale 20, tau 0.05, shares 0.9 and 0.1: the scores are z - ln 0.9 and z - ln 0.1.

    The rare class gains ln 9 = 2.197; from tau 0.05 on it beats a lead of 2.19, and of 2.2 not yet.
    """
    logits = torch.tensor([[2.19, 0.0], [2.2, 0.0]])
    correction = logit_adjustment([90, 10]).in_units_of(20.0)
    wanted = [[2.19 - math.log(0.9), -math.log(0.1)], [2.2 - math.log(0.9), -math.log(0.1)]]
    assert correction.at(0.05).of(logits).tolist() == [pytest.approx(row) for row in wanted]
    predicted = [correction.predict(logits, tau).tolist() for tau in (0.0, 0.049, 0.05, 0.051)]
    assert predicted == [[0, 0], [0, 0], [1, 0], [1, 1]]
    assert (correction.scale, correction.theory) == (20.0, 0.05)
    assert logit_adjustment([90, 10], 0.6).in_units_of(20.0).theory == pytest.approx(0.02)


@pytest.mark.parametrize("spec", ["cosface:scale=16", "arcface:scale=64", "ldam"])
def test_on_cosines_tau_times_the_heads_scale_is_the_plain_tau(spec):
    """A head on cosines times s has scale s, so that scaled:t is t s as a plain number."""
    features, weight, _ = batch_at()
    head = head_with(spec, weight, torch.tensor(COUNTS))
    logits, plain = head.logits(features).detach(), logit_adjustment(COUNTS)
    scaled = plain.in_units_of(head.score_scale(features).item())
    for tau in (0.0, 0.01, 0.1, 0.7):
        wanted = plain.at(tau * head.scale).of(logits)
        torch.testing.assert_close(scaled.at(tau).of(logits), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [
        (torch.float16, (-22, 0, 13)),
        *((dtype, (-100, 0, 60)) for dtype in (torch.bfloat16, torch.float32, torch.float64)),
    ],
)
def test_answers_by_hand_at_extreme_features(dtype, exponents):
    """Class weights of lengths 1 and 3 and features of 5 have scale 10; times 2^e, 10 times 2^e.

    The scores are 5 and 0, 4 and 9, 3 and -12, -5 and 0. The rare class 1 gains tau 10 ln 9, which
    is 4.39, 6.59 and 15.38: no score less, then the first image's 5, then the third's 15 as well.
    """
    features = torch.tensor([[5.0, 0.0], [4.0, 3.0], [3.0, -4.0], [-5.0, 0.0]], dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    head = head_with("softmax", torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=wide))
    for exponent in exponents:
        given = features * 2.0**exponent
        scale = head.score_scale(given).item()
        assert scale == pytest.approx(10 * 2.0**exponent, rel=1e-12)
        correction, logits = logit_adjustment([90, 10]).in_units_of(scale), head.logits(given)
        for tau, wanted in ((0.2, [0, 1, 0, 1]), (0.3, [1, 1, 0, 1]), (0.7, [1, 1, 1, 1])):
            assert correction.at(tau).of(logits).isfinite().all()
            assert correction.predict(logits, tau).tolist() == wanted


def test_a_resumed_run_is_corrected_as_the_undisturbed_one(run, tmp_path):
    """Stopped after nine steps and gone on with, a run has the same tau, scale and scores."""
    left = resumed(stopped(tmp_path, 9, factor=0.05, loss="softmax"))
    for tau in ("auto", 0.05):
        found, wanted = (evaluation(path, SilentDisplay(), scaled=tau) for path in (left, run))
        assert np.array_equal(found.logits, wanted.logits)
        of_run, told = wanted.scores.to_json(), {"checkpoint": str(left / "checkpoint.pt")}
        assert found.scores.to_json() == of_run | told


def test_the_grid():
    """0 and 0.0001 to 2, each about 12% above the one before, whatever the scale; as shown."""
    same = Affine.shifted(torch.zeros(2))
    for scale in (0.5, 300.0):
        tried = []
        correction = ByTau("x", lambda tau, tried=tried: tried.append(tau) or same, [0.0])
        choose_tau(correction.in_units_of(scale), torch.eye(2), np.array([0, 1]))
        taus = np.array(tried) / scale
        assert taus[[0, 1, -1]] == pytest.approx([0, 0.0001, 2])
        steps = taus[2:] / taus[1:-1]
        assert steps == pytest.approx(np.full(86, 10**0.05), rel=0.06)
        assert [float(f"{tau:.2g}") for tau in taus] == pytest.approx(taus.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("since", "until", "done", "tau"),
    [
        # the window between 0.118 and 0.137 holds one value, 0.13
        (0.118, 0.137, 0.0, 0.13),
        # all of 0.0036 to 0.3 is right: theory's 1/20 is there
        (0.0036, 0.3, 0.0, 0.05),
        # after a loss with tau 0.6 of its own theory's is 0.4/20
        (0.0036, 0.3, 0.6, 0.02),
        (0.0036, 0.3, 1.0, 0.004),
    ],
)
def test_auto_by_hand(since, until, done, tau):
    """Of the taus with the best balanced accuracy the one nearest to theory's, over the scale."""
    scale = 20.0
    lead = scale * math.log(9) * torch.tensor([since, until], dtype=torch.float64)
    logits = torch.stack([lead, torch.zeros(2)], dim=1)
    correction = logit_adjustment([90, 10], done).in_units_of(scale)
    choice = choose_tau(correction, logits, np.array([1, 0]))
    assert (choice.tau, choice.balanced_accuracy) == (tau, 1.0)
    assert choice.balanced_accuracy_unadjusted == 0.5


def test_scales_that_are_no_unit_are_refused():
    """A scale of 0 is a usage error with a way out, one that is not finite a divergence."""
    correction = logit_adjustment([90, 10])
    with pytest.raises(LmsmError, match=r"scale of the logits is 0.* give a plain number") as error:
        correction.in_units_of(0.0)
    assert error.value.exit_code == 2
    for scale in (math.nan, math.inf):
        with pytest.raises(DivergedError, match="infinite or not a number"):
            correction.in_units_of(scale)
    with pytest.raises(LmsmError, match=r"^tau is 1e\+308: the corrected scores leave"):
        correction.in_units_of(20.0).predict(torch.eye(2), 1e308)


def test_logits_are_those_of_one_pass_to_the_bit(run, monkeypatch):
    """The images are embedded once, and the logits are what `scores_of` gives, batch by batch."""
    model = checkpoint.restore(checkpoint.load(run / "checkpoint.pt"), run)
    images = torch.randint(256, (601, 8, 8, 1), dtype=torch.uint8)
    runtime = Runtime(torch.device("cpu"))
    sizes, embed, plain = [], Classifier.embed, model.head.logits
    monkeypatch.setattr(
        Classifier, "embed", lambda _, batch: sizes.append(("embed", len(batch))) or embed(_, batch)
    )
    monkeypatch.setattr(
        model.head, "logits", lambda batch: sizes.append(("logits", len(batch))) or plain(batch)
    )
    wanted, passed = scores_of(model, images, runtime), sorted(sizes)
    sizes.clear()
    logits, scale = scores_and_scale_of(model, images, runtime)
    assert torch.equal(logits, wanted)
    # not every machine rounds a product of more rows differently
    assert sorted(sizes) == passed
    assert sum(size for what, size in passed if what == "embed") == 601
    assert 0 < scale < math.inf


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_given_tau_is_in_units_of_the_corrected_images(run, split):
    """The scale told is NumPy's of these images, and tau times it is the plain tau."""
    found = evaluation(run, SilentDisplay(), scaled=0.05, split=split)
    lengths = np.linalg.norm(found.features(), axis=1).mean()
    weights = found.trained.model.head.weight.detach().numpy()
    told = found.scores.to_json()["adjustment"]
    assert told["scale"] == pytest.approx(lengths * np.linalg.norm(weights, axis=1).mean())
    assert (told["tau"], told["chosen_on"]) == (0.05, None)
    plain = evaluation(run, SilentDisplay(), adjust=0.05 * told["scale"], split=split)
    assert np.array_equal(found.logits, plain.logits)
    assert plain.scores.to_json()["adjustment"]["scale"] is None


def test_a_factor_on_the_class_weights_changes_no_answer(run, tmp_path):
    """Ten times the class weights: the same answers of scaled:TAU, other ones of a plain tau."""
    larger = with_weights_times(run, 10, tmp_path / "c.pt")
    before, after = (evaluation(p, SilentDisplay(), scaled=0.1) for p in (run, larger))
    assert np.array_equal(before.predictions, after.predictions)
    assert (before.predictions != evaluation(run, SilentDisplay()).predictions).any()
    scales = [found.scores.to_json()["adjustment"]["scale"] for found in (before, after)]
    assert scales[1] == pytest.approx(10 * scales[0])
    before, after = (evaluation(p, SilentDisplay(), adjust=1.0) for p in (run, larger))
    assert (before.predictions != after.predictions).any()


def test_tau_and_scale_are_of_the_validation_images_alone(run, monkeypatch):
    """Validation has scale 10 and wants 0.1, the test images 90 and 0.2: auto takes 0.1 of 10."""
    found = [evaluation(run, SilentDisplay(), split=split) for split in ("validation", "test")]
    held_out, test = (one.labelled for one in found)
    counts = found[0].trained.state.train_counts
    gap = math.log(counts[0] / counts[9])

    def right_at(plain_tau, images):
        """Class 0 is right up to the tau, class 9 from it on, the others always."""
        logits = 1000 * torch.nn.functional.one_hot(images.labels, 10).double()
        for label, room in ((0, 1.02), (9, 0.98)):
            row = torch.tensor([room * plain_tau * gap, *[-1000.0] * 8, 0.0]).double()
            logits[images.labels == label] = row
        return logits

    def replaced(model, images, runtime, shown):
        if torch.equal(images, held_out.images):
            return right_at(0.1 * 10.0, held_out), 10.0
        return right_at(0.2 * 90.0, test), 90.0

    monkeypatch.setattr(own_images, "scores_and_scale_of", replaced)
    monkeypatch.setattr(
        own_images, "scores_of", lambda *given, **named: replaced(*given, **named)[0]
    )
    scores = evaluate(run, SilentDisplay(), scaled="auto")
    told = scores["adjustment"]
    assert (told["tau"], told["scale"]) == (0.1, 10.0)
    assert told["chosen_on"]["split"] == "validation"
    assert told["chosen_on"]["balanced_accuracy"] == 1.0
    assert scores["balanced_accuracy"] == pytest.approx(0.9)
    given = evaluate(run, SilentDisplay(), scaled=0.2)
    assert (given["adjustment"]["scale"], given["balanced_accuracy"]) == (90.0, 1.0)


def test_auto_is_what_a_search_by_hand_finds(run):
    """No tau of the grid has a better balanced accuracy on the validation images."""
    told = evaluate(run, SilentDisplay(), scaled="auto")["adjustment"]
    tried = {
        tau: evaluate(run, SilentDisplay(), scaled=tau, split="validation")["balanced_accuracy"]
        for tau in (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, told["tau"])
    }
    best = told["chosen_on"]["balanced_accuracy"]
    assert best == pytest.approx(tried[told["tau"]])
    assert best >= max(tried.values()) - 1e-9
    assert told["chosen_on"]["balanced_accuracy_unadjusted"] == pytest.approx(tried[0.0])


def test_class_weights_of_zero_have_no_scale(run, tmp_path):
    """A checkpoint whose class weights are all zero is told, given tau or auto."""
    file = with_weights_times(run, 0, tmp_path / "c.pt")
    for tau in (0.1, "auto"):
        with pytest.raises(LmsmError, match="the scale of the logits is 0"):
            evaluate(file, SilentDisplay(), scaled=tau)


def test_what_the_training_did_is_told_as_a_plain_tau(run, tmp_path):
    """The warning of a correction done twice says in which units its tau is."""
    state = plain_state(run / "checkpoint.pt")
    state["config"]["loss"] = "vs:tau=0.6"
    checkpoint.save(state, tmp_path / "c.pt")
    display = SilentDisplay()
    evaluate(tmp_path / "c.pt", display, scaled=0.1)
    (warning,) = display.warned
    assert "some further correction is expected (plain tau 0.4)" in warning
