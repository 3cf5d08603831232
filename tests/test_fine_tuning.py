"""Runs with nets of libraries, and runs that start from other weights, through the command line."""

import json
import re
import shutil

import pytest
import torch
from torchvision import models
from torchvision.models import vision_transformer

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.errors import LmsmError
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.start import (
    check_start,
    drawn_and_frozen,
    facts_with_start,
    new_classifier,
)
from lmsm_cli.sweeps.plan import plan_run
from lmsm_cli.training.prepare import prepare
from lmsm_cli.training.resume import config_hash
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, plain_state, write_class_folders

timm = pytest.importorskip("timm")

FLAGS = (
    "--dataset folder --epochs 2 --batch-size 8 --threads 1 --device cpu --precision fp32 "
    "--test-images-per-class 2 --quiet --json --out runs"
)


@pytest.fixture
def lmsm(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in an empty folder: exit code, document, words."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        text = printed.out
        return code, json.loads(text) if text.startswith("{") else text, printed.err

    return run


def weights_of(folder):
    """Return the tensors of a run's last checkpoint."""
    return plain_state(folder / "checkpoint.pt")["model"]


@pytest.fixture
def few_layers(monkeypatch):
    """Let torchvision build its ViTs narrow and with two blocks: its least has 86 million weights,
    each of which the test would save six times."""
    whole = vision_transformer._vision_transformer
    small = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    monkeypatch.setattr(
        vision_transformer, "_vision_transformer", lambda **sizes: whole(**sizes | small)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("resnet50", 32),
        ("convnext_tiny", 32),
        ("vit_b_16", 32),
        ("timm:vit_tiny_patch16_224", 32),
        ("timm:test_resnet", 32),
    ],
)
@pytest.mark.usefixtures("few_layers")
def test_a_net_of_a_library_is_trained_resumed_evaluated_and_exported(lmsm, tmp_path, model, size):
    """A run that was stopped ends in the bits of one that ran through; its ONNX file agrees."""
    write_class_folders(tmp_path / "photos", ["ant", "bee"], 10, size=size)
    flags = [*FLAGS.split(), "--data-dir", "photos", "--model", model, "--image-size", size]
    code, document, said = lmsm("train", *flags)
    assert code == 0, said
    (whole,) = (tmp_path / "runs").iterdir()
    config = checkpoint.load(whole / "checkpoint.pt").config.model_copy(
        update={"out": tmp_path / "stopped"}
    )

    class Stops(SilentDisplay):
        def step(self, step):
            if step.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_run(config, Stops(), with_plots=False)
    (stopped,) = (tmp_path / "stopped").iterdir()
    assert lmsm("resume", stopped, "--quiet")[0] == 0
    first, second = weights_of(whole), weights_of(stopped)
    assert all(torch.equal(first[key], second[key]) for key in first)
    shutil.rmtree(tmp_path / "stopped")
    code, scores, said = lmsm("eval", whole, "--json", "--quiet")
    assert code == 0, said
    assert scores["accuracy"] == document["accuracy"]
    code, answers, said = lmsm("predict", whole, "photos/ant/0000.png", "--json", "--quiet")
    assert code == 0, said
    assert answers["images"][0]["error"] is None
    code, exported, said = lmsm("export", whole, "--json", "--quiet")
    assert code == 0, said
    assert exported["verification"]["same_top1"] == 1


@pytest.mark.slow
def test_a_net_that_takes_no_such_images_is_refused_before_any_is_read(lmsm):
    """The folder does not even exist; exit code 2 and a size that goes."""
    code, _, said = lmsm(
        *f"train {FLAGS} --data-dir nowhere --model vit_b_16 --image-size 70".split()
    )
    assert code == 2
    assert "vit_b_16 takes no images of 70 pixels" in said
    assert "--image-size 64" in said


# --- starting from a run ---


def begin(config, classes=tuple("0123456789"), counts=None):
    """Return the classifier that a run of a config begins with on the digits, and its words."""
    torch.manual_seed(5)
    return new_classifier(
        config,
        classes=classes,
        train_counts=counts or [10] * len(classes),
        normalisation=((0.1,), (0.9,)),
        image_size=8,
    )


def test_a_run_with_the_same_classes_gives_all_its_weights(digits_run, tmp_path):
    """Net, neck and class weights are the run's, and images are normalised as its were."""
    state = plain_state(digits_run / "checkpoint.pt")
    config = digits_config(tmp_path, pretrained=str(digits_run))
    model, said = begin(config, counts=state["train_counts"])
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state["model"].items())
    assert model.mean.flatten().tolist() == state["mean"]
    assert f"starts from {digits_run} (net, neck, last layer)" in said
    by_file, _ = begin(digits_config(tmp_path, pretrained=str(digits_run / "best.pt")))
    best = plain_state(digits_run / "best.pt")["model"]
    assert torch.equal(by_file.head.weight, best["head.weight"])


def test_a_run_with_other_classes_gives_its_net_and_its_neck(digits_run, tmp_path):
    """The class weights are those that a run from scratch would have drawn."""
    state = plain_state(digits_run / "checkpoint.pt")["model"]
    model, said = begin(digits_config(tmp_path, pretrained=str(digits_run)), ("cat", "dog"))
    fresh, _ = begin(digits_config(tmp_path), ("cat", "dog"))
    for key, value in model.state_dict().items():
        if key.startswith(("backbone.", "neck.")):
            assert torch.equal(value, state[key]), key
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert "(net, neck);" in said
    other = digits_config(tmp_path, pretrained=str(digits_run), neck="prelu")
    model, said = begin(other)
    assert torch.equal(
        model.neck[0].weight, begin(digits_config(tmp_path, neck="prelu"))[0].neck[0].weight
    )
    assert "(net" in said
    assert "neck" not in said


def test_names_in_another_order_are_other_classes(digits_run, tmp_path):
    """Class weights go by place, so only the same names in the same order take them."""
    _, said = begin(digits_config(tmp_path, pretrained=str(digits_run)), tuple("1023456789"))
    assert "last layer" not in said


def test_a_run_of_another_net_is_refused_by_name(digits_run, tmp_path):
    """Before any data is read; the net to take is told."""
    config = digits_config(tmp_path, pretrained=str(digits_run), model="resnet32")
    with pytest.raises(LmsmError, match=r"is a run of the net paper-mnist, and model is resnet32"):
        check_start(config)


def test_a_frozen_neck_is_that_of_the_run(digits_run, tmp_path):
    """A neck that stays as it is drawn would spoil all features: the one to take is told."""
    frozen = {"pretrained": str(digits_run), "freeze": "features"}
    check_start(digits_config(tmp_path, **frozen))
    check_start(digits_config(tmp_path, **frozen, neck="none"))
    check_start(digits_config(tmp_path, **frozen | {"freeze": "backbone"}, neck="prelu"))
    with pytest.raises(LmsmError, match=r"keep the neck 'prelu' as .* 'bn'; take --neck bn"):
        check_start(digits_config(tmp_path, **frozen, neck="prelu"))
    file = tmp_path / "net.pth"
    torch.save(models.get_model("mobilenet_v3_small", weights=None).state_dict(), file)
    library = {"model": "mobilenet_v3_small", "pretrained": str(file), "freeze": "features"}
    check_start(Config.model_validate(library | {"neck": "none"}))
    with pytest.raises(LmsmError, match=r"has none; take --neck none, or --freeze backbone"):
        check_start(Config.model_validate(library))


def test_what_stays_as_it_is_drawn_is_told(tmp_path):
    """Without weights to start from, what is frozen never learns anything."""
    for choices, told in (({"freeze": "2"}, True), ({}, False), (FROZEN, False)):
        assert bool(drawn_and_frozen(Config.model_validate(choices))) == told
    display = SilentDisplay()
    prepare(digits_config(tmp_path, freeze="2"), display, SINGLE_PROCESS)
    assert any("stays as it is drawn at random; --pretrained" in text for text in display.warned)


FROZEN = {"freeze": "backbone", "pretrained": "imagenet"}


def test_the_run_to_start_from_gives_the_defaults_that_fit_its_weights(digits_run, lmsm, tmp_path):
    """Net, neck and size, with the reason; what is given wins. A sweep's plan has the same."""
    write_class_folders(tmp_path / "photos", ("ant", "bee"), 10, size=40)
    flags = ("--dataset", "photos", "--pretrained", str(digits_run))
    shown = _shown(lmsm("train", *flags, "--show-config"))
    assert shown["model"] == ["paper-mnist", "the run of --pretrained has it"]
    assert shown["image_size"] == ["8", "the run of --pretrained has it"]
    config = plan_run([Layer.of_flags(dict(zip(KEYS, flags[1::2], strict=True)))], {}, 3).config
    assert (config.model, config.image_size) == ("paper-mnist", 8)
    check_start(config)
    own = ("--image-size", "16", "--neck", "prelu", "--model", "resnet32")
    shown = _shown(lmsm("train", *flags, "--show-config", *own))
    assert [shown[key] for key in ("image_size", "neck", "model")] == [
        ["16", "--image-size"],
        ["prelu", "--neck"],
        ["resnet32", "--model"],
    ]


def _shown(found):
    """Return what --show-config prints: value and reason of each key."""
    code, text, _ = found
    assert code == 0
    cells = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    return {key: rest for key, *rest in cells}


KEYS = ("dataset", "pretrained")


@pytest.mark.parametrize("what", ["own net", "damaged", "missing"])
def test_a_run_that_cannot_be_taken_as_it_is_gives_no_defaults(digits_run, tmp_path, what):
    """The net of a received run may be anybody's code: it is named by the user, or not at all."""
    file = tmp_path / "checkpoint.pt"
    state = plain_state(digits_run / "checkpoint.pt")
    state["config"]["model"] = "left_mark:net" if what == "own net" else state["config"]["model"]
    if what != "missing":
        checkpoint.save(state, file)
    assert bool(_choices(file)) == (what == "damaged")
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:-2000])
        assert _choices(file) == {}


def _choices(file):
    """Return what a training on the digits would take over from the run of a checkpoint."""
    config = Config(dataset="digits", pretrained=str(file))
    return facts_with_start(config).start


def test_the_hash_of_a_run_that_starts_from_a_run_is_of_its_content(digits_run, tmp_path):
    """A sweep finds the run again by the weights, wherever the run that they are of lies."""
    copy = shutil.copytree(digits_run, tmp_path / "copy")
    one = config_hash(digits_config(tmp_path, pretrained=str(digits_run)))
    assert config_hash(digits_config(tmp_path, pretrained=str(copy))) == one
    checkpoint_file = copy / "checkpoint.pt"
    checkpoint_file.write_bytes((digits_run / "best.pt").read_bytes())
    if checkpoint_file.read_bytes() != (digits_run / "checkpoint.pt").read_bytes():
        assert config_hash(digits_config(tmp_path, pretrained=str(copy))) != one


def test_a_run_goes_on_without_the_weights_that_it_started_from(digits_run, tmp_path):
    """Its own checkpoint has them: the run that it started from may be gone by then."""
    source = shutil.copytree(digits_run, tmp_path / "source")
    config = digits_config(tmp_path / "runs", pretrained=str(source), epochs=2)
    display = SilentDisplay()
    folder = start_run(config, display, with_plots=False)
    assert any("images are normalised as its" in text for text in display.said)
    shutil.rmtree(source)
    assert main(["resume", str(folder.path), "--epochs", "3", "--quiet"]) == 0


def test_a_damaged_run_is_no_start(digits_run, tmp_path):
    """A checkpoint is verified as `lmsm resume` verifies it."""
    damaged = tmp_path / "checkpoint.pt"
    content = bytearray((digits_run / "checkpoint.pt").read_bytes())
    content[5000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(LmsmError, match="is damaged"):
        check_start(digits_config(tmp_path, pretrained=str(damaged)))
