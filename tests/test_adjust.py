"""Post-hoc corrections: by hand, against independent readings, and on a whole long-tailed run."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.datasets import load_digits

from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import splits
from lmsm_cli.errors import DataError, LmsmError
from lmsm_cli.inference import own_images
from lmsm_cli.inference.adjust import ByTau, choose_tau, logit_adjustment, tau_normalisation
from lmsm_cli.losses.registry import build_head, check_loss
from lmsm_cli.models.affine import Affine
from lmsm_cli.runs import checkpoint
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, evaluate, plain_state, write_class_folders


def test_logit_adjustment_by_hand():
    """Shares 0.9 and 0.1: the rare class gains log 9 a unit of tau, which turns log 9 - 0.1."""
    logits = torch.tensor([[math.log(9) - 0.1, 0.0], [math.log(9) + 0.1, 0.0]])
    correction = logit_adjustment([90, 10])
    adjusted = correction.at(1.0).of(logits)
    wanted = [
        [math.log(9) - 0.1 - math.log(0.9), -math.log(0.1)],
        [math.log(9) + 0.1 - math.log(0.9), -math.log(0.1)],
    ]
    assert adjusted.tolist() == [pytest.approx(row) for row in wanted]
    assert correction.predict(logits, 0.0).tolist() == [0, 0]
    assert correction.predict(logits, 1.0).tolist() == [1, 0]
    assert correction.predict(logits, 1.1).tolist() == [1, 1]


def test_tau_normalisation_by_hand():
    """Norms 4 and 1: at tau 0.5 logits halve in the first class, at 1 they quarter."""
    weights = torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    logits = torch.tensor([[4.0, 3.0], [4.0, 1.5]])
    correction = tau_normalisation(weights)
    assert correction.at(0.5).of(logits).tolist() == [[2, 3], [2, 1.5]]
    predicted = [correction.predict(logits, tau).tolist() for tau in (0.0, 0.5, 1.0)]
    assert predicted == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("tau", [0.0, 0.35, 1.0, 2.0])
def test_logit_adjustment_is_the_argmax_of_posterior_over_prior(tau):
    """NumPy's argmax of log softmax(z) - tau log prior names the same classes."""
    logits = 3 * torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    counts = np.array([300, 120, 50, 20, 8, 2])
    wanted = (
        log_softmax(logits.double().numpy(), axis=1) - tau * np.log(counts / counts.sum())
    ).argmax(1)
    assert np.array_equal(logit_adjustment(counts.tolist()).predict(logits, tau), wanted)


@pytest.mark.parametrize("tau", [0.0, 0.35, 1.0])
@pytest.mark.parametrize(
    ("loss", "bias"),
    [("softmax", False), ("softmax", True), ("lsoftmax:margin=3,weight_norm=free", False)],
)
def test_tau_normalisation_is_the_head_with_other_weights(loss, bias, tau):
    """A head with rows divided by their norm to the tau gives the same logits, bias included."""
    generator = torch.Generator().manual_seed(0)
    head = build_head(loss, 5, 4, bias=bias).double()
    head.weight.data = torch.randn(4, 5, generator=generator).double() * torch.tensor(
        [[4.0], [2.0], [1.0], [0.2]]
    )
    features = torch.randn(200, 5, generator=generator).double()
    plain, weights = head.logits(features).detach(), head.class_weights().detach().clone()
    head.weight.data /= torch.linalg.vector_norm(weights, dim=1, keepdim=True) ** tau
    wanted = head.logits(features).detach()
    correction = tau_normalisation(weights, head.bias)
    assert torch.allclose(correction.at(tau).of(plain), wanted)
    assert np.array_equal(correction.predict(plain, tau), wanted.argmax(1).numpy())


def test_a_class_weight_of_zero_keeps_its_logit_of_zero():
    """A dead class has no direction: its score is 0, not NaN, which argmax would take."""
    correction = tau_normalisation(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    logits = torch.tensor([[0.0, 10.0, 1.0], [0.0, -5.0, -2.0]])
    wanted = [[0, pytest.approx(2), 1], [0, pytest.approx(-1), -2]]
    assert correction.at(1.0).of(logits).tolist() == wanted


# Logits of a rare class 1 (share 0.1) against class 0 (0.9), each right in a window of tau.
def rare(since):
    """Return the logits of an image of class 1 that is right from this tau on."""
    return [since * math.log(9), 0.0]


frequent = rare  # an image of class 0 is right below it


@pytest.mark.parametrize(
    ("images", "tau", "reached", "plain"),
    [
        # the window between 0.625 and 0.675 holds one value of the grid
        ([(1, rare(0.625)), (0, frequent(0.675))], 0.65, 1.0, 0.5),
        # all of 0.4 to 0.8 is right: 0.8 is nearest to 1
        ([(1, rare(0.375)), (0, frequent(0.825))], 0.8, 1.0, 0.5),
        # all of 1.3 to 2 is right: 1.3 is nearest to 1
        ([(1, rare(1.275)), (0, frequent(2.5))], 1.3, 1.0, 0.5),
        # right with and without: 1
        ([(1, rare(-1)), (0, frequent(9))], 1.0, 1.0, 1.0),
        # 2 of 3 frequent images fall at 0.2, the one rare image comes at 0.5: accuracy would take 0
        ([(1, rare(0.475)), *[(0, frequent(0.225))] * 2, (0, frequent(5))], 1.0, 2 / 3, 0.5),
        # only rare images: the frequent class has no part
        ([(1, rare(1.725)), (1, rare(0.1))], 1.75, 1.0, 0.0),
    ],
)
def test_tau_by_hand(images, tau, reached, plain):
    """The best mean of recalls wins, among equals the tau nearest to 1."""
    labels = np.array([label for label, _ in images])
    choice = choose_tau(logit_adjustment([90, 10]), torch.tensor([z for _, z in images]), labels)
    assert choice.tau == tau
    assert (choice.balanced_accuracy, choice.balanced_accuracy_unadjusted) == pytest.approx(
        (reached, plain)
    )


@pytest.mark.parametrize(("done", "tau"), [(0.0, 0.8), (0.3, 0.7), (1.0, 0.4), (1.5, 0.4)])
def test_ties_go_to_what_the_training_left_to_do(done, tau):
    """All of 0.4 to 0.8 is right: after a loss with tau 0.3 of its own, theory says 0.7."""
    images = [(1, rare(0.375)), (0, frequent(0.825))]
    logits = torch.tensor([z for _, z in images])
    assert choose_tau(logit_adjustment([90, 10], done), logits, np.array([1, 0])).tau == tau


def test_ties_are_seen_through_rounding():
    """Recalls 1, 1, 1/3 and 1, 1/3, 1 have one mean, though floats of the first add up to more."""
    labels = np.repeat([0, 1, 2], 3)
    # at tau 1 class 2 gains 1: two images of class 1 fall to it, and two of its own come back
    lead = torch.tensor([9.0, 9, 9, 9, 0.5, 0.5, 0.5, 0.5, -9])  # of class 1 over class 2
    logits = torch.stack([torch.where(torch.tensor(labels == 0), 99, -99), lead, 0 * lead], dim=1)
    family = ByTau("adjust", lambda tau: Affine.shifted(torch.tensor([0, 0, tau])), [0.0, 0.4, 1.0])
    choice = choose_tau(family, logits, labels)
    assert choice.tau == 1.0
    assert choice.balanced_accuracy < choice.balanced_accuracy_unadjusted  # by the last bit


def test_the_grids():
    """Logit adjustment tries 0, 0.05, ... 2, tau-normalisation 0, 0.05, ... 1."""
    same = Affine.shifted(torch.zeros(2))
    weights = torch.tensor([[1.0], [3.0]])
    for correction, last in ((logit_adjustment([9, 1]), 2), (tau_normalisation(weights), 1)):
        tried = []
        counting = replace(correction, plain=lambda tau, tried=tried: tried.append(tau) or same)
        choose_tau(counting, torch.eye(2), np.array([0, 1]))
        assert tried == pytest.approx(np.linspace(0, last, 20 * last + 1).tolist())


def test_corrections_that_change_nothing_are_refused():
    """Equal counts, equal norms (as of a shared norm), and an unknown prior are usage errors."""
    with pytest.raises(LmsmError, match="every class has 20 training images"):
        logit_adjustment([20, 20, 20])
    with pytest.raises(LmsmError, match="class 1 has no training image"):
        logit_adjustment([20, 0, 3])
    head = build_head("lsoftmax:margin=4,weight_norm=shared", 64, 10)
    with pytest.raises(LmsmError, match="the weights of all classes the same norm"):
        tau_normalisation(head.class_weights())


@pytest.mark.parametrize(
    "correction",
    [
        logit_adjustment([9, 1]),
        tau_normalisation(torch.tensor([[0.5], [0.1]])),
        tau_normalisation(torch.tensor([[7.0], [9.0]])),
    ],
)
def test_a_tau_beyond_all_floats_is_refused(correction):
    """Infinite or vanished scores would name the first class for every image."""
    with pytest.raises(LmsmError, match=r"tau is 1e\+308"):
        correction.predict(torch.eye(2), 1e308)


def config(out, **values):
    """Return a config of a few seconds on the long-tailed digits."""
    flags = {"factor": 0.05, "epochs": 4, "loss": "softmax", "out": out, "device": "cpu"}
    return resolve([Layer.of_preset("digits"), Layer.of_flags(flags | values)], check_loss).config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a softmax run on long-tailed digits, of factor 0.05."""
    out = tmp_path_factory.mktemp("runs")
    return start_run(config(out), SilentDisplay(), with_plots=False).path


def altered(run, path, **changes):
    """Write the run's checkpoint, changed in its config (and `train_counts`), to a new file.

    It knows no images, as one of an older lmsm, so that changes may make the split another.
    """
    state = plain_state(run / "checkpoint.pt")
    del state["images"]
    state["train_counts"] = changes.pop("train_counts", state["train_counts"])
    state["config"] |= changes
    checkpoint.save(state, path)
    return path


@pytest.mark.parametrize("option", ["adjust", "tau_norm"])
def test_auto_helps_the_rare_classes_and_says_what_it_did(run, option):
    """Few-shot accuracy is no worse, and the unadjusted scores beside it are those without."""
    plain = evaluate(run, SilentDisplay())
    assert plain["adjustment"] is None
    scores = evaluate(run, SilentDisplay(), **{option: "auto"})
    assert scores["groups"]["few"] >= plain["groups"]["few"]
    told = scores["adjustment"]
    assert told["unadjusted"] == {key: plain[key] for key in told["unadjusted"]}
    assert (
        told["chosen_on"]["balanced_accuracy"] >= told["chosen_on"]["balanced_accuracy_unadjusted"]
    )
    again = evaluate(run, SilentDisplay(), **{option: told["tau"]})
    assert again["adjustment"] == told | {"chosen_on": None}
    assert again["per_class"] == scores["per_class"]


def test_a_given_tau_works(run):
    """Tau 1 brings the rare classes forward, tau 0 changes nothing."""
    plain = evaluate(run, SilentDisplay())
    for option in ("adjust", "tau_norm"):
        assert evaluate(run, SilentDisplay(), **{option: 0.0})["confusion"] == plain["confusion"]
        assert (
            evaluate(run, SilentDisplay(), **{option: 1.0})["groups"]["few"]
            > plain["groups"]["few"]
        )


def only_right_at(tau, images):
    """Return logits with which class 0 is right up to `tau`, class 9 from it on, others always."""
    logits = 1000 * torch.nn.functional.one_hot(images.labels, 10).double()
    counts = splits.load_training(config("."), SilentDisplay())[0].counts()
    gap = math.log(counts[0] / counts[9])
    logits[images.labels == 0] = torch.tensor([(tau + 0.02) * gap, *[-1000.0] * 8, 0.0]).double()
    logits[images.labels == 9] = torch.tensor([(tau - 0.02) * gap, *[-1000.0] * 8, 0.0]).double()
    return logits


def test_tau_never_looks_at_test_data(run, monkeypatch):
    """Validation wants tau 0.5 and the test images 1.8: auto takes 0.5."""
    held_out = splits.load_training(config("."), SilentDisplay())[1]
    test = splits.load_test(config("."), SilentDisplay())

    def scores_of(model, images, runtime, *, shown):
        return next(
            only_right_at(tau, data)
            for tau, data in ((0.5, held_out), (1.8, test))
            if torch.equal(images, data.images)
        )

    monkeypatch.setattr(own_images, "scores_of", scores_of)
    scores = evaluate(run, SilentDisplay(), adjust="auto")
    assert scores["adjustment"]["tau"] == 0.5
    assert scores["adjustment"]["chosen_on"] == {
        "split": "validation",
        "num_images": len(held_out),
        "classes_without_images": [],
        "balanced_accuracy": 1.0,
        "balanced_accuracy_unadjusted": 0.9,
    }
    assert scores["balanced_accuracy"] == pytest.approx(0.9)
    assert evaluate(run, SilentDisplay(), adjust=1.8)["balanced_accuracy"] == 1.0


def test_images_of_ones_own_are_corrected_by_the_runs_validation(run, tmp_path):
    """With --images tau is that of the run's validation images, whatever the images are."""
    from PIL import Image

    digits = load_digits()
    for i in np.flatnonzero(digits.target >= 8)[:60]:
        folder = tmp_path / str(digits.target[i])
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.rint(digits.images[i] * 255 / 16).astype(np.uint8)).save(
            folder / f"{i}.png"
        )
    wanted = evaluate(run, SilentDisplay(), adjust="auto")["adjustment"]
    display = SilentDisplay()
    scores = evaluate(run, display, images=tmp_path, adjust="auto")
    assert scores["adjustment"]["tau"] == wanted["tau"]
    assert scores["adjustment"]["chosen_on"] == wanted["chosen_on"]
    assert sum(row["test_count"] for row in scores["per_class"]) == 60
    assert display.warned == [
        "there is no image of 8 of 10 classes (0, 1, 2, 3, 4, 5, 6, 7): "
        "means over classes are over those that have some"
    ]


def test_scores_of_the_images_that_tau_was_chosen_on_come_with_a_warning(run):
    """`--split validation` with auto is said to flatter, a given tau is not."""
    display = SilentDisplay()
    scores = evaluate(run, display, split="validation", adjust="auto")
    assert ["flatter" in text for text in display.warned] == [True]
    assert scores["balanced_accuracy"] == scores["adjustment"]["chosen_on"]["balanced_accuracy"]
    evaluate(run, display, split="validation", adjust=1.0)
    assert len(display.warned) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"loss": "balanced-softmax"},
            "is already adjusted; no further correction is expected (tau 0).",
        ),
        (
            {"loss": "vs:tau=0.6"},
            "adjusted by tau 0.6; some further correction is expected (tau 0.4).",
        ),
        (
            {"loss": "lsoftmax:weight_norm=free,tau=0.25"},
            "adjusted by tau 0.25; some further correction is expected (tau 0.75).",
        ),
        ({"reweight": "effective"}, "rebalanced the classes already"),
        ({"sampling": "balanced"}, "rebalanced the classes already"),
        ({"sampling": "balanced", "rebalance_from": 4}, "rebalanced the classes already"),
        (
            {"sampling": "balanced", "loss": "logit-adjusted"},
            "rebalanced the classes already; no further correction is expected (tau 0).",
        ),
    ],
)
def test_correcting_twice_is_said(run, tmp_path, changes, told):
    """Where loss, weights or sampling corrected for the counts already, a warning says so."""
    display = SilentDisplay()
    evaluate(altered(run, tmp_path / "c.pt", **changes), display, adjust=1.0)
    assert [told in text for text in display.warned] == [True]


@pytest.mark.parametrize(
    "changes",
    [
        {"reweight": "inverse", "rebalance_from": 5, "epochs": 6},
        {"reweight": "effective", "reweight_beta": 0.0},
        {"reweight": "effective", "reweight_beta": 0.5},
    ],
)
def test_correcting_for_the_first_time_is_not_called_twice(run, tmp_path, changes):
    """A checkpoint of before the deferred weights, or of equal ones, is not rebalanced."""
    display = SilentDisplay()
    evaluate(altered(run, tmp_path / "c.pt", **changes), display, adjust=1.0)
    assert not display.warned


def test_classes_that_validation_lacks_are_named(run, tmp_path):
    """Where the smallest classes held out no image, the display and the JSON name them."""
    training, held_out = splits.load_training(config(".", factor=0.02), SilentDisplay())
    file = altered(run, tmp_path / "c.pt", factor=0.02, train_counts=training.counts())
    display = SilentDisplay()
    scores = evaluate(file, display, adjust="auto")
    missing = [str(c) for c in range(10) if c not in held_out.labels]
    assert missing == ["8", "9"]
    assert scores["adjustment"]["chosen_on"]["classes_without_images"] == missing
    (warning,) = display.warned
    assert "without 2 of 10 classes, which have no validation image: 8, 9" in warning


def test_auto_without_validation_images_asks_for_a_number(run, tmp_path):
    """A run that held nothing out is exit 2 with auto, and can take a given tau."""
    file = altered(run, tmp_path / "c.pt", validation=0.0)
    told = r"held out no validation images .* give a number"
    for option in ("adjust", "scaled"):
        with pytest.raises(LmsmError, match=told) as error:
            evaluate(file, SilentDisplay(), **{option: "auto"})
        assert error.value.exit_code == 2
    assert evaluate(file, SilentDisplay(), adjust=1.0)["adjustment"]["tau"] == 1.0


def test_tau_is_not_chosen_on_other_data_than_the_runs(run, tmp_path):
    """Where the training images are others, the split would hold out images trained on: exit 3."""
    file = altered(run, tmp_path / "c.pt", factor=0.5)
    with pytest.raises(DataError, match="other training images than the run had"):
        evaluate(file, SilentDisplay(), adjust="auto")


def test_a_correction_that_cannot_be_had_is_refused_before_data_is_read(tmp_path):
    """Equal counts and shared norms are refused with no data on disk."""
    write_class_folders(tmp_path / "data", ("ant", "bee", "cow"), 20, size=12)
    data = {"dataset": "folder", "data_dir": tmp_path / "data", "imbalance": "none", "factor": 1.0}
    sizes = {"image_size": 12, "batch_size": 8, "epochs": 1, "model": "paper-2d"}
    choices = data | sizes | {"loss": "lsoftmax:margin=2,weight_norm=shared"}
    run = start_run(config(tmp_path / "runs", **choices), SilentDisplay(), with_plots=False)
    (tmp_path / "data").rename(tmp_path / "gone")
    for choice, message in (
        ({"adjust": 1.0}, "every class has 14 training images"),
        ({"scaled": 1.0}, "every class has 14 training images"),
        ({"scaled": "auto"}, "every class has 14 training images"),
        ({"tau_norm": "auto"}, "same norm"),
    ):
        with pytest.raises(LmsmError, match=message) as error:
            evaluate(run.path, SilentDisplay(), **choice)
        assert error.value.exit_code == 2
