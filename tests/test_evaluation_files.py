"""What `lmsm eval` leaves in files: pictures, the surest mistakes, features."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import app, main
from lmsm_cli.data.sources import load
from lmsm_cli.errors import DiskError
from lmsm_cli.inference.evaluation_files import worst_mistakes, write_features
from lmsm_cli.training.run import start_run
from tests.conftest import (
    SilentDisplay,
    digits_config,
    evaluation,
    printed_json,
    save,
    write_class_folders,
)

PLOTS = {
    "accuracy_by_training_images.png",
    "accuracy_by_training_images.pdf",
    "confusion.png",
    "confusion.pdf",
    "reliability.png",
    "reliability.pdf",
    "worst_mistakes.png",
}


@pytest.fixture(scope="module")
def run(digits_run):
    """A run on the digits with features of many dimensions."""
    return digits_run


@pytest.fixture(scope="module")
def flat_run(tmp_path_factory):
    """A run on the digits with features of two dimensions."""
    flat = {"model": "paper-2d", "neck": "linear", "lr": 0.005, "epochs": 2}
    config = digits_config(tmp_path_factory.mktemp("flat"), **flat)
    return start_run(config, SilentDisplay()).path


@pytest.fixture(scope="module")
def by_hand(run):
    """The test images' pixels (N, 1, 8, 8), labels and logits, from the loaded checkpoint."""
    test = load("digits", run, "test")
    images = test.images.permute(0, 3, 1, 2)
    with torch.no_grad():
        return images, test.labels, load_checkpoint(run)(images)


def names_in(folder):
    """Return the names of a folder's entries, hidden ones included."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_plots_are_written_and_are_pictures(run, flat_run, tmp_path, capsys):
    """--plots makes the folder and the seven files, and for two features their picture too."""
    for path, wanted in ((run, PLOTS), (flat_run, PLOTS | {"features.png"})):
        folder = tmp_path / path.name / "new"
        assert main(["eval", str(path), "--plots", str(folder), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["split"] == "test"
        assert f"plots: {folder}" in printed.err
        assert names_in(folder) == wanted
        for name in wanted:
            head = (folder / name).read_bytes()[:4]
            assert head == (b"\x89PNG" if name.endswith("png") else b"%PDF")


def test_a_run_leaves_reliability_and_features_in_its_plots(run, flat_run):
    """Each run's plots/ has the reliability diagram; features.png only with two features."""
    assert {"reliability.png", "reliability.pdf"} <= names_in(run / "plots")
    assert "features.png" not in names_in(run / "plots")
    assert "features.png" in names_in(flat_run / "plots")


@pytest.mark.parametrize("number", [1, 7, 10_000])
def test_the_worst_mistakes_are_the_surest(run, by_hand, number):
    """Of the wrong answers the most probable come first, each with its own pixels."""
    images, labels, logits = by_hand
    shares, guesses = logits.softmax(1).max(1)
    wrong = [i for i in range(len(labels)) if guesses[i] != labels[i]]
    surest = sorted(wrong, key=lambda i: -shares[i].item())[:number]
    found = worst_mistakes(evaluation(run, SilentDisplay()), number)
    assert len(found) == min(number, len(wrong))
    assert [m.probability for m in found] == pytest.approx(
        [shares[i].item() for i in surest], abs=1e-5
    )
    for mistake, i in zip(found[:5], surest[:5], strict=True):
        assert (mistake.true_class, mistake.predicted_class) == (
            str(labels[i].item()),
            str(guesses[i].item()),
        )
        assert np.array_equal(mistake.image, images[i].permute(1, 2, 0).numpy())


def test_the_worst_mistakes_are_told_apart_where_all_are_sure(run):
    """Of probabilities that all are 1, those come first whose logit is furthest above the next."""
    found = evaluation(run, SilentDisplay(), temperature=0.001)
    labels = found.labelled.labels.numpy()
    gaps = np.diff(np.sort(found.logits.astype(float))[:, -2:])[:, 0]
    wrong = np.flatnonzero(found.predictions != labels)
    surest = wrong[np.argsort(-gaps[wrong])]
    mistakes = worst_mistakes(found, 20)
    assert np.float32(mistakes[9].probability) == 1
    for mistake, place in zip(mistakes[:10], surest[:10], strict=True):
        assert np.array_equal(mistake.image, found.labelled.images[int(place)].numpy())


def test_worst_decides_the_size_of_the_sheet(run, tmp_path):
    """25 mistakes stand in five rows unless --worst says otherwise."""
    for flags, size in (([], (780, 990)), (["--worst", "4"], (318, 402))):
        assert main(["eval", str(run), "--plots", str(tmp_path), *flags]) == 0
        with Image.open(tmp_path / "worst_mistakes.png") as sheet:
            assert sheet.size == size


def test_features_are_the_inputs_of_the_head(run, by_hand, tmp_path):
    """The .npz reads back without pickle; the class weights times its features give the logits."""
    images, labels, logits = by_hand
    assert main(["eval", str(run), "--features", str(tmp_path / "x.npz")]) == 0
    assert names_in(tmp_path) == {"x.npz"}
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    assert set(arrays) == {"features", "labels", "predictions", "logits", "classes"}
    (flag,) = [one for one in get_command(app).commands["eval"].params if one.name == "features"]
    assert all({"classes": "class names"}.get(name, name) in flag.help for name in arrays)
    assert arrays["features"].dtype == np.float32
    assert arrays["features"].shape == (len(images), 256)
    assert arrays["classes"].tolist() == [str(digit) for digit in range(10)]
    assert np.array_equal(arrays["labels"], labels.numpy())
    assert np.array_equal(arrays["predictions"], logits.argmax(1).numpy())
    weights = load_checkpoint(run).head.class_weights().detach().numpy()
    assert np.allclose(arrays["features"] @ weights.T, logits.numpy(), atol=1e-3)
    assert arrays["logits"].dtype == np.float32
    assert np.allclose(arrays["logits"], logits.numpy(), atol=1e-3)


def test_two_features_come_with_their_picture(flat_run, tmp_path, capsys):
    """Beside x.npz stands x.png where a feature is a point; one of the user's is not replaced."""
    assert main(["eval", str(flat_run), "--features", str(tmp_path / "x.npz")]) == 0
    assert names_in(tmp_path) == {"x.npz", "x.png"}
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["features"].shape[1] == 2
    assert main(["eval", str(flat_run), "--features", str(tmp_path / "x.npz")]) == 0
    (tmp_path / "x.png").write_bytes(b"mine")
    assert main(["eval", str(flat_run), "--features", str(tmp_path / "x.npz")]) == 2
    assert (tmp_path / "x.png").read_bytes() == b"mine"
    assert "x.png: a picture is there that lmsm did not draw" in capsys.readouterr().err


def test_features_are_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    """A disk that fills up leaves the old file and no half of the new one."""
    (tmp_path / "x.npz").write_bytes(b"old")
    found = evaluation(run, SilentDisplay())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match=r"cannot write .*x\.npz: No space left on device"):
        write_features(found, tmp_path / "x.npz")
    assert names_in(tmp_path) == {"x.npz"}
    assert (tmp_path / "x.npz").read_bytes() == b"old"


def test_what_an_adjustment_answers_is_what_is_drawn(run):
    """With --adjust predictions and logits are the corrected ones, as the scores are."""
    found = evaluation(run, SilentDisplay(), adjust=1.0)
    labels = found.labelled.labels.numpy()
    assert found.scores.accuracy == pytest.approx((found.predictions == labels).mean())
    assert np.array_equal(found.logits.argmax(1), found.predictions)
    assert (found.predictions != evaluation(run, SilentDisplay()).predictions).any()


def test_images_of_ones_own_work_with_everything(run, tmp_path, capsys):
    """--images of other sizes, in colour, of some classes: scores, pictures and features."""
    write_class_folders(tmp_path / "own", ("3", "7"), 6, size=20)
    save(tmp_path / "own" / "7" / "large.jpg", np.zeros((90, 50, 3), np.uint8))
    command = [
        "eval",
        str(run),
        "--images",
        str(tmp_path / "own"),
        "--plots",
        str(tmp_path / "plots"),
        "--features",
        str(tmp_path / "x.npz"),
        "--confusion",
    ]
    scores = printed_json(capsys, *command)
    assert {row["name"]: row["test_count"] for row in scores["per_class"] if row["test_count"]} == {
        "3": 6,
        "7": 7,
    }
    assert names_in(tmp_path / "plots") == PLOTS
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["labels"].tolist() == [3] * 6 + [7] * 7
        assert archive["classes"].shape == (10,)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Reliability" in printed
    assert (
        "0, 1, 2, 4, 5 and 3 more have none of these images: "
        "balanced accuracy and macro F1 are over the other 2 classes" in printed
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (
            ["--plots", "file"],
            6,
            "file is no folder that can be written to; choose another with --plots",
        ),
        (["--plots", "file/new"], 6, "choose another with --plots"),
        (["--features", "x.csv"], 2, "--features is 'x.csv': end the name in .npz"),
        (["--features", "nowhere/x.npz"], 6, "there is no folder nowhere"),
        (["--features", "folder.npz"], 6, "it is a folder; give the name of a file"),
        (["--worst", "3"], 2, "give --plots FOLDER too"),
        (["--plots", "new", "--worst", "0"], 2, "--worst"),
    ],
)
def test_places_are_checked_before_the_checkpoint_is_read(
    tmp_path, monkeypatch, capsys, flags, code, message
):
    """With no checkpoint to read the message is about the file that could not be written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    assert main(["eval", "nowhere.pt", *flags]) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert names_in(tmp_path) == {"file", "folder.npz"}
