"""What is known of a run's images before they are decoded, against what a training then has."""

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.data.facts import facts_of, remembered
from lmsm_cli.data.splits import load_data
from lmsm_cli.runtime.display import SILENT


def fill(root, counts, size=(80, 60)):
    """Write PNG files of noise, so many of each class."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number:03}.png")


@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "val", "test")])
@pytest.mark.parametrize(
    "more", [{}, {"imbalance": "exp", "factor": 0.2}, {"images_per_class": 7}, {"validation": 0.3}]
)
def test_the_facts_of_a_folder_are_those_of_its_training(tmp_path, parts, more):
    """As many training images, with every layout and profile, and the size in the middle."""
    for part in parts:
        fill(tmp_path / part, {"ant": 20, "bee": 13, "cat": 9})
    fill(tmp_path / parts[0] / "dog", {"deep": 4}, size=(30, 90))
    if "test" in parts:
        fill(tmp_path / "test" / "dog", {"deep": 2}, size=(30, 90))
    config = Config(dataset="folder", data_dir=tmp_path, batch_size=2, **more)
    facts = facts_of(config)
    assert facts.train_images == len(load_data(config, SILENT).training)
    assert (facts.kind, facts.side, facts.shape) == ("own", 60, (80, 60))


@pytest.mark.parametrize("dataset", ["digits", "imbalanced", "mnist"])
def test_published_sets_are_known_without_a_file(dataset, tmp_path):
    """By their published counts, those of a profile included: 12,406 in LDAM-DRW's CIFAR-10."""
    more = {"imbalance": "exp", "factor": 0.01} if dataset == "imbalanced" else {}
    facts = facts_of(Config(dataset=dataset, data_dir=tmp_path, validation=0.0, **more))
    assert facts.train_images == {"digits": 1198, "imbalanced": 12406, "mnist": 60000}[dataset]


def test_a_folder_with_faults_has_no_facts(tmp_path):
    """Loading reports them all at once; nothing is said here."""
    assert facts_of(Config(dataset="folder", data_dir=tmp_path / "none")) is None
    (tmp_path / "ant").mkdir()
    assert facts_of(Config(dataset="folder", data_dir=tmp_path)) is None


def test_a_sweep_looks_once_at_its_images(tmp_path):
    """Whatever else its runs vary; other images are other facts."""
    looks = []
    look = remembered(lambda config: looks.append(config))
    for seed in range(3):
        look(Config(seed=seed, lr=0.1))
    assert len(looks) == 1
    look(Config(factor=0.5, imbalance="exp"))
    assert len(looks) == 2


def test_a_training_says_what_it_chose(tmp_path, capsys):
    """The first command on one's own photos: the choices, the size, and the flag for more."""
    fill(tmp_path / "photos", {"ant": 12, "bee": 6}, size=(160, 120))
    arguments = ["train", "--dataset", "folder", "--data-dir", str(tmp_path / "photos")]
    arguments += ["--epochs", "1", "--image-size", "32", "--out", str(tmp_path / "runs")]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "chosen by the data: " in said
    assert "photos of 160 x 120 are brought to 32 x 32; --image-size 96 for more" in said


def test_a_photo_on_its_side_counts_as_it_is_shown(tmp_path):
    """EXIF says that it is turned by a quarter: 160 x 90 pixels are a photo of 90 x 160."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for label in ("ant", "bee"):
        for number in range(4):
            file = tmp_path / label / f"{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (160, 90)).save(file, exif=turned)
    facts = facts_of(Config(dataset="folder", data_dir=tmp_path, batch_size=2))
    assert (facts.shape, facts.side) == ((90, 160), 90)
