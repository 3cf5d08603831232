"""Whole runs on small real and made data: the run folder's contract, evaluation, failures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from lmsm_cli import load_checkpoint
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import decoding, splits
from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.decoded import MappedImages
from lmsm_cli.data.sources import load
from lmsm_cli.errors import DataError, DiskError, DivergedError, LmsmError
from lmsm_cli.losses.registry import HEADS, build_head, check_loss
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.record import read_run
from lmsm_cli.training.prepare import build_model, check_config, resolved_spec
from lmsm_cli.training.run import start_run
from tests.conftest import (
    CIFAR10_CLASSES,
    SilentDisplay,
    digits_config,
    evaluate,
    plain_state,
    write_class_folders,
)
from tests.test_resume import assert_same_bits


def test_the_run_folder_keeps_its_contract(digits_run):
    """Every file of the design is there, named and filled as other people's scripts expect."""
    path = digits_run
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    plots = {
        f"plots/{name}.{kind}"
        for name in (
            "class_distribution",
            "training_history",
            "confusion",
            "reliability",
            "accuracy_by_training_images",
        )
        for kind in ("png", "pdf")
    }
    assert names == plots | {
        "config.yaml",
        "environment.json",
        "status.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "checkpoint-previous.pt",
        "best.pt",
        "scores.json",
        "images.npz",
        "predictions.npz",
        "train.log",
        ".lock",
    }
    assert json.loads((path / "status.json").read_text())["exit_code"] == 0
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    wanted = {
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "lambda",
        "lr",
        "images_per_second",
        "seconds",
    }
    assert wanted <= rows[0].keys()
    environment = json.loads((path / "environment.json").read_text())
    assert {"torch", "device", "git", "command"} <= environment.keys()
    assert path.name.split("-", 2)[2] == "digits-paper-mnist-lsoftmax-s42"


def test_config_yaml_repeats_the_run(digits_run):
    """The written config, read back, is the run's, all values named."""
    path = digits_run
    again = resolve([Layer.of_file(path / "config.yaml")], check_loss).config
    loss = "lsoftmax:margin=2,lambda_min=1,weight_norm=shared"  # what margin=2 means on a long tail
    assert yaml.safe_load((path / "config.yaml").read_text())["loss"] == loss
    settled = {key: getattr(again, key) for key in ("precision", "layout", "threads")}
    assert not {"auto", 0} & set(settled.values())
    assert again == digits_config(path.parent, loss=loss, **settled)


def test_options_are_written_to_the_last_digit():
    """What the user gave stays as given; what follows from the data is not rounded."""
    spec = "lsoftmax:margin=1.23456789,anneal=none"
    assert resolved_spec(spec, build_head(spec, 2, 2)) == spec + ",weight_norm=free"
    head = build_head("lsoftmax:margin=3.14159265", 2, 3, torch.tensor([9, 3, 1]))
    written = resolved_spec("lsoftmax:margin=3.14159265", head)
    assert build_head(written, 2, 3).lambda_at(1.0) == head.lambda_at(1.0) == 2 * 3.14159265 - 3


def test_a_loss_that_does_not_fit_the_data_is_found_before_it_is_read(tmp_path):
    """The class counts of a run are known beforehand, and the loss is built for them at once."""
    config = digits_config(tmp_path, loss="lsoftmax:margin=4,lambda_start=1")
    with pytest.raises(LmsmError, match="lambda_min 5 is above lambda_start 1"):
        check_config(config)


def test_scores_are_those_of_the_checkpoint(digits_run):
    """scores.json equals scikit-learn's scores of what the loaded checkpoint predicts."""
    path = digits_run
    scores = json.loads((path / "scores.json").read_text())
    test = load("digits", path, "test")
    predicted = load_checkpoint(path).predict(test.images.permute(0, 3, 1, 2)).numpy()
    labels = test.labels.numpy()
    precision, recall, f1, count = precision_recall_fscore_support(
        labels, predicted, zero_division=0
    )
    # the run computes in bf16 where the CPU has it: allow a few images
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted), abs=0.01)
    for c, row in enumerate(scores["per_class"]):
        assert row["test_count"] == count[c]
        assert row["accuracy"] == pytest.approx(recall[c], abs=0.05)
        assert row["precision"] == pytest.approx(precision[c], abs=0.1)
        assert row["f1"] == pytest.approx(f1[c], abs=0.1)
    assert np.array(scores["confusion"]).sum() == len(labels)
    assert scores["effective_margin"] == 1.5
    assert [row["train_count"] for row in scores["per_class"]] == sorted(
        (row["train_count"] for row in scores["per_class"]), reverse=True
    )


def test_evaluate_repeats_the_runs_scores(digits_run):
    """Evaluating the run folder or a checkpoint gives what the run says of it."""
    record = read_run(digits_run)
    for target in (digits_run, digits_run / "checkpoint.pt"):
        found = evaluate(target, SilentDisplay())
        wanted = record.scores.to_json()
        assert (found["per_class"], found["confusion"]) == (
            wanted["per_class"],
            wanted["confusion"],
        )
    held_out = evaluate(digits_run, SilentDisplay(), split="validation")
    assert held_out["accuracy"] == pytest.approx(record.metrics[-1]["val_accuracy"])
    best = evaluate(digits_run / "best.pt", SilentDisplay())
    assert best["accuracy"] == record.scores.best_on_validation.accuracy
    row = record.metrics[best["epoch"] - 1]
    assert best["effective_margin"] == pytest.approx(row["effective_margin"])


def test_other_data_than_the_runs_has_no_validation_split(digits_run, tmp_path):
    """Where the training images are others, the split would hold out images trained on: exit 3."""
    state = plain_state(digits_run / "checkpoint.pt")
    state["config"]["factor"] = 0.5  # as if there were more images than in training
    checkpoint.save(state, tmp_path / "c.pt")
    with pytest.raises(DataError, match="other training images than the run had"):
        evaluate(tmp_path / "c.pt", SilentDisplay(), split="validation")
    assert evaluate(tmp_path / "c.pt", SilentDisplay())["split"] == "test"


def test_the_same_config_repeats_the_run_exactly(digits_run, tmp_path):
    """A second run of the same config ends with the same bits and the same rows."""
    again = start_run(digits_config(tmp_path), SilentDisplay(), with_plots=False)
    assert_same_bits(again.path, digits_run)


SMALL_FOLDER = {
    "dataset": "folder",
    "model": "paper-2d",
    "imbalance": "none",
    "factor": 1.0,
    "image_size": 12,
    "batch_size": 8,
}


@pytest.fixture
def folder_run(tmp_path):
    """A run on data/, three classes of small images."""
    write_class_folders(tmp_path / "data", ("ant", "bee", "cow"), 20, size=12)
    flags = SMALL_FOLDER | {"data_dir": tmp_path / "data", "epochs": 2}
    return start_run(digits_config(tmp_path / "runs", **flags), SilentDisplay()).path


def test_class_folders_train_and_evaluate(folder_run, tmp_path, monkeypatch):
    """`folder` data trains; labels follow the names of the checkpoint's classes; else exit 3."""
    scores = read_run(folder_run).scores.to_json()
    assert [row["name"] for row in scores["per_class"]] == ["ant", "bee", "cow"]
    write_class_folders(tmp_path / "other", ("cow",), 4, size=12)
    monkeypatch.chdir(tmp_path)
    found = evaluate(folder_run, SilentDisplay(), images=Path("other"))
    assert found["split"] == str(tmp_path / "other")  # not "test", whatever the folder's name
    assert [row["test_count"] for row in found["per_class"]] == [0, 0, 4]
    write_class_folders(tmp_path / "strange", ("yak",), 2, size=12)
    with pytest.raises(DataError, match="yak"):
        evaluate(folder_run, SilentDisplay(), images=tmp_path / "strange")
    state = plain_state(folder_run / "checkpoint.pt")
    order = [2, 0, 1]  # as if the net had been trained with the classes numbered otherwise
    state["classes"] = [state["classes"][i] for i in order]
    state["model"]["head.weight"] = state["model"]["head.weight"][order]
    checkpoint.save(state, folder_run / "checkpoint.pt")
    found = evaluate(folder_run, SilentDisplay())
    assert sorted((row["name"], row["accuracy"]) for row in found["per_class"]) == [
        (row["name"], row["accuracy"]) for row in scores["per_class"]
    ]
    (tmp_path / "data" / "cow").rename(tmp_path / "data" / "yak")
    with pytest.raises(DataError, match=r"4 of another class now \(cow/\d+\.png, now in yak;"):
        evaluate(folder_run, SilentDisplay())


def test_large_class_folders_train_as_small_ones(tmp_path, monkeypatch):
    """Images that stay in their file give the metrics and scores that images in memory give."""
    write_class_folders(tmp_path / "data", ("ant", "bee", "cow"), 20, size=12)
    flags = {"data_dir": tmp_path / "data", "imbalance": "exp", "factor": 0.5, "epochs": 2}
    flags |= {"validation": 0.2, "augment": "crop-flip"}
    config = digits_config(tmp_path / "runs", **SMALL_FOLDER | flags)
    records = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
        folder = start_run(config, SilentDisplay(), with_plots=False)
        record, scores = read_run(folder.path), evaluate(folder.path, SilentDisplay())
        keys = ("train_loss", "val_loss", "val_accuracy")
        rows = [[row[key] for key in keys] for row in record.metrics]
        records.append((rows, record.scores.to_json()["confusion"], scores["confusion"]))
    images = load("folder", tmp_path / "data", "test", options=FolderOptions(12)).images
    assert isinstance(images, MappedImages)
    assert records[0] == records[1]


@pytest.mark.parametrize("profile", ["none", "exp", "step"])
def test_the_training_images_follow_the_profile(tiny_cifar, profile):
    """12 images a class under each profile, a quarter of them held out, class by class."""
    factor = 1.0 if profile == "none" else 1 / 3
    config = Config(
        dataset="cifar10", data_dir=tiny_cifar, imbalance=profile, factor=factor, validation=0.25
    )
    training, validation = splits.load_training(
        config.model_copy(update={"batch_size": 4}), SilentDisplay()
    )
    kept = [a + b for a, b in zip(training.counts(), validation.counts(), strict=True)]
    exponential = [int(12 * (1 / 3) ** (c / 9)) for c in range(10)]
    assert kept == {"none": [12] * 10, "exp": exponential, "step": [12] * 5 + [4] * 5}[profile]
    assert training.classes == CIFAR10_CLASSES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cifar10", "factor": 0.0001}, "class 9 would keep 0 of 5000 images"),
        ({"dataset": "cifar10", "batch_size": 20_000}, "only 18387 training images are left"),
        ({"dataset": "cifar100", "factor": 0.001}, "would keep 0 of 500 images"),
        (
            {"dataset": "cifar10", "validation": 0.00001},
            "no class is large enough to hold out an image",
        ),
        (
            {"dataset": "mnist", "model": "vgg16"},
            "vgg16 needs images of at least 32 pixels, these have 28",
        ),
        ({"dataset": "cifar10", "pretrained": "imagenet"}, "'resnet32' has no pretrained weights"),
        ({"dataset": "cifar10", "device": "cuda:99"}, "device is 'cuda:99'"),
    ],
)
def test_impossible_choices_are_refused_before_data_is_read(tmp_path, values, message):
    """With no data on disk the message is about the choice, not about the data."""
    config = digits_config(
        tmp_path / "runs", **({"data_dir": tmp_path / "nothing", "model": "resnet32"} | values)
    )
    with pytest.raises(LmsmError, match=message) as error:
        start_run(config, SilentDisplay())
    assert error.value.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_a_diverged_run_says_so_and_keeps_its_last_checkpoint(tmp_path):
    """A learning rate beyond reason ends with exit code 5, in status.json too."""
    config = digits_config(
        tmp_path, lr=1e18, epochs=4, optimizer="sgd", schedule="constant", neck="linear"
    )
    with pytest.raises(DivergedError):
        start_run(config, SilentDisplay())
    (path,) = tmp_path.iterdir()
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 5)


@pytest.mark.parametrize("part", ["running_mean", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_net_that_is_no_longer_finite_is_never_saved_nor_completed(
    tmp_path, monkeypatch, part, value
):
    """A statistic or weight that no loss shows ends the run with 5 at the epoch's end, by name."""
    config = digits_config(tmp_path, neck="bn", epochs=3)
    build, nets, steps = build_model, [], []

    class Saboteur(SilentDisplay):
        def step(self, step):
            steps.append(step)
            if step.epoch == 2 and step.step == step.num_steps:  # seen by no later step
                names = [name for name in nets[0].state_dict() if name.endswith(part)]
                nets[0].state_dict()[names[-1]].view(-1)[0] = value

    def watched(*given, **options):
        made = build(*given, **options)
        nets.append(made[0])
        return made

    monkeypatch.setattr("lmsm_cli.training.prepare.build_model", watched)
    with pytest.raises(
        DivergedError, match=rf"the tensor '.*{part}' .* no longer finite .* epoch 2"
    ):
        start_run(config, Saboteur())
    (path,) = tmp_path.iterdir()
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    assert not (path / "scores.json").exists()
    for file in path.glob("*.pt"):
        state = plain_state(file)
        assert state["epoch"] == 1
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_collapse_is_told_once_and_logged(tmp_path):
    """A sign of collapse reaches the display and train.log, once."""
    display = SilentDisplay()
    config = digits_config(
        tmp_path,
        loss="lsoftmax:margin=4,anneal=none",
        neck="relu",
        model="paper-2d",
        epochs=4,
        lr=0.03,
        schedule="constant",
    )
    folder = start_run(config, display, with_plots=False)
    dead = [text for text in display.warned if "exactly 0" in text]
    assert len(dead) == 1
    assert dead[0].startswith("Epoch 1: ")
    assert folder.log.read_text().count(f"WARNING {dead[0]}") == 1


def test_best_keeps_the_tolerance(digits_run):
    """best.pt changes only for a validation score better by more than best_tolerance."""
    record, best = read_run(digits_run), None
    for row in record.metrics:
        if best is None or row["val_balanced_accuracy"] > best["val_balanced_accuracy"] + 0.01:
            best = row
    assert record.scores.best_on_validation.epoch == best["epoch"]


def test_a_place_that_cannot_hold_runs_is_refused_before_data_is_read(tmp_path):
    """An --out below a file is exit code 6, with no data on disk to read."""
    (tmp_path / "file").write_text("")
    config = digits_config(
        tmp_path / "file" / "runs", dataset="cifar10", data_dir=tmp_path, model="resnet32"
    )
    with pytest.raises(DiskError, match="choose another with --out"):
        start_run(config, SilentDisplay())


EVERY_LOSS = [
    *HEADS,
    "lsoftmax:margin=1.5",
    "lsoftmax:margin=auto,margin_max=3",
    "lsoftmax:margin=3,class_chunk=4,tau=0.5",
]
QUICK = ("arcface", "ldam", "lsoftmax", "lsoftmax:margin=3,class_chunk=4,tau=0.5")
"""The others take as long each."""


@pytest.mark.parametrize(
    "loss", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in EVERY_LOSS]
)
def test_every_loss_trains_and_is_restored(loss, tmp_path):
    """From its spec each loss is far from chance in one epoch; its checkpoint alone rebuilds it."""
    config = digits_config(
        tmp_path, loss=loss, epochs=1, batch_size=32, factor=0.6, optimizer="adam", lr=0.002
    )
    folder = start_run(config, SilentDisplay(), with_plots=False)
    accuracy = read_run(folder.path).scores.accuracy
    assert accuracy > 0.4
    test = load("digits", tmp_path, "test")
    predicted = load_checkpoint(folder.path).predict(test.images.permute(0, 3, 1, 2))
    assert (predicted == test.labels).double().mean().item() == pytest.approx(accuracy, abs=0.02)
