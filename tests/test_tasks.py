"""Fifteen things that a user wants, each by one command with at most three options.

The last two are in Python. Nets and images are as small as they get, so that a task takes seconds;
the commands are those that one types for real images, but for their budget.
"""

import csv
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from lmsm_cli import LSoftmaxLoss, load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.runs.record import read_run
from lmsm_cli.sweeps import study_plan
from tests.conftest import noise, save
from tests.test_resume import assert_same_bits, stopped
from tests.test_study import few_candidates, photos

CLASSES = ("ant", "bee", "cat")
MOST_OPTIONS = 3
# What a training in a test must be given besides, in a file of its own.
SMALL = """\
dataset: photos
image_size: 8
model: paper-mnist
epochs: 2
batch_size: 8
precision: fp32
threads: 1
"""
OWN_LOSS = '''\
from torch.nn import functional

from lmsm_cli import LinearHead


class OwnLoss(LinearHead):
    """Cross-entropy to the power of an exponent."""

    calls = 0

    def __init__(self, num_features, num_classes, *, exponent: float = 1.0):
        super().__init__(num_features, num_classes)
        self.exponent = exponent

    def _losses(self, features, labels, progress):
        OwnLoss.calls += 1
        losses = functional.cross_entropy(self._scores(features), labels, reduction="none")
        return losses**self.exponent
'''
# Of runs made elsewhere: the share of right answers over 120 images of three classes, by seed.
ELSEWHERE = {"softmax": (0.60, 0.65, 0.62), "mine": (0.90, 0.92, 0.95)}


class Done(NamedTuple):
    """What a command left: its standard output, and the run folders that are new."""

    out: str
    runs: list[Path]

    @property
    def last_line(self):
        """What a reader sees last."""
        return self.out.rstrip().splitlines()[-1]

    def record(self):
        """Return the only new run, which must be finished."""
        (path,) = self.runs
        assert str(path) in self.out
        record = read_run(path)
        assert record.state == "completed"
        return record


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, lists, results of another program, and a finished and a killed run."""
    root = tmp_path_factory.mktemp("tasks")
    photos(root / "photos")
    photos(root / "unsorted", test=0)
    messy = photos(root / "messy", test=0)
    copyfile(messy / "ant" / "train0.png", messy / "bee" / "copy.png")
    files = sorted((root / "unsorted").rglob("*.png"))
    rows = [(path, "pet" if path.parent.name == "cat" else "insect") for path in files]
    write_csv(root / "photos.csv", ["path", "label"], rows)
    for number, (name, grey) in enumerate([("dark", 0), ("light", 128)] * 15):
        save(
            root / "others" / name / f"{number}.png",
            noise(500 + number, (8, 8)) // 2 + np.uint8(grey),
        )
    for number in range(60):  # between the classes, so that a correction moves some
        grey = np.uint8(2 * number)
        save(root / "new" / f"{number:02}.png", noise(900 + number, (8, 8)) // 2 + grey)
    for name, shares in ELSEWHERE.items():
        for seed, share in enumerate(shares):
            labels = np.arange(120) % 3
            wrong = np.random.default_rng(seed).permutation(120) >= round(share * 120)
            predicted = np.where(wrong, (labels + 1) % 3, labels)
            rows = zip(labels, predicted, strict=True)
            write_csv(root / f"{name}-s{seed}.csv", ["label", "predicted"], rows)
    (root / "small.yaml").write_text(SMALL)
    (root / "ownloss.py").write_text(OWN_LOSS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(shlex.split("train --config small.yaml --quiet")) == 0
        run_folders().pop().rename("runs/photos")
    stopped(root / "killed", 5).rename(root / "runs" / "killed")
    return root


def write_csv(path, header, rows):
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def new_images():
    """Return the names of the new images, and their pixels (N, 3, 8, 8)."""
    files = sorted(Path("new").iterdir())
    pixels = np.stack([np.array(Image.open(path).convert("RGB")) for path in files])
    return [str(path) for path in files], torch.from_numpy(pixels).permute(0, 3, 1, 2)


def corrected_classes(images):
    """Return the classes by logit adjustment (Menon et al. 2021), which are not those of the run.

    The log of a class's share of the training images is taken from its logit.
    """
    counts = [row.train_count for row in read_run(Path("runs/photos")).scores.per_class]
    net = load_checkpoint("runs/photos")
    with torch.no_grad():
        logits = net(images)
    found = (logits - torch.log(torch.tensor(counts) / sum(counts))).argmax(1)
    assert (found != logits.argmax(1)).any()
    return found


def told_the_loss(done):
    """A sentence at the end says which loss, the model is there, and the page to show."""
    assert done.last_line.startswith("Use ")
    (model,) = re.findall(r"^model: (.*\.pt)$", done.out, flags=re.MULTILINE)
    assert load_checkpoint(model).classes == CLASSES
    assert "<html" in Path("runs/study-unsorted/study.html").read_text()


def trained_on_folders(done):
    """A run with scores of each class, which are printed too."""
    scores = done.record().scores
    assert [(row.name, row.test_count) for row in scores.per_class] == [(c, 10) for c in CLASSES]
    assert all(f"\n  {name} " in done.out for name in CLASSES)


def trained_on_a_list(done):
    """The classes are those of the list, of as many images."""
    record = done.record()
    assert [row.name for row in record.scores.per_class] == ["insect", "pet"]
    with Path("photos.csv").open() as file:
        assert len(record.images.places) == sum(1 for _ in file) - 1


def checked_the_data(done):
    """What is wrong is named, what is too little too, and whether that is enough to begin."""
    assert "1 picture stands in two classes" in done.out
    assert re.search(r"cat has 6 images: 1 is tested.*; add images", done.out)
    assert "\nA training can start, with " in done.out
    assert done.last_line.startswith("Next, ")


def compared_by_seeds(done):
    """Each loss has its five seeds, and the answer stands at the end."""
    found = {}
    for path in done.runs:
        config = read_run(path).config
        found.setdefault(config["loss"].partition(":")[0], set()).add(config["seed"])
    assert found == {loss: set(range(5)) for loss in ("softmax", "lsoftmax", "balanced-softmax")}
    answer = " ".join(done.out.rstrip().splitlines()[-4:])
    assert "softmax" in answer
    assert answer.endswith(".")


def compared_with_elsewhere(done):
    """The difference is that of the shares of right answers, and it is told from chance."""
    means = {name: np.mean(np.round(np.multiply(120, ELSEWHERE[name]))) / 120 for name in ELSEWHERE}
    answer = " ".join(done.out.split())
    (points,) = re.findall(r"Over all classes mine beats softmax by ([\d.]+) points", answer)
    assert float(points) == pytest.approx(100 * (means["mine"] - means["softmax"]), abs=0.051)


def corrected(done):
    """The new checkpoint answers by logit adjustment, the run as before."""
    assert "runs/photos/adjusted.pt" in done.out
    images = new_images()[1]
    found = load_checkpoint("runs/photos/adjusted.pt").predict(images)
    assert torch.equal(found, corrected_classes(images))


def predicted_corrected(done):
    """Each new image has its class after the correction."""
    names, images = new_images()
    with Path("classes.csv").open() as file:
        found = {row["file"]: row["class_1"] for row in csv.DictReader(file)}
    classes = [CLASSES[place] for place in corrected_classes(images)]
    assert found == dict(zip(names, classes, strict=True))


def exported(done):
    """Another program gets these answers from the file."""
    (file,) = re.findall(r"^(\S*\.onnx): ", done.out, flags=re.MULTILINE)
    images = new_images()[1]
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert logits.argmax(1).tolist() == corrected_classes(images).tolist()


def started_from_weights(done):
    """For other classes, and after so few steps the layers are near those that it started from."""
    net = load_checkpoint(done.record().path)
    assert net.classes == ("dark", "light")
    before = dict(load_checkpoint("runs/photos").backbone.named_parameters())
    layers = {name: one for name, one in net.backbone.named_parameters() if one.ndim > 1}
    assert layers
    for name, layer in layers.items():
        assert 0 < (layer - before[name]).norm() < 0.2 * before[name].norm(), name


def weighed_a_class(done):
    """The run keeps the weight, and learns other things than the same one without."""
    record = done.record()
    assert record.config["class_weights"] == {"cat": 2}
    weights = [load_checkpoint(path).head.weight for path in (record.path, "runs/photos")]
    assert not torch.equal(*weights)


def wrote_one_file(done):
    """It loads nothing from anywhere, and names the classes and the loss."""
    page = Path("runs/photos/report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert all(f">{name}<" in page for name in CLASSES)


def trained_with_an_own_loss(done):
    """The run names it with its option, and the class was called for it."""
    assert done.record().config["loss"].startswith("ownloss:OwnLoss:exponent=2")
    assert sys.modules["ownloss"].OwnLoss.calls > 0


@dataclass(frozen=True)
class Task:
    """What a user wants, the command for it, and what it must have done."""

    wanted: str
    command: str
    check: Callable[[Done], None]


TASKS = (
    Task(
        "which loss is best for my photos, within half an hour",
        "study unsorted --budget 30m --epochs 1 --model paper-mnist",
        told_the_loss,
    ),
    Task(
        "train a classifier on a folder of photos",
        "train --dataset photos --epochs 1 --model paper-mnist",
        trained_on_folders,
    ),
    Task(
        "train on a CSV list of files",
        "train --dataset photos.csv --epochs 1 --model paper-mnist",
        trained_on_a_list,
    ),
    Task("what is wrong with my data, and is it enough", "data messy", checked_the_data),
    Task(
        "compare three losses over five seeds",
        "sweep --config small.yaml --grid loss=softmax,lsoftmax,balanced-softmax --seeds 5",
        compared_by_seeds,
    ),
    Task(
        "compare results that I made elsewhere",
        f"compare {' '.join(f'{name}-s{seed}.csv' for name in ELSEWHERE for seed in range(3))}",
        compared_with_elsewhere,
    ),
    Task("correct a finished model, and save it", "adjust runs/photos --adjust 1", corrected),
    Task(
        "predict new images with the corrected model",
        "predict runs/photos new --adjust 1 --csv classes.csv",
        predicted_corrected,
    ),
    Task("export it to ONNX", "export runs/photos --adjust 1", exported),
    Task(
        "start from pretrained weights",
        "train --dataset others --pretrained runs/photos --epochs 1",
        started_from_weights,
    ),
    Task(
        "give one class twice the weight",
        "train --config small.yaml --class-weights cat=2",
        weighed_a_class,
    ),
    Task("send somebody one file that shows everything", "report runs/photos", wrote_one_file),
    Task(
        "train with a loss of my own",
        "train --config small.yaml --loss ownloss:OwnLoss:exponent=2",
        trained_with_an_own_loss,
    ),
)


def done_by(command, capsys):
    """Run a command with few options, which must succeed; return what it left."""
    typed = shlex.split(command)
    assert sum(word.startswith("-") for word in typed) <= MOST_OPTIONS
    before = run_folders()
    capsys.readouterr()
    assert main(typed) == 0
    return Done(capsys.readouterr().out, sorted(run_folders() - before))


def run_folders():
    """Return the run folders, those of a sweep and a study too."""
    return {path.parent for path in Path("runs").rglob("config.yaml")}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.wanted)
def test_a_task_is_one_command(place, monkeypatch, capsys, task):
    """It ends with exit code 0, and what it promises is there."""
    monkeypatch.chdir(place)
    few_candidates(monkeypatch)
    monkeypatch.setattr(study_plan, "MOST_ROUNDS", 1)
    task.check(done_by(task.command, capsys))


def test_a_killed_run_goes_on_by_one_command(place, digits_run, monkeypatch, capsys):
    """To the bits of one that nobody stopped."""
    monkeypatch.chdir(place)
    done_by("resume runs/killed", capsys)
    assert_same_bits(Path("runs/killed"), digits_run)


def test_the_loss_serves_an_own_loop():
    """Images of three classes, apart by far, are told apart by a net of one's own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 10)
    images = torch.randn(70, 6, generator=generator) + 4 * torch.eye(3, 6)[labels]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    head = LSoftmaxLoss(8, 3, class_counts=torch.bincount(labels), total_steps=100)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        head(net(images), labels).backward()
        optimizer.step()
    found = head.logits(net(images)).argmax(1)
    assert (found == labels).float().mean() > 0.95
