"""Defaults by the data: numbers worked out by hand, what wins over them, and what is said."""

from pathlib import Path

import pytest

from docs import references
from lmsm_cli.commands.app import main
from lmsm_cli.config import Config, help_text
from lmsm_cli.config.defaults import PHOTO_NET, Facts, defaults_by_data
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import facts
from tests.conftest import write_class_folders


def own(train_images, side=32, **more):
    """Return the facts of a user's square images."""
    return Facts("own", train_images, side, (side, side), **more)


@pytest.mark.parametrize(
    ("train_images", "batch", "epochs"),
    [
        # 45,000 / 128 = 352 steps: ten epochs are more than 1,500
        (45_000, 128, 10),
        # 2,700 / 20 = 135, so 128; 22 steps; 1,500 / 22 = 68.2
        (2_700, 128, 69),
        # 2,559 / 20 = 127.95: 64; 40 steps; 1,500 / 40 = 37.5
        (2_559, 64, 38),
        (2_560, 128, 75),
        # 325 / 20 = 16.25; 21 steps; 1,500 / 21 = 71.4
        (325, 16, 72),
        # 159 / 20 = 7.95, at least 8; 20 steps; 75 epochs
        (159, 8, 75),
        # 48 images of two classes: six steps of 8, and no more than 200 epochs
        (48, 8, 200),
        (5, 5, 200),  # all in one batch
        (2, 2, 200),
    ],
)
def test_batch_and_epochs_give_steps_enough(train_images, batch, epochs):
    """A power of two with 20 steps an epoch, and 1,500 steps in 10 to 200 epochs."""
    values = defaults_by_data(own(train_images), {}).values
    assert (values["batch_size"], values["epochs"]) == (batch, epochs)


@pytest.mark.parametrize(("train_images", "enough"), [(56, False), (57, True)])
def test_what_is_told_of_steps_is_so(train_images, enough):
    """From 57 images on, 8 steps of 8 in 200 epochs at most; digits have 10 epochs."""
    values = defaults_by_data(own(train_images), {}).values
    steps = -(-train_images // values["batch_size"]) * values["epochs"]
    assert (steps >= 1500) == enough
    page = Path(references.__file__).with_name("configuration.md").read_text(encoding="utf-8")
    assert "of fewer than 57 images that is less" in " ".join(page.split())
    digits = resolve([Layer.of_flags({"dataset": "digits"})], facts_of=facts.facts_of).config
    assert help_text(Config.model_fields["epochs"]).endswith(
        f"enough for 1,500 steps, but 10 to 200; {digits.epochs} for digits)."
    )


@pytest.mark.parametrize(
    ("given", "lr"),
    [
        ({}, 0.00035),  # 0.001 sqrt(16 / 128)
        ({"batch_size": "128"}, 0.001),
        ({"batch_size": 512}, 0.002),
        ({"optimizer": "sgd"}, 0.0063),  # 0.05 x 16 / 128 = 0.00625
        ({"optimizer": "sgd", "model": "vgg16"}, 0.005),  # 0.04 x 16 / 128
        ({"pretrained": "w.pth"}, 0.00011),  # 0.3 x 0.00035
        ({"optimizer": "sgdd"}, None),  # which Config refuses
        ({"batch_size": "many"}, 0.00035),
    ],
)
def test_the_rate_goes_with_batch_and_optimiser(given, lr):
    """Adam's with the square root of the batch, SGD's in proportion."""
    assert defaults_by_data(own(325), given).values.get("lr") == lr


@pytest.mark.parametrize(
    ("side", "weights", "given", "size"),
    [
        (600, (), {}, 96),
        (600, (PHOTO_NET,), {}, 224),
        (600, (PHOTO_NET,), {"model": "vgg16_bn"}, 96),
        (600, (PHOTO_NET, "vgg16_bn"), {"model": "vgg16_bn"}, 224),
        (600, (), {"pretrained": "imagenet"}, 224),
        (127, (), {}, 96),
        (95, (), {}, 64),
        (64, (), {}, 64),
        (50, (), {}, 32),
        (20, (), {}, 32),
        (200, (PHOTO_NET,), {}, 128),
    ],
)
def test_images_get_the_next_size_below_their_own(side, weights, given, size):
    """32, 64, 96, 128 or 224 pixels, and at most 96 without trained weights."""
    facts = own(1000, side, cached_weights=frozenset(weights))
    assert defaults_by_data(facts, given).values["image_size"] == size


def test_weights_on_this_disk_are_taken_and_said():
    """For photos alone, and only where nothing else was named."""
    facts = own(1000, 600, cached_weights=frozenset({PHOTO_NET}))
    found = defaults_by_data(facts, {})
    assert found.values["pretrained"] == "imagenet"
    assert "on this disk" in found.reasons["pretrained"]
    assert "pretrained" not in defaults_by_data(facts, {"image_size": "32"}).values
    assert "pretrained" not in defaults_by_data(facts, {"pretrained": None}).values
    assert "pretrained" not in defaults_by_data(own(1000, 600), {}).values
    small = own(1000, 40, cached_weights=frozenset({PHOTO_NET}))
    assert "pretrained" not in defaults_by_data(small, {}).values


def test_shrunk_photos_and_absent_weights_are_said():
    """The sizes, the flag for more, and how to get weights; nothing of that for small images."""
    facts = Facts("own", 1000, 600, (800, 600))
    notes = " / ".join(defaults_by_data(facts, {}).notes)
    assert "photos of 800 x 600 are brought to 96 x 96; --image-size 224 for more" in notes
    assert "--pretrained imagenet downloads weights" in notes
    assert "are brought to 32 x 32" in " ".join(defaults_by_data(facts, {"image_size": 32}).notes)
    small = " ".join(defaults_by_data(own(1000, 33), {}).notes)
    assert "brought to" not in small
    assert "pretrained" not in small


def test_a_given_value_is_left_and_the_others_follow_it():
    """Nothing that was given is in the result."""
    given = {"epochs": "3", "model": "resnet32", "lr": "0.1", "schedule": "step"}
    values = defaults_by_data(own(325), given).values
    assert not values.keys() & given.keys()
    assert values["batch_size"] == 16


@pytest.mark.parametrize(
    "given", [["--gamma", "0.5"], ["--step-size", "30"], ["--milestones", "9,12"]]
)
def test_options_of_another_schedule_choose_none(tmp_path, capsys, given):
    """Over the epochs of a cosine, a step every other epoch would leave no learning rate."""
    write_class_folders(tmp_path / "photos", ["ant", "bee"], 20, size=16)
    assert main(["train", "--dataset", str(tmp_path / "photos"), *given, "--show-config"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has no effect with schedule 'cosine'; take " in told


DIGITS = {
    "model": "paper-mnist",
    "neck": "bn",
    "optimizer": "sgd",
    "batch_size": 32,
    "epochs": 10,
    "lr": 0.05,
    "schedule": "cosine",
    "loss": "lsoftmax:margin=2",
    "imbalance": "exp",
}


def test_digits_take_the_training_of_their_preset_alone():
    """Net, neck, optimiser, rate, batch, epochs and schedule; not the loss and not the tail."""
    facts = Facts("digits", 434, 8, recipe=DIGITS)
    values = defaults_by_data(facts, {}).values
    assert values == {key: DIGITS[key] for key in DIGITS.keys() - {"loss", "imbalance"}}
    assert defaults_by_data(facts, {"optimizer": "adam"}).values["lr"] == 0.0005


@pytest.mark.parametrize(
    ("kind", "side", "model", "augment"),
    [
        ("grey", 28, "paper-mnist", None),
        ("objects", 32, "resnet18", "crop-flip"),
        ("numbers", 32, "resnet18", None),  # a mirrored 2 is none
        ("own", 32, "resnet18", "crop-flip"),
        ("own", 64, PHOTO_NET, "photo"),
    ],
)
def test_net_and_augmentation_go_with_the_kind_of_images(kind, side, model, augment):
    """By what they show and how large they are."""
    values = defaults_by_data(Facts(kind, 5000, side, (side, side)), {}).values
    assert (values["model"], values.get("augment")) == (model, augment)


def facts_of(config):
    """Return the facts of 325 small images, whatever the config."""
    return own(325)


def test_presets_and_files_are_left_as_they_are(tmp_path):
    """They are whole recipes: what they leave out has its built-in default."""
    preset = [Layer.of_preset("imbalanced-resnet18"), Layer.of_flags({"lr": "0.01"})]
    assert resolve(preset, facts_of=facts_of) == resolve(preset)
    (tmp_path / "own.yaml").write_text("epochs: 7\n")
    file = [Layer.of_file(tmp_path / "own.yaml")]
    assert resolve(file, facts_of=facts_of) == resolve(file)
    assert resolve([], facts_of=facts_of).config.batch_size == 16
    assert resolve([], facts_of=lambda config: None) == resolve([])


def test_each_default_comes_with_its_reason():
    """As `--show-config` shows it; a flag is named as ever."""
    resolved = resolve([Layer.of_flags({"epochs": "4"})], facts_of=facts_of)
    assert resolved.origins["batch_size"] == "325 training images make 21 steps an epoch"
    assert resolved.origins["epochs"] == "--epochs"
    assert resolved.origins["momentum"] == "default"
    assert resolved.config.epochs == 4
    assert "batch size 16" in resolved.notes[0]


def test_values_that_only_fit_the_defaults_by_the_data_are_taken():
    """A warm-up of 20 epochs does not fit ten; it fits the 72 of these images."""
    layers = [Layer.of_flags({"warmup": "20"})]
    assert resolve(layers, facts_of=facts_of).config.epochs == 72


RUN = {"model": "vgg16_bn", "neck": "none", "image_size": 48}


def test_the_run_to_start_from_gives_net_neck_and_size():
    """Each unless it was given; the size only where images can have another. The reason says so."""
    given = {"pretrained": "runs/first"}
    found = defaults_by_data(own(1000, 600, start=RUN), given)
    assert {key: found.values[key] for key in RUN} == RUN
    assert {found.reasons[key] for key in RUN} == {"the run of --pretrained has it"}
    chosen = given | {"neck": "bn", "image_size": "64"}
    found = defaults_by_data(own(1000, 600, start=RUN), chosen)
    assert found.values["model"] == "vgg16_bn"
    assert not found.values.keys() & chosen.keys()
    digits = Facts("digits", 1000, 8, recipe={"model": "paper-mnist", "lr": 0.1}, start=RUN)
    found = defaults_by_data(digits, given)
    assert (found.values["model"], found.values["neck"]) == ("vgg16_bn", "none")
    assert "image_size" not in found.values
