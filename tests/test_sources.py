"""What sources.py promises."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lmsm_cli.data import class_folders, decoded, decoding, published, sources
from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.sources import SOURCES, load, load_folder, source_of
from lmsm_cli.errors import DataError, LmsmError
from tests.conftest import image_set


def colour(path: Path, rgb: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    """Write an image of one colour, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, rgb).save(path)


def folders(root: Path, classes: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    """Write class folders with so many images each; image i of a class is of grey i."""
    for name, count in classes.items():
        for index in range(count):
            colour(root / name / f"{index:03}.png", (index, index, index), size)
    return root


def test_image_set_counts_every_class():
    """Classes without an image count 0."""
    images = image_set(torch.zeros(3, 2, 2, 1, dtype=torch.uint8), torch.tensor([2, 0, 2]), "abcd")
    assert images.counts() == [1, 0, 2, 0]
    assert len(images) == 3


def test_subset_takes_images_in_the_order_asked_for():
    """A subset holds the images at the indices and shares nothing with the whole."""
    pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    whole = image_set(pixels, torch.tensor([0, 1, 0, 1]), "ab")
    part = whole.subset([3, 0])
    assert part.images.flatten().tolist() == [3, 0]
    assert part.labels.tolist() == [1, 0]
    part.images.zero_()
    assert whole.images.flatten().tolist() == [0, 1, 2, 3]
    assert whole.subset(torch.tensor([], dtype=torch.int64)).counts() == [0, 0]


def test_digits_are_scikit_learns():
    """The two splits together are the 1,797 digits, 0..16 stretched over 0..255."""
    train, test = load("digits", Path("nowhere"), "train"), load("digits", Path("nowhere"), "test")
    assert train.images.shape == (1198, 8, 8, 1)
    assert test.images.shape == (599, 8, 8, 1)
    assert train.images.dtype == torch.uint8
    both = torch.cat([train.images, test.images]).double().flatten(1) * 16 / 255
    restored = sorted(map(tuple, both.round().int().tolist()))
    assert restored == sorted(map(tuple, load_digits().data.astype(int).tolist()))
    assert (np.array(train.counts()) + test.counts()).tolist() == np.bincount(
        load_digits().target
    ).tolist()


def test_digits_are_normalised_by_the_training_images():
    """Mean and deviation are those of the training images, for the test split too."""
    train, test = load("digits", Path(), "train"), load("digits", Path(), "test")
    pixels = train.images.double() / 255
    assert train.mean[0] == pytest.approx(float(pixels.mean()))
    assert train.std[0] == pytest.approx(float(pixels.std(correction=0)))
    assert (test.mean, test.std) == (train.mean, train.std)


def test_digits_need_no_torchvision(monkeypatch):
    """The built-in data works where torchvision cannot be imported, and no module asks for it."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for module in (published, decoded, decoding, class_folders, sources):
        runpy.run_path(module.__file__)
    assert len(load("digits", Path(), "train")) == 1198
    with pytest.raises(ImportError):
        load("mnist", Path(), "train")


@pytest.mark.parametrize(
    ("dataset", "images", "classes", "channels", "size"),
    [
        ("balanced", 50_000, 10, 3, 32),
        ("imbalanced", 50_000, 10, 3, 32),
        ("cifar10", 50_000, 10, 3, 32),
        ("cifar100", 50_000, 100, 3, 32),
        ("mnist", 60_000, 10, 1, 28),
        ("fashion-mnist", 60_000, 10, 1, 28),
        ("svhn", 73_257, 10, 3, 32),
        ("digits", 1198, 10, 1, 8),
    ],
)
def test_sources_are_known_before_reading(dataset, images, classes, channels, size):
    """Sizes, and the published number of training images, are known without any file."""
    source = source_of(dataset)
    assert sum(source.train_counts) == images
    assert len(source.train_counts) == classes
    assert (source.channels, source.size) == (channels, size)


def test_digits_counts_are_what_is_loaded():
    """The counts known beforehand are those of the images."""
    assert list(SOURCES["digits"].train_counts) == load("digits", Path(), "train").counts()


def test_unknown_data_set_names_the_nearest():
    """A misspelt data set is a usage error with the right name."""
    with pytest.raises(LmsmError, match="did you mean 'cifar100'") as caught:
        load("cifar-100", Path(), "train")
    assert caught.value.exit_code == 2


def test_folder_with_train_and_test(tmp_path):
    """With train/ and test/ each split is its own folder, normalised by the training images."""
    folders(tmp_path / "train", {"cat": 3, "dog": 2}, (12, 8))
    folders(tmp_path / "test", {"cat": 1, "dog": 4}, (8, 20))
    train = load("folder", tmp_path, "train", options=FolderOptions(8))
    test = load("folder", tmp_path, "test", options=FolderOptions(8))
    assert train.counts() == [3, 2]
    assert test.counts() == [1, 4]
    assert test.images.shape == (5, 8, 8, 3)
    assert train.classes == test.classes == ("cat", "dog")
    grey = np.array([0, 1, 2, 0, 1]) / 255
    assert test.mean == train.mean == pytest.approx([grey.mean()] * 3)
    assert test.std == train.std == pytest.approx([max(grey.std(), 1 / 255)] * 3)


def test_folder_without_splits_is_split_by_class(tmp_path):
    """Plain class folders give 20% of each class to the test; no image is in both splits."""
    folders(tmp_path, {"cat": 10, "dog": 25})
    train = load("folder", tmp_path, "train", options=FolderOptions(8))
    test = load("folder", tmp_path, "test", options=FolderOptions(8))
    assert train.counts() == [8, 20]
    assert test.counts() == [2, 5]
    seen = [
        (int(label), int(image[0, 0, 0]))
        for part in (train, test)
        for label, image in zip(part.labels, part.images, strict=True)
    ]
    assert sorted(seen) == [(0, index) for index in range(10)] + [(1, index) for index in range(25)]
    assert test.mean == train.mean


def test_class_may_be_called_train(tmp_path):
    """A folder `train` with images, not folders, inside is a class: of vehicles, say."""
    folders(tmp_path, {"bus": 5, "train": 5})
    assert load("folder", tmp_path, "test", options=FolderOptions(8)).classes == ("bus", "train")


def test_folder_of_channels(tmp_path):
    """Mean and deviation are per channel; one colour alone does not give a deviation of 0."""
    for index in range(10):
        colour(tmp_path / f"red{index % 2}" / f"{index}.png", (255, 51, 0))
    images = load("folder", tmp_path, "train", options=FolderOptions(8))
    assert images.mean == pytest.approx((1, 0.2, 0))
    assert min(images.std) > 0


def test_missing_data_dir_is_a_data_error(tmp_path):
    """A folder that is not there is exit code 3 with the expected layout."""
    with pytest.raises(
        DataError, match=r"there is no folder .*nowhere; expected .*<class>"
    ) as caught:
        load("folder", tmp_path / "nowhere", "train")
    assert caught.value.exit_code == 3


TEN = {f"class {index}": 2 for index in range(10)}


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_cifar10_as_class_folders(tmp_path, inside):
    """Class folders below cifar10/ are CIFAR-10 too, with CIFAR-10's normalisation."""
    folders(tmp_path / "cifar10" / "train", TEN, (32, 32))
    folders(tmp_path / "cifar10" / "test", TEN, (32, 32))
    images = load("imbalanced", tmp_path / inside, "train")
    assert images.images.shape == (20, 32, 32, 3)
    assert images.counts() == [2] * 10
    assert images.mean == (0.4914, 0.4822, 0.4465)


def test_mnist_as_class_folders_is_grey(tmp_path):
    """Class folders of MNIST are read with one channel of 28 pixels."""
    folders(tmp_path / "mnist" / "train", TEN, (28, 28))
    assert load("mnist", tmp_path, "train").images.shape == (20, 28, 28, 1)


def test_half_a_data_set_is_not_taken_for_the_whole(tmp_path):
    """Nine folders are not CIFAR-10, and train/ without test/ is not completed by a download."""
    folders(tmp_path / "cifar10" / "train", dict(list(TEN.items())[:9]), (32, 32))
    with pytest.raises(DataError, match="holds 9 class folders, cifar10 has 10"):
        load("cifar10", tmp_path, "train")
    with pytest.raises(DataError, match=r"there is no folder .*test"):
        load("cifar10", tmp_path, "test")


def test_load_folder_takes_the_classes_of_a_model(tmp_path):
    """Labels are places in the given classes, whatever folders are there."""
    folders(tmp_path, {"ant": 1, "cat": 2})
    images = load_folder(
        tmp_path, options=FolderOptions(8), channels=1, classes=["cat", "bee", "ant"]
    )
    assert images.classes == ("cat", "bee", "ant")
    assert images.labels.tolist() == [2, 0, 0]
    assert images.images.shape == (3, 8, 8, 1)
    assert load_folder(tmp_path, options=FolderOptions(8)).classes == ("ant", "cat")


def test_load_folder_refuses_foreign_classes(tmp_path):
    """A folder that is no class of the model is named, before images are read."""
    folders(tmp_path, {"ant": 1, "yeti": 1})
    with pytest.raises(DataError, match="none of the classes: 'yeti'"):
        load_folder(tmp_path, options=FolderOptions(8), classes=["ant", "cat"])
    assert not list(tmp_path.glob(".lmsm*"))


@pytest.mark.realdata
def test_real_cifar10(real_data):
    """Real CIFAR-10 has 5,000 and 1,000 images a class and the pixels' mean that is published."""
    train, test = (load("cifar10", real_data, split) for split in ("train", "test"))
    assert train.counts() == [5000] * 10
    assert test.counts() == [1000] * 10
    assert train.classes[0] == "airplane"
    mean = train.images.double().mean(dim=(0, 1, 2)) / 255
    assert mean.tolist() == pytest.approx(train.mean, abs=1e-3)
