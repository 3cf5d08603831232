"""Photos kept larger than the net's input: crops come from all of them, scores from the middle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as kernels

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.defaults import Facts, defaults_by_data
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import decoding, splits
from lmsm_cli.data.augment import Changes, augmented, draw_changes
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.check import check_data
from lmsm_cli.data.decoded import MappedImages, middle
from lmsm_cli.data.image_files import preparation, read_image
from lmsm_cli.data.mixing import Mixing
from lmsm_cli.inference.export import export_checkpoint
from lmsm_cli.inference.predict import predict_files
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.images import read_images_record, read_predictions
from lmsm_cli.runs.record import find_runs
from lmsm_cli.runs.start import facts_with_start
from lmsm_cli.training import loop
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, evaluate, noise, save, write_class_folders
from tests.test_operations import pictures
from tests.test_resume import assert_same_bits, resumed, stopped

SIDE, KEPT = 12, 15
CLASSES = ("ant", "bee", "cow")
FLAGS = {
    "dataset": "folder",
    "model": "paper-2d",
    "imbalance": "none",
    "factor": 1.0,
    "image_size": SIDE,
    "augment": "photo",
    "crop_from": KEPT,
    "validation": 0.2,
    "batch_size": 8,
    "epochs": 2,
    "cutmix": 1.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders of photos that are larger than the net's input, in files of the kept size."""
    root = tmp_path_factory.mktemp("photos")
    write_class_folders(root / "data", CLASSES, 20, size=KEPT)
    return root / "data"


@pytest.fixture(scope="module")
def run(data):
    """The folder of a run on them."""
    config = digits_config(data.parent / "runs", data_dir=data, **FLAGS)
    return start_run(config, SilentDisplay(), with_plots=False).path


def middles(files):
    """Return the middle of pictures of the kept size, (N, C, H, W), by Pillow and torchvision."""
    whole = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    return torch.stack([kernels.center_crop(one, [SIDE, SIDE]) for one in whole])


def test_scores_are_of_the_middle_wherever_they_come_from(run, data):
    """The run's test, `eval` and `predict` say what the net says of torchvision's center_crop."""
    record = read_images_record(run).of("test")
    files = [data / place.decode() for place in record.places.tolist()]
    with torch.no_grad():
        wanted = load_checkpoint(run)(middles(files))
    saved = read_predictions(run)
    assert torch.allclose(torch.from_numpy(saved.logits), wanted, atol=1e-5)
    told = predict_files(read_trained(run), files, SilentDisplay(), top=1)
    shares = [one.likeliest[0][1] for one in told.images]
    assert shares == pytest.approx(wanted.softmax(1).max(1).values.tolist(), abs=1e-5)
    accuracy = (wanted.argmax(1) == torch.from_numpy(saved.labels)).double().mean().item()
    assert evaluate(run, SilentDisplay())["accuracy"] == pytest.approx(accuracy)
    evaluate(run, SilentDisplay(), split="validation")
    whole = evaluate(run, SilentDisplay(), images=data)
    with torch.no_grad():
        every = sorted(data.glob("*/*.png"))
        answers = load_checkpoint(run)(middles(every)).argmax(1).tolist()
    right = [CLASSES[a] == file.parent.name for a, file in zip(answers, every, strict=True)]
    assert whole["accuracy"] == pytest.approx(sum(right) / len(right))


def test_export_is_verified_on_the_middles_and_says_so(run, tmp_path):
    """The exported net takes images of the net's size, and how to make them is told."""
    display = SilentDisplay()
    document = export_checkpoint(run, display, form="torch", out=tmp_path / "net.pt2", num_images=6)
    assert document["verification"]["of"] == "test images of folder"
    assert not display.warned
    assert (document["image_height"], document["image_width"]) == (SIDE, SIDE)
    assert document["preparation"].endswith(": 15 x 15, and of that the middle 12 x 12")
    assert preparation("crop", 12) == preparation("crop", 12, 12)


def test_a_resumed_run_ends_with_the_same_bits(run, data, tmp_path):
    """Stopped inside an epoch; with images that stay in their file too, mixed at the net's size."""
    plans = []

    def kept(*args, **options):
        plans.append(plan_epoch(*args, **options))
        return plans[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decoding, "IN_MEMORY_BYTES", 0)
        patched.setattr(loop, "plan_epoch", kept)
        left = stopped(tmp_path, 7, data_dir=data, **FLAGS)
        assert isinstance(loaded(data).training.images, MappedImages)
    assert_same_bits(resumed(left), run)
    assert max(plan.mixing.boxes.max() for plan in plans) == SIDE


def loaded(data, **flags):
    """Return the images of a run with these flags."""
    return splits.load_data(digits_config("runs", data_dir=data, **FLAGS | flags), SilentDisplay())


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "in the file"])
def test_training_images_are_kept_whole_and_the_others_cut(data, monkeypatch, limit):
    """Only those that crops come from are larger; a batch has the net's size, mixed or not."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    found = loaded(data)
    assert found.training.images.shape[1:] == (KEPT, KEPT, 3)
    assert found.validation.images.shape[1:] == found.test.images.shape[1:] == (SIDE, SIDE, 3)
    assert found.image_shape == (SIDE, SIDE, 3)
    files = [data / place.decode() for place in found.test.places.tolist()]
    assert torch.equal(found.test.images[:].permute(0, 3, 1, 2), middles(files))
    mixing = Mixing(0.0, 1.0, 8, (SIDE, SIDE))
    plan = plan_epoch(
        len(found.training), "photo", seed=1, epoch=0, size=(KEPT, KEPT), mixing=mixing
    )
    assert plan.mixing.boxes.max() <= SIDE
    for batch in batches(
        found.training.images, found.training.labels, plan, 8, crop_to=(SIDE, SIDE)
    ):
        assert batch.images.shape[1:] == (3, SIDE, SIDE)


def test_crops_reach_every_edge_of_the_kept_image():
    """What the middle leaves out is trained on: some crop starts at each edge, none beyond it."""
    crops = draw_changes("photo", 2000, (16, 16), np.random.default_rng(0)).crops.numpy()
    assert crops[:, :2].min() == 0
    assert (crops[:, :2] + crops[:, 2:]).max() == 16


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_gets_the_nets_size_as_torchvision_does_it(channels):
    """Whether it is enlarged or made smaller, each image by its own crop; mirrored where drawn."""
    images = pictures(40, channels, (32, 32))
    changes = draw_changes("photo", 40, (32, 32), np.random.default_rng(0))
    found = augmented(images.permute(0, 2, 3, 1).contiguous(), changes, (28, 24))
    sides = set()
    for image, crop, flip, out in zip(images, changes.crops, changes.flips, found, strict=True):
        sides.add(bool((crop[2:] > torch.tensor([28, 24])).all()))
        wanted = kernels.resized_crop(image.float(), *crop.tolist(), size=[28, 24], antialias=False)
        wanted = wanted.flip(2) if flip else wanted
        assert (out - wanted).abs().max() < 0.501
    assert sides == {True, False}


def test_half_the_size_is_the_mean_of_four_pixels():
    """At the largest `crop_from` that is allowed no pixel is passed over."""
    images = torch.from_numpy(noise(0, (1, 8, 8, 3)))
    whole = Changes("photo", crops=torch.tensor([[0, 0, 8, 8]]))
    found = augmented(images, whole, (4, 4)).permute(0, 2, 3, 1)
    means = images.double().reshape(1, 4, 2, 4, 2, 3).mean((2, 4))
    assert (found - means).abs().max() < 0.501


@pytest.mark.parametrize("side", [5, 6, 9])
@pytest.mark.parametrize("size", [(9, 9), (10, 13)])
def test_the_middle_is_torchvisions(side, size):
    """Also where it is a pixel off on one side."""
    images = torch.from_numpy(noise(0, (3, *size, 3)))
    wanted = kernels.center_crop(images.permute(0, 3, 1, 2), [side, side]).permute(0, 2, 3, 1)
    assert torch.equal(middle(images, side), wanted)


def test_a_file_is_brought_to_the_kept_size_first(tmp_path):
    """A photo of another shape: its shorter side becomes 16, and of that the middle is taken."""
    path = save(tmp_path / "x.png", noise(3, (40, 64, 3)))
    found = read_image(path, size=12, channels=3, crop_from=16)
    with Image.open(path) as image:
        small = np.array(image.resize((16, 16), Image.Resampling.BICUBIC, box=(12, 0, 52, 40)))
    assert np.array_equal(found, small[2:14, 2:14])


@pytest.mark.parametrize(
    ("side", "given", "kept"),
    [
        (600, {"image_size": 224}, 256),
        (600, {"image_size": "64"}, 73),
        (600, {}, 110),
        (240, {"image_size": 224}, 240),
        (96, {}, None),
        (600, {"augment": "crop-flip"}, None),
        (600, {"resize": "pad"}, None),
        (40, {}, None),
        (40, {"augment": "photo"}, 37),
    ],
)
def test_the_kept_size_follows_the_images(side, given, kept):
    """8/7 of the net's, as the field takes 256 for 224, and no more than the photos have."""
    found = defaults_by_data(Facts("own", 1000, side, (side, side)), given)
    assert found.values.get("crop_from") == kept
    assert ("crop_from" in found.reasons) == (kept is not None)
    assert (
        "crop_from"
        not in defaults_by_data(
            Facts("own", 1000, side, (side, side)), given | {"crop_from": 99}
        ).values
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"augment": "flip"}, "crop_from 256 has no effect with augment 'flip'; take 'photo'"),
        ({"resize": "pad"}, "cuts off the edges that resize 'pad' keeps"),
        ({"image_size": 100}, "crop_from is 256 and image_size 100: take 100 to 200"),
        ({"image_size": 300}, "take 300 to 600"),
        ({"dataset": "cifar10"}, "no effect with dataset 'cifar10', whose images have one size"),
    ],
)
def test_a_kept_size_that_means_nothing_is_refused(flags, message):
    """With the nearest right one."""
    usual = {"dataset": "folder", "augment": "photo", "image_size": 224, "crop_from": 256}
    assert Config.model_validate(usual).kept_size == 256
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(usual | flags)


def test_a_last_layer_is_retrained_on_what_its_net_was_tested_on(run, data, tmp_path, monkeypatch):
    """Each part holds the middles, and so do the features that are kept; where the net is given
    the whole images instead, it has other features."""
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    flags = ["--head", "softmax", "--epochs", "1", "--device", "cpu", "--threads", "1", "--quiet"]
    assert main(["retrain", str(run), *flags, "--out", str(tmp_path / "heads")]) == 0
    (head,) = find_runs([tmp_path / "heads"])
    config = checkpoint.load(head / "checkpoint.pt").config
    assert (config.augment, config.crop_from) == ("none", KEPT)
    (tmp_path / "cache" / "features").rename(tmp_path / "features")
    for part, images in splits.load_data(config, SilentDisplay()).parts.items():
        files = [data / place.decode() for place in images.places.tolist()]
        assert torch.equal(images.images[:].permute(0, 3, 1, 2), middles(files)), part
        with torch.no_grad():
            wanted = load_checkpoint(run).embed(middles(files)).numpy()
        kept = [np.load(file)["features"] for file in (tmp_path / "features").iterdir()]
        assert any(
            one.shape == wanted.shape and np.allclose(one, wanted, atol=1e-5) for one in kept
        )
    again = ["train", "--config", str(head / "config.yaml"), "--crop-from", str(SIDE), "--quiet"]
    assert main([*again, "--out", str(tmp_path / "whole")]) == 0
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 3
    names = {one.name for one in (tmp_path / "features").iterdir()}
    assert not names & {one.name for one in (tmp_path / "cache" / "features").iterdir()}


def test_a_frozen_start_from_a_run_keeps_its_size(run, data):
    """By hand as by `lmsm retrain`; a net that learns again takes crops as any does."""
    flags = {"dataset": str(data), "pretrained": str(run), "freeze": "features"}
    for more, wanted in (
        ({"augment": "none"}, KEPT),
        ({"augment": "none", "image_size": str(KEPT)}, None),
        ({"augment": "none", "resize": "pad"}, None),
        ({"augment": "none", "freeze": "backbone"}, None),
    ):
        layer = Layer.of_flags(flags | more)
        config = resolve([layer], check_loss, facts_of=facts_with_start).config
        assert config.kept_size == wanted, more


def test_a_config_without_the_key_draws_crops_as_it_did(data):
    """Runs from before have none: their images have the net's size."""
    found = loaded(data, crop_from=None)
    assert found.training.images.shape == (len(found.training), SIDE, SIDE, 3)
    assert Config.model_validate(FLAGS | {"crop_from": SIDE}).kept_size is None


def test_a_near_copy_in_the_test_is_found_though_only_that_is_cut(tmp_path):
    """`lmsm data` compares the pictures at one size."""
    for split in ("train", "test"):
        write_class_folders(tmp_path / split, CLASSES, 6, size=KEPT, seed=len(split))
    picture = Image.fromarray(noise(5, (5, 5, 3))).resize((60, 60), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "train" / "ant" / "large.png")
    picture.resize((45, 45)).save(tmp_path / "test" / "ant" / "small.png")
    config = digits_config(tmp_path, data_dir=tmp_path, **FLAGS | {"validation": 0.0})
    at_hand = splits.look_into(config, SilentDisplay())
    assert at_hand.data.training.images.shape[1] != at_hand.data.test.images.shape[1]
    check = check_data("folder", tmp_path, at_hand, SIDE, SilentDisplay())
    assert [set(one.names) for one in check.alike] == [
        {"train/ant/large.png", "test/ant/small.png"}
    ]
    uncut = replace(at_hand.data, test=at_hand.data.training)
    assert uncut.image_shape == (KEPT, KEPT, 3)
