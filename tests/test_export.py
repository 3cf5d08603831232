"""Exported files: other programs get the checkpoint's answers from them, or there is no file."""

import json
import shutil
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.config import Config, dump
from lmsm_cli.data import sources
from lmsm_cli.errors import LmsmError, RunError
from lmsm_cli.inference import export as exporting
from lmsm_cli.losses.registry import HEADS
from lmsm_cli.models.backbones import BACKBONES
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint
from tests.conftest import SilentDisplay, words

CLASSES = ("ant", "bee", "cat", "dög")
# Every backbone and every head at least once; the small nets serve the heads that are left over.
PAIRS = [(model or "paper-2d", loss) for model, loss in zip_longest(BACKBONES, HEADS)]


def write_checkpoint(folder: Path, model="paper-2d", loss="softmax", channels=3, side=32) -> Path:
    """Write a checkpoint of an untrained net whose BatchNorms have seen images."""
    config = Config.model_validate({"model": model, "loss": loss, "data_dir": folder / "no-data"})
    torch.manual_seed(0)
    counts = torch.tensor([40, 30, 20, 10])
    net = build_classifier(
        ModelSpec(model, config.neck, loss),
        classes=CLASSES,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
        class_counts=counts,
    )
    for _ in range(3):
        net(torch.randint(256, (16, channels, side, side), dtype=torch.uint8))
    state = checkpoint.state_of(
        net, dump(config), train_counts=counts.tolist(), image_shape=[side, side, channels], epoch=1
    )
    checkpoint.save(state, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def drawn_images(count, channels=3, side=32):
    """Return uint8 images (N, C, H, W)."""
    return np.random.default_rng(5).integers(0, 256, (count, channels, side, side), np.uint8)


def softmax(logits):
    """Return probabilities by the definition."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "loss"), PAIRS)
def test_onnxruntime_answers_as_the_checkpoint(tmp_path, model, loss):
    """Every backbone and head: raw uint8 images in, in any number; the checkpoint's logits out."""
    file = write_checkpoint(tmp_path, model, loss)
    exporting.export_checkpoint(file, SilentDisplay(), num_images=8)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "model.onnx"}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["N", 3, 32, 32])
    ]
    classifier = load_checkpoint(file)
    for count in (1, 5):
        images = drawn_images(count)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        with torch.no_grad():
            expected = classifier(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, expected, atol=3e-5 * abs(expected).max())
        np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)
    convolutions = [
        node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Conv"
    ]
    assert len(convolutions) == sum(
        isinstance(module, nn.Conv2d) for module in classifier.modules()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("model", "loss"), [("resnet32", "arcface"), ("paper-2d", "lsoftmax")])
def test_torch_program_needs_no_lmsm(tmp_path, model, loss):
    """A fresh process without lmsm_cli loads the .pt2 and gets logits and class names."""
    file = write_checkpoint(tmp_path, model, loss)
    exporting.export_checkpoint(file, SilentDisplay(), form="torch", num_images=8)
    images = drawn_images(3)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; sys.modules['lmsm_cli'] = None\n"
        "import json, numpy as np, torch\n"
        "extra = {'lmsm.json': ''}\n"
        "program = torch.export.load('model.pt2', extra_files=extra).module()\n"
        "answer = program(torch.from_numpy(np.load('images.npy')))\n"
        "np.savez('answer.npz', **{k: v.detach().numpy() for k, v in answer.items()})\n"
        "print(extra['lmsm.json'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == list(CLASSES)
    answer = np.load(tmp_path / "answer.npz")
    with torch.no_grad():
        expected = load_checkpoint(file)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(answer["logits"], expected, atol=3e-5 * abs(expected).max())
    np.testing.assert_allclose(answer["probabilities"], softmax(expected), atol=1e-5)


def test_the_file_says_what_it_is(tmp_path):
    """ONNX metadata: class names in order, image size, normalisation, loss; no local path."""
    exporting.export_checkpoint(
        write_checkpoint(tmp_path, loss="cosface:scale=20", channels=1, side=8),
        SilentDisplay(),
        num_images=8,
    )
    facts = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert [facts[key] for key in ("image_height", "image_width", "channels", "loss")] == words(
        "8 8 1 cosface:scale=20"
    )
    assert json.loads(facts["mean"]) == pytest.approx([0.4])
    assert json.loads(facts["std"]) == pytest.approx([0.2])
    assert "EXIF" in facts["preparation"]
    assert "the middle of the other kept" in facts["preparation"]
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(Path(exporting.__file__).parent).encode() not in content
    assert str(tmp_path).encode() not in content


@pytest.mark.parametrize("form", exporting.SUFFIXES)
def test_other_answers_leave_no_file(tmp_path, monkeypatch, form):
    """A file that answers otherwise than the checkpoint is an error; the old file still stands."""
    file = write_checkpoint(tmp_path)
    out = tmp_path / f"kept{exporting.SUFFIXES[form]}"
    out.write_text("before")
    make = exporting._program

    def wrong(model, image_shape):
        turned = load_checkpoint(file)
        turned.head.weight.data = turned.head.weight.data.roll(1, 0)
        return make(turned, image_shape)

    monkeypatch.setattr(exporting, "_program", wrong)
    with pytest.raises(RunError, match="other answers than the checkpoint"):
        exporting.export_checkpoint(file, SilentDisplay(), form=form, out=out, num_images=8)
    assert out.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", out.name}


def test_normalisation_that_is_a_little_off_is_noticed(tmp_path, monkeypatch):
    """Logits a hundredth off are no rounding, though every image still gets its class."""
    file = write_checkpoint(tmp_path)
    make = exporting._program

    def wrong(model, image_shape):
        other = load_checkpoint(file)
        other.head.weight.data *= 1.01
        return make(other, image_shape)

    monkeypatch.setattr(exporting, "_program", wrong)
    with pytest.raises(RunError, match="0 get another class"):
        exporting.export_checkpoint(file, SilentDisplay(), form="torch", num_images=8)


def test_a_run_is_verified_on_its_own_test_images(tmp_path, capsys):
    """`lmsm export RUN` compares on the test set where it is, says so, and prints nothing else."""
    assert main([*words("train --preset digits --epochs 1 --device cpu --out"), str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    capsys.readouterr()
    assert main(["export", str(run), "--images", "40", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["file"] == str(run / "model.onnx")
    assert document["bytes"] == (run / "model.onnx").stat().st_size
    found = document["verification"]
    assert (found["images"], found["of"], found["same_top1"]) == (40, "test images of digits", 1.0)
    assert main(["export", str(run), "--format", "torch", "--best"]) == 0
    assert "same class for 100.0%" in capsys.readouterr().out
    assert (run / "best.pt2").is_file()  # whose name is not that of the last epoch's
    assert not (run / "model.pt2").exists()
    before = (run / "model.onnx").read_bytes()
    assert main(["adjust", str(run), "--adjust", "1", "--out", str(run / "tau1.pt")]) == 0
    assert main(["export", str(run / "tau1.pt")]) == 0
    assert (run / "tau1.onnx").is_file()
    assert (run / "model.onnx").read_bytes() == before


def test_missing_data_is_said_and_nothing_is_downloaded(tmp_path):
    """Without the data the verification is on drawn images: a warning and the result say so."""
    display = SilentDisplay()
    document = exporting.export_checkpoint(
        write_checkpoint(tmp_path), display, form="torch", num_images=8
    )
    assert document["verification"]["of"] == "drawn images"
    (warning,) = display.warned
    assert "cifar10 is not below" in warning
    assert not (tmp_path / "no-data").exists()


def test_missing_packages_name_the_command(tmp_path, monkeypatch):
    """Without the extra there is one message with the pip command, before anything is read."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        LmsmError, match=r"pip install 'onnx>=[\d.]+' 'onnxruntime>=[\d.]+' 'onnxscript>=[\d.]+'$"
    ) as caught:
        exporting.export_checkpoint(tmp_path / "none.pt", SilentDisplay())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.pt"], 4, "no checkpoint at"),
        (["checkpoint.pt", "--out", "nowhere/model.onnx"], 6, "there is no folder nowhere"),
        (["checkpoint.pt", "--out", "."], 6, "it is a folder"),
        (["checkpoint.pt", "--format", "onx"], 2, "onx"),
        (["checkpoint.pt", "--images", "0"], 2, "--images is 0: give at least 1"),
        (["checkpoint.pt", "--out", "x.pt2"], 2, "--format onnx writes .onnx"),
    ],
)
def test_mistakes_are_found_before_the_work(tmp_path, monkeypatch, capsys, arguments, code, words):
    """Bad input ends with its exit code and one message, and writes nothing."""
    write_checkpoint(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "_program", None)
    assert main(["export", *arguments]) == code
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.realdata
def test_top1_is_equal_on_real_images(real_data, tmp_path):
    """A checkpoint of CIFAR-10: onnxruntime's class is ours on 1,000 real test images."""
    data = tmp_path / "cifar10"
    for part in ("train", "test"):
        for folder in (real_data / "cifar10" / part).iterdir():
            (data / part / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:100]:
                shutil.copy(file, data / part / folder.name)
    command = [
        "train",
        "--data-dir",
        str(tmp_path),
        *words("--batch-size 32 --epochs 2 --device cpu"),
    ]
    assert main([*command, "--loss", "lsoftmax", "--out", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    document = exporting.export_checkpoint(run, SilentDisplay())
    assert document["verification"]["of"] == "test images of cifar10"
    assert document["verification"]["images"] == 1000
    images = sources.load("cifar10", tmp_path, "test").images.permute(0, 3, 1, 2).contiguous()
    session = onnxruntime.InferenceSession(run / "model.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    ours = load_checkpoint(run).predict(images)
    assert logits.argmax(axis=1).tolist() == ours.tolist()
    assert len(set(ours.tolist())) > 3
