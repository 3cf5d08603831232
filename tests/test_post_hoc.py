"""Last layers that are corrected without a training: by hand, as runs, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.config.post_hoc import PostHoc, parse_post_hoc
from lmsm_cli.config.resolve import Layer
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.data.splits import load_data
from lmsm_cli.errors import DataError, LmsmError
from lmsm_cli.inference.adjust import multiplicative_adjustment
from lmsm_cli.inference.correction import RequestedCorrection, check
from lmsm_cli.inference.post_hoc import begin, nearest_class_mean
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import read_images_record, read_predictions, write_images
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.sweeps.second_stage import (
    POST_HOC,
    USUAL,
    plan_second_stages,
    usual_heads,
    what_is_not_held_out,
)
from lmsm_cli.training.run import start_run
from tests.conftest import (
    SilentDisplay,
    asked,
    digits_config,
    evaluate,
    plain_state,
    printed_json,
    words,
)

TWO_HEADS = "--head adjust:1 --head ncm --device cpu --threads 1 --quiet --json"
HEADS = ("adjust:1", "adjust", "tau-norm", "mla:0.5", "ncm")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a softmax run on long-tailed digits."""
    out = tmp_path_factory.mktemp("first")
    config = digits_config(out, loss="softmax", factor=0.05, validation=0.3)
    return start_run(config, SilentDisplay(), with_plots=False).path


@pytest.fixture(scope="module")
def heads(first, tmp_path_factory):
    """The folder of five heads on that run, made by one command."""
    out = tmp_path_factory.mktemp("heads")
    assert retrain(first, out) == 0
    return out


def retrain(first, out, *more):
    """Make the heads; return the exit code."""
    named = [word for head in HEADS for word in ("--head", head)]
    place = ["--out", str(out), "--device", "cpu", "--threads", "1", "--quiet"]
    return main(["retrain", str(first), *named, *place, *more])


def runs_of(folder):
    """Return the run folders by their heads."""
    return {read_run(path).config["post_hoc"]: path for path in find_runs([folder])}


def test_multiplicative_adjustment_by_hand():
    """Of 90 and 10 images: at tau 0.5 the rare class has its logit times 3, the other its own."""
    correction = multiplicative_adjustment([90, 10])
    logits = torch.tensor([[3.0, 1.2], [3.0, 0.9], [-3.0, -1.2]])
    wanted = torch.tensor([[3.0, 3.6], [3.0, 2.7], [-3.0, -3.6]])
    assert torch.allclose(correction.at(0.5).of(logits), wanted)
    assert correction.predict(logits, 0.5).tolist() == [1, 0, 0]
    assert correction.predict(logits, 0.0).tolist() == [0, 0, 1]
    with pytest.raises(LmsmError, match="every class has 7 training images"):
        multiplicative_adjustment([7, 7])


def test_nearest_class_mean_by_hand():
    """Means (2, 0) and (3, 4): directions (1, 0) and (0.6, 0.8), whatever their lengths."""
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [3.0, 3.0], [3.0, 5.0]])
    found = nearest_class_mean(features, torch.tensor([0, 0, 1, 1]), 2)
    assert found.tolist() == [[1, 0], [pytest.approx(0.6), pytest.approx(0.8)]]
    with pytest.raises(LmsmError, match="class 2 has no training image"):
        nearest_class_mean(features, torch.tensor([0, 0, 1, 1]), 3)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("adjust", PostHoc("adjust", None)),
        ("mla:auto", PostHoc("mla", None)),
        ("adjust:1.50", PostHoc("adjust", 1.5)),
        ("tau-norm:0", PostHoc("tau-norm", 0.0)),
        ("ncm", PostHoc("ncm", None)),
    ],
)
def test_a_method_is_read_with_its_tau(spec, wanted):
    """Without a number tau is chosen."""
    assert parse_post_hoc(spec) == wanted


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("tau_norm", r"no such method \(did you mean 'tau-norm'\?\)"),
        ("tau-norm:1.5", "tau-norm:TAU with a number from 0 to 1"),
        ("adjust:-1", "adjust:TAU with a number of at least 0"),
        ("adjust:nan", "or adjust alone to have tau chosen"),
        ("ncm:1", "ncm, the nearest class mean, has no tau"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, told):
    """The message has the way out."""
    with pytest.raises(ValueError, match=told):
        parse_post_hoc(spec)


def test_each_head_is_what_eval_says_of_the_run(first, heads):
    """Scores, the tau that was chosen and the score that it was chosen by are those of `eval`."""
    runs = runs_of(heads)
    assert runs.keys() == set(HEADS)
    display = SilentDisplay()
    for head, how in (
        ("adjust:1", {"adjust": 1.0}),
        ("adjust", {"adjust": "auto"}),
        ("tau-norm", {"tau_norm": "auto"}),
    ):
        scores = read_run(runs[head]).scores
        found = evaluate(first, display, **how)
        assert (scores.accuracy, scores.macro_f1) == (found["accuracy"], found["macro_f1"])
        facts = checkpoint.load(runs[head] / "checkpoint.pt").correction.facts
        assert facts["tau"] == found["adjustment"]["tau"]
        held_out = evaluate(first, display, split="validation", **how)
        reached = scores.best_on_validation.val_balanced_accuracy
        assert reached == pytest.approx(held_out["balanced_accuracy"])
    assert evaluate(runs["ncm"], display)["accuracy"] == read_run(runs["ncm"]).scores.accuracy


def test_a_nearest_class_mean_is_not_corrected_for_shares_that_it_never_had(heads):
    """Its class weights are means, which know nothing of the numbers of images."""
    display, run = SilentDisplay(), read_trained(runs_of(heads)["ncm"])
    with pytest.raises(LmsmError, match="the model is for these shares already"):
        check(run, RequestedCorrection(None, "uniform"), display)
    assert check(run, RequestedCorrection(asked(adjust=1.0)), display).for_rare.theory == 0
    (warning,) = display.warned
    assert "nearest class mean knows nothing of how many images" in warning
    assert "no further correction is expected" in warning


def test_a_checkpoint_of_a_head_answers_by_the_formula(first, heads):
    """NumPy and scikit-learn, from the features of the run's own net, name the same classes."""
    runs, model = runs_of(heads), load_checkpoint(first)
    state = checkpoint.load(first / "checkpoint.pt")
    data = load_data(state.config, SilentDisplay())
    with torch.no_grad():
        images = {
            part: one.images.permute(0, 3, 1, 2).contiguous() for part, one in data.parts.items()
        }
        features = {part: model.embed(one).numpy() for part, one in images.items()}
        logits = model(images["test"]).numpy()
    counts, labels = np.array(state.train_counts), data.training.labels.numpy()
    means = np.stack([features["training"][labels == c].mean(0) for c in range(10)])
    wanted = {
        "adjust:1": (logits - np.log(counts / counts.sum())).argmax(1),
        "mla:0.5": (logits * (counts.max() / counts) ** 0.5).argmax(1),
        "ncm": cosine_similarity(features["test"], means).argmax(1),
    }
    for head, predicted in wanted.items():
        assert np.array_equal(read_predictions(runs[head]).predicted, predicted)
        again = load_checkpoint(runs[head]).predict(images["test"])
        assert np.array_equal(again.numpy(), predicted)
    assert len({tuple(one.tolist()) for one in wanted.values()}) == 3


def test_heads_are_found_again_and_chosen_among(first, heads, capsys):
    """The same command makes nothing new, and its JSON has the best head on validation images."""
    before = find_runs([heads])
    assert retrain(first, heads, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert find_runs([heads]) == before
    labels = {group["label"] for group in document["groups"]}
    assert labels == {f"softmax post_hoc={head}" for head in HEADS}
    reached = {one["head"]: one["val_balanced_accuracy"] for one in document["chosen"]["heads"]}
    assert reached.keys() == set(HEADS)
    assert list(reached.values()) == sorted(reached.values(), reverse=True)
    assert document["chosen"]["best"] == next(iter(reached))
    tuned = {one["head"] for one in document["chosen"]["heads"] if one["is_tuned_on_them"]}
    assert tuned == {"adjust", "tau-norm"}
    for head, run in runs_of(heads).items():
        assert reached[head] == read_run(run).scores.best_on_validation.val_balanced_accuracy


def test_heads_on_the_nets_of_two_seeds_are_one_group(first, tmp_path, capsys):
    """They are told by what their nets were trained with; the choice is by the mean of both."""
    more = {"loss": "softmax", "factor": 0.05, "validation": 0.3, "seed": 1}
    config = digits_config(tmp_path / "second", **more)
    second = start_run(config, SilentDisplay(), with_plots=False).path
    out = tmp_path / "heads"
    assert main(["retrain", str(first), str(second), "--out", str(out), *words(TWO_HEADS)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [sorted(group["seeds"]) for group in document["groups"]] == [[1, 42], [1, 42]]
    assert [len(group["runs"]) for group in document["groups"]] == [2, 2]
    scores = [read_run(run).scores.best_on_validation for run in find_runs([out])]
    reached = {one["head"]: one["val_balanced_accuracy"] for one in document["chosen"]["heads"]}
    assert sum(reached.values()) == pytest.approx(
        sum(one.val_balanced_accuracy for one in scores) / 2
    )


def test_no_training_goes_on_from_a_head_without_one(first, heads, capsys):
    """`resume` says so, names what it is of, and changes nothing; export and --best take it."""
    for head in ("adjust", "ncm"):
        run = runs_of(heads)[head]
        assert main(["resume", str(run), "--epochs", "20"]) == 4
        said = " ".join(words(capsys.readouterr().err))
        assert f"{run} was made without a training (post_hoc '{head}')" in said
        assert f"train another last layer on {first}" in said
    run, out = runs_of(heads)["adjust"], heads / "adjust.onnx"
    document = printed_json(capsys, "export", run, "--best", "--out", out, "--quiet")
    assert document["verification"]["same_top1"] == 1.0
    assert document["correction"]["method"] == "adjust"


def test_a_head_that_was_stopped_is_made_anew(first, tmp_path, capsys):
    """What it had done is nothing to go on with, and takes seconds."""
    words = ["--head", "adjust:1", "--out", str(tmp_path), "--device", "cpu", "--quiet"]
    assert main(["retrain", str(first), *words]) == 0
    (run,) = find_runs([tmp_path])
    RunFolder(run).write_status("interrupted", "SIGTERM", 143)
    assert main(["retrain", str(first), *words]) == 0
    assert [read_run(path).state for path in find_runs([tmp_path])] == ["interrupted", "completed"]
    assert "WARNING" not in capsys.readouterr().err


def head_of(first, out, **changes):
    """Return the config of a head on a run, on its data."""
    shared = {"pretrained": str(first), "freeze": "features", "loss": "softmax"}
    shared |= {"factor": 0.05, "validation": 0.3}
    return digits_config(out, **shared | {"post_hoc": "adjust:1"} | changes)


def test_choices_of_a_training_change_no_correction(first, heads, tmp_path):
    """There is no average of weights, which would stand uncorrected, and nothing to wait for."""
    config = head_of(first, tmp_path, ema=0.9, patience=1, lr=0.7, sampling="balanced")
    display = SilentDisplay()
    path = begin(config, display, with_plots=False).path
    wanted, found = (read_predictions(one) for one in (runs_of(heads)["adjust:1"], path))
    assert np.array_equal(found.predicted, wanted.predicted)
    assert display.warned == []
    assert evaluate(path, display)["accuracy"] == read_run(path).scores.accuracy


def test_what_cannot_be_corrected_is_refused_before_work(first, tmp_path):
    """Another loss than the run's, images that its net was trained on, a file that is no run."""
    with pytest.raises(LmsmError, match="whose loss is 'softmax' with head_bias False: take the"):
        begin(head_of(first, tmp_path, head_bias=True), SilentDisplay())
    with pytest.raises(DataError, match=r"trained on images .* of 121 validation images"):
        begin(head_of(first, tmp_path, post_hoc="adjust", split_seed=9), SilentDisplay())
    alone = shutil.copy(first / "checkpoint.pt", tmp_path / "alone.pt")  # images.npz is elsewhere
    with pytest.raises(DataError, match="the validation images are not those that"):
        begin(head_of(alone, tmp_path, post_hoc="adjust", split_seed=9), SilentDisplay())
    torch.save(load_checkpoint(first).backbone.state_dict(), tmp_path / "net.pth")
    with pytest.raises(LmsmError, match="is no run of lmsm's"):
        begin(head_of(tmp_path / "net.pth", tmp_path), SilentDisplay())
    with pytest.raises(LmsmError, match="without the run that it is for: give --pretrained RUN"):
        head_of(first, tmp_path, freeze=None)
    with pytest.raises(LmsmError, match="that of softmax without a bias: leave loss and head_bias"):
        head_of(first, tmp_path, post_hoc="ncm", loss="ldam")
    with pytest.raises(LmsmError, match="takes the place of a training: leave it out to train"):
        start_run(head_of(first, tmp_path / "trained"), SilentDisplay())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.pt", "net.pth", "trained"]


def test_the_usual_heads_are_those_that_a_run_can_have(first, tmp_path):
    """Scores on cosines are no start of a second stage, nor have they norms to divide by."""
    every = {*USUAL, *POST_HOC}
    assert set(usual_heads([first])) == every
    state = plain_state(first / "checkpoint.pt")
    changed = {"config": state["config"] | {"loss": "cosface:scale=8"}}
    checkpoint.save(state | changed, tmp_path / "cosines.pt")
    lacking = {"lws", "marc", "samn", "tau-norm"}
    assert set(usual_heads([tmp_path / "cosines.pt", first])) == every - lacking
    with pytest.raises(LmsmError, match=r"--head lws goes on from plain .* on cosines \(cosface"):
        plan_second_stages([tmp_path / "cosines.pt"], ["crt", "lws"], {}, Layer({}, {}))


def without_validation(first, folder):
    """Return a copy of a run that held nothing out."""
    copied = shutil.copytree(first, folder)
    state = plain_state(copied / "checkpoint.pt")
    config = state["config"] | {"validation": 0.0}
    checkpoint.save(state | {"config": config}, copied / "checkpoint.pt")
    (copied / "config.yaml").write_text(dump_yaml(config))
    return copied


def test_what_was_not_held_out_is_said_before_work(first, tmp_path, capsys):
    """Nothing to choose tau on is an error, a class without an image a warning; both name a way."""
    copied = without_validation(first, tmp_path / "none")
    (told,) = what_is_not_held_out([copied])
    assert "held out no validation images" in told
    assert told.endswith("train it with --validation 0.1")
    assert main(["retrain", str(copied), "--head", "mla", "--out", str(tmp_path / "out")]) == 2
    said = " ".join(words(capsys.readouterr().err))
    assert "to choose the tau of mla on: give one, as in mla:1, or train with" in said
    assert not (tmp_path / "out").exists()
    assert set(usual_heads([copied])) - set(usual_heads([first])) == set()
    assert set(usual_heads([first])) - set(usual_heads([copied])) == {"adjust", "tau-norm", "mla"}
    partly = shutil.copytree(first, tmp_path / "partly")
    record = read_images_record(first)
    is_left = (record.split != 1) | (record.labels != 9)
    parts = {
        name: getattr(record, name)[is_left] for name in ("split", "labels", "digests", "places")
    }
    write_images(partly, replace(record, **parts))
    (told,) = what_is_not_held_out([partly])
    assert "held out no image of 9, so the choice of a last layer is one without them" in told
    assert what_is_not_held_out([first]) == []
