"""What tests share: a quiet display, small batches, tiny data sets on disk, the real ones."""

import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lmsm_cli
from lmsm_cli import build_head
from lmsm_cli.data.identity import pixel_digests
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.runs import checkpoint
from lmsm_cli.runtime.display import Display

torch.set_num_threads(1)  # test processes run side by side, and small nets gain nothing from two

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
SLOW = {line for line in (TESTS / "slow.txt").read_text().splitlines() if "::" in line}
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

# pytest's readline tells its workers a terminal's size, where none may be; tests set their own.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)

# Renamed in the environment, so that no test but those on real data sees it; worker processes do.
if "LMSM_DATA_DIR" in os.environ:
    os.environ["LMSM_REAL_DATA"] = os.environ.pop("LMSM_DATA_DIR")


# A cache folder of this test run's own, shared by its processes: decoded images go there, none of
# them into the developer's own.
_owns_cache = "LMSM_TEST_CACHE" not in os.environ
if _owns_cache:
    os.environ["LMSM_TEST_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    os.environ["LMSM_CACHE_DIR"] = str(Path(os.environ["LMSM_TEST_CACHE"], "lmsm"))


def pytest_report_header() -> str:
    """Say which package is tested: the checkout's, or the installed one."""
    return f"lmsm: {lmsm_cli.__file__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow.txt as `slow`."""
    for item in items:
        place = f"{item.path.relative_to(TESTS)}::{item.name.partition('[')[0]}"
        if place in SLOW:
            item.add_marker("slow")


def pytest_unconfigure() -> None:
    """Remove the cache folder."""
    if _owns_cache:
        shutil.rmtree(os.environ["LMSM_TEST_CACHE"], ignore_errors=True)


@pytest.fixture
def real_data() -> Path:
    """The folder of the unpacked real data sets; skips where it is not given."""
    if "LMSM_REAL_DATA" not in os.environ:
        pytest.skip("LMSM_DATA_DIR is not set")
    return Path(os.environ["LMSM_REAL_DATA"])


@pytest.fixture
def module(monkeypatch):
    """Return a function that imports a module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def image_set(images, labels, classes, mean=(0.5,), std=(0.5,)):
    """Return an ImageSet of pixels (N, H, W, C) that were published in this order."""
    digests = pixel_digests(images.numpy())
    return ImageSet(images, labels, tuple(classes), mean, std, digests, np.arange(len(images)))


@pytest.fixture
def one_rank(tmp_path):
    """A group of torch.distributed that is this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def children_seconds() -> float:
    """Return the processor time that the processes started by this one have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_to_import_torch() -> float:
    """Return the processor time of a fresh import: what a machine is measured by."""
    before = children_seconds()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return children_seconds() - before


def write_class_folders(
    root: Path, classes, per_class: int, *, size: int = 32, seed: int = 0
) -> None:
    """Write `per_class` PNGs a class; brightness tells the class, so they can be learned."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.normal(20 + 210 * label / len(classes), 12, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")


def noise(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    """Return random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels as an image file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory) -> Path:
    """A data folder with a CIFAR-10 of 12 training and 3 test images a class, as class folders."""
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "cifar10" / "train", CIFAR10_CLASSES, 12)
    write_class_folders(root / "cifar10" / "test", CIFAR10_CLASSES, 3, seed=1)
    return root


# Every 180 / m degrees psi passes from one branch to the next: these meet all of them up to m = 5,
# and ArcFace's past pi - margin, and none stands on a border.
ALL_BRANCHES = (0.5, 10, 40, 75, 100, 115, 130, 145, 155, 170)


def batch_at(degrees=ALL_BRANCHES, num_classes=5, num_features=6, *, dtype=torch.float64, seed=0):
    """Return features (N, D), class weights (C, D), labels (N,); features[i] is at degrees[i].

    The angle is the one to its own class weight; norms are drawn; the last class is in no label.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    labels = torch.arange(len(degrees)) % (num_classes - 1)
    along = torch.nn.functional.normalize(weight[labels])
    across = torch.randn(along.shape, generator=generator, dtype=torch.float64)
    across -= (across * along).sum(1, keepdim=True) * along
    across = torch.nn.functional.normalize(across)
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))[:, None]
    norms = 0.5 + 2 * torch.rand(len(degrees), 1, generator=generator, dtype=torch.float64)
    features = norms * (angles.cos() * along + angles.sin() * across)
    return features.to(dtype), weight.to(dtype), labels


def head_with(spec, weight, class_counts=None):
    """Return the head of a spec on the given class weights (C, D), and in their type.

    A norm shared by the classes is 1.3; of norms that rise the first is, and each next one is 0.1
    larger. Without `class_counts` the classes are about equal.
    """
    num_classes, num_features = weight.shape
    counts = 20 + torch.arange(num_classes) if class_counts is None else class_counts
    head = build_head(spec, num_features, num_classes, counts).to(weight.dtype)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            steps = torch.arange(parameter.numel()).view(parameter.shape)
            parameter.copy_(weight if name == "weight" else 1.3 + 0.1 * steps)
    return head


def plain_state(path) -> dict:
    """Return what a good checkpoint file holds, to look into or to change and save again."""
    checkpoint.load(path)
    return torch.load(path, weights_only=True)


def digits_config(out, **flags):
    """Return the config of three short epochs on the digits: one second of one core."""
    from lmsm_cli.config.resolve import Layer, resolve
    from lmsm_cli.losses.registry import check_loss

    fixed = {"epochs": 3, "batch_size": 64, "out": out, "device": "cpu", "precision": "fp32"}
    fixed |= {"layout": "channels-last", "threads": 1}
    return resolve([Layer.of_preset("digits"), Layer.of_flags(fixed | flags)], check_loss).config


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The folder of a finished run of `digits_config`; a test that changes it takes a copy."""
    from lmsm_cli.training.run import start_run

    return start_run(digits_config(tmp_path_factory.mktemp("digits")), SilentDisplay()).path


class SilentDisplay(Display):
    """A Display that shows nothing and keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.reported: list[tuple[str, int, int]] = []
        self.details: list[str] = []
        self.runs: list[tuple[int, int]] = []

    def progress(self, what, done, total):
        """Keep how far a piece of work was."""
        self.reported.append((what, done, total))

    def overall(self, done, total):
        """Keep how many runs were done."""
        self.runs.append((done, total))

    def info(self, text):
        """Keep a message."""
        self.said.append(text)

    def detail(self, text):
        """Keep a detail."""
        self.details.append(text)

    def warning(self, text):
        """Keep a warning."""
        self.warned.append(text)


def evaluation(
    path, display, *, prior=None, temperature=None, coverage=None, device="auto", **options
):
    """Return what `lmsm eval` finds; `options` are those of `asked` and Subject's fields."""
    # its modules count threads when they are imported
    from lmsm_cli.inference.correction import RequestedCorrection
    from lmsm_cli.inference.evaluate import Subject, evaluate_checkpoint

    taus = {key: options.pop(key, None) for key in ("adjust", "tau_norm", "scaled")}
    wanted = RequestedCorrection(asked(**taus), prior, temperature)
    return evaluate_checkpoint(
        path,
        display,
        Subject(**options),
        None if wanted == RequestedCorrection() else wanted,
        device=device,
        coverage=coverage,
    )


def asked(*, adjust=None, tau_norm=None, scaled=None):
    """Return the correction for rare classes of one flag, `scaled` that of --adjust scaled:TAU."""
    from lmsm_cli.inference.correction import RequestedTau

    options = (("adjust", adjust), ("tau-norm", tau_norm), ("adjust", scaled, True))
    return next((RequestedTau(*option) for option in options if option[1] is not None), None)


def evaluate(path, display, **options):
    """Return the scores that `lmsm eval` prints."""
    return evaluation(path, display, **options).scores.to_json()


def words(text):
    """Return the words of a text, as of a command line."""
    return text.split()


# A training of a second.
QUICK_DIGITS = words(
    "--dataset digits --model paper-mnist --epochs 1 --images-per-class 20 --batch-size 64 "
    "--threads 1 --precision fp32 --quiet"
)


def printed_json(capsys, *arguments, code=0):
    """Run a command with --json, which must end with the code; return the document it prints."""
    from lmsm_cli.commands.app import main

    assert main([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)
