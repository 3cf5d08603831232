"""Published figures beside ours: the file is checked, and what stands below a table is true."""

import tarfile
from dataclasses import replace

import pytest
import yaml

from lmsm_cli.config import dump
from lmsm_cli.errors import LmsmError
from lmsm_cli.models.backbones import BACKBONES
from tests.conftest import BENCHMARKS
from tests.synthetic_runs import scores_json, write_run

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")

TAIL = {"dataset": "cifar10", "imbalance": "exp", "factor": 0.01, "model": "resnet32"}
FIGURE = {
    "data": "cifar10 exp 0.01",
    "model": "resnet32",
    "loss": ["softmax"],
    "accuracy": 70.36,
    "recipe": "long",
    "source": "Somebody 2019, table 2",
}
RECIPE = {"choices": {"epochs": 200, "neck": "bn"}, "scored": "the best epoch"}


def held(**changes):
    """Return a published.yaml of one figure, as plain data, with changes."""
    return {"recipes": {"long": RECIPE}, "figures": [FIGURE]} | changes


@pytest.fixture
def load(module, tmp_path):
    """A function that reads such data from a file."""

    def read(content):
        (tmp_path / "published.yaml").write_text(yaml.safe_dump(content))
        return module("published").published.__wrapped__(tmp_path / "published.yaml")

    return read


BAD = [
    (held(figures=[FIGURE | {"recipe": "lnog"}]), "figures.0: there is no recipe 'lnog'"),
    (held(figures=[FIGURE | {"accuracy": 0.7036}]), "figures.0.accuracy: .* greater than 1"),
    (held(figures=[FIGURE | {"source": ""}]), "figures.0.source"),
    (held(figures=[FIGURE | {"sourc": "x"}]), "figures.0.sourc: extra"),
    (held(figures=[FIGURE | {"loss": ["sotfmax"]}]), "figures.0: .*softmax"),
    (held(figures=[FIGURE | {"model": "resnet3"}]), "figures.0: model"),
    (held(figures=[FIGURE, FIGURE]), "figures.1: softmax of Somebody 2019, table 2 .* twice"),
    (held(recipes={"long": {"choices": {"epoch": 200}}}), "figures.0: epoch"),
    (held(recipes={"long": {"choices": {"optimizer": "sgd"}}}), "figures.0: its recipe lacks 'lr'"),
    (held(recipes={"long": RECIPE, "other": RECIPE}), "recipes.other: no figure is of it"),
    (
        held(reasons=[{"data": "mnist", "model": "resnet32", "recipes": ["long"], "text": "x"}]),
        "reasons.0: no figure of this data and net is of 'long'",
    ),
    (
        held(
            reasons=[
                {k: FIGURE[k] for k in ("data", "model")} | {"recipes": ["long"], "text": "{0}"}
            ]
        ),
        "reasons.0: its text speaks of more than 0 runs",
    ),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message for _, message in BAD])
def test_mistakes_in_the_file_are_told_with_their_place(load, content, message):
    """A share for percent, a misspelt loss or choice, a recipe that is not there."""
    with pytest.raises(LmsmError, match=f"published.yaml: {message}"):
        load(content)


def test_figures_are_those_of_their_sources(module):
    """By hand, of the papers' tables: one of each source."""
    found = {
        (one.data, one.model, one.name, one.recipe): one.accuracy
        for one in module("published").published().figures
    }
    tail = ("cifar10 exp 0.01", "resnet32")
    assert found[(*tail, "softmax", "ldam-drw")] == 70.36
    assert found[(*tail, "ldam with DRW", "ldam-drw")] == 77.03
    assert found[(*tail, "balanced-softmax", "dbm")] == 83.57
    assert found["cifar10 exp 0.1", "vgg16", "softmax", "original-vgg16"] == 81.5


def test_the_net_has_the_size_that_is_published(module):
    """LDAM-DRW's resnet32 has 464,154 parameters, of which 10 are the biases of its last layer."""
    size = module("beside")._size
    counts = tuple(range(10, 110, 10))
    assert size("resnet32", "none", "softmax", (True, 32, 3, counts)) == (464_154, 64)
    net, linear = BACKBONES["resnet32"](3).module, 64 * 64 + 2 * 64
    own = sum(one.numel() for one in net.parameters())
    bn = size("resnet32", "bn", "lsoftmax:margin=2,weight_norm=shared", (False, 32, 3, counts))
    assert bn == (own + linear + 10 * 64 + 1, 64)


@pytest.mark.parametrize(
    ("choices", "is_one"),
    [
        ({"loss": "logit-adjusted:tau=1.0"}, True),
        ({"loss": "logit-adjusted:tau=0.5"}, False),
        ({"loss": "softmax"}, False),
        ({"loss": "balanced-softmax", "reweight": "effective"}, False),
        ({"loss": "balanced-softmax", "sampling": "balanced"}, False),
        ({"loss": "balanced-softmax", "post_hoc": "adjust:tau=1"}, False),
    ],
)
def test_a_loss_is_one_in_every_spelling_and_not_with_more(load, module, choices, is_one):
    """Balanced softmax is logit adjustment with tau 1; re-weighted or corrected it is another."""
    figure = FIGURE | {"loss": ["balanced-softmax", "logit-adjusted"]}
    known = load(held(figures=[figure]))
    assert module("published").is_loss_of(known.figures[0], choices) is is_one


def test_recipes_are_compared_by_the_phrase(module):
    """LDAM-DRW's, shortened in proportion, differs in its length and warm-up alone."""
    tail = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "multistep", "gamma": 0.01}
    there = tail | {"epochs": 200, "milestones": [160, 180], "warmup": 5}
    here = tail | {"epochs": 30, "milestones": [24, 27], "warmup": 1, "neck": "bn"}
    told = module("recipe_words").differences(there, here)
    assert told == [
        "200 epochs (ours: 30 epochs)",
        "5 epochs of warm-up (ours: 1 epoch of warm-up)",
    ]


def runs_of(out, accuracies, **config):
    """Write a run for each accuracy, of seeds 0 and up."""
    for seed, accuracy in enumerate(accuracies):
        scores = scores_json([accuracy, accuracy], train=(5000, 50))
        more = {"checkpoint": "checkpoint.pt", "epoch": config.get("epochs", 30)}
        choices = TAIL | {"neck": "bn", "epochs": 30, "loss": "softmax", "seed": seed} | config
        name = f"{choices['loss'].partition(':')[0]}-{choices['neck']}-{seed}"
        write_run(out, name, scores=scores | more, **choices)


def test_published_figures_stand_beside_means_of_the_same_loss(load, module, tmp_path, monkeypatch):
    """Mean, sd and difference by hand; other losses have no row, and few runs no mean."""
    beside = module("beside")
    other = FIGURE | {"loss": ["vs"], "accuracy": 80.0}
    known = load(held(figures=[FIGURE, other]))
    monkeypatch.setattr(beside, "published", lambda: known)
    runs_of(tmp_path / "runs", [0.60, 0.61, 0.65])
    runs_of(tmp_path / "runs", [0.8, 0.8], loss="vs")
    text = beside.below([tmp_path / "runs", tmp_path / "missing"])
    assert "| softmax | 62.0±2.6 | 70.36 | -8.4 | Somebody 2019, table 2 |" in text
    assert "200 epochs (ours: 30 epochs); the best epoch is scored (ours: the last)" in text
    assert "More than 2 points from 70.36: the reason was not found." in text
    assert "Published too, with no row here: vs 80 (Somebody 2019, table 2)." in text
    assert "5,050 training images, 50 to 5,000 a class. The last of 30 epochs, seeds 0" in text
    assert beside.below([tmp_path / "missing"]) == ""


def test_reasons_are_told_beyond_two_points_only(load, module, tmp_path, monkeypatch):
    """At 1.9 points there is no reason to give; of another recipe there is none here."""
    beside = module("beside")
    reason = {key: FIGURE[key] for key in ("data", "model")}
    known = load(held(reasons=[reason | {"recipes": ["long"], "text": "fewer epochs."}]))
    monkeypatch.setattr(beside, "published", lambda: known)
    for name, accuracy, is_told in (("near", 0.685, False), ("far", 0.68, True)):
        runs_of(tmp_path / name, [accuracy] * 3)
        assert ("70.36: fewer epochs." in beside.below([tmp_path / name])) is is_told


def test_the_plan_is_that_of_the_script(module, monkeypatch):
    """Two nets, four rows each, three seeds, whatever the shell's variables are: 24 runs."""
    monkeypatch.setenv("MODELS", "resnet18")
    rows = module("original").planned()
    assert sum(row.seeds for row in rows) == 24
    assert [row.config.model for row in rows] == ["resnet18"] * 4 + ["vgg16"] * 4
    figures = [row.figure() and row.figure().accuracy for row in rows]
    assert sorted(figures, key=str) == [10, 10, 67.7, 79.7, 81.5, 88.1, None, None]


def test_each_kept_run_is_of_a_row(module, tmp_path, capsys):
    """A run's loss says what followed from the class counts, which that of a preset does not."""
    archives = sorted((BENCHMARKS / "runs").glob("seed-*.tar.xz"))
    for archive in archives:
        with tarfile.open(archive) as packed:
            packed.extractall(tmp_path, filter="data")
    folders = [tmp_path / archive.name.partition(".")[0] for archive in archives]
    assert module("original").main(list(map(str, folders))) == 0
    table = capsys.readouterr().out.partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    kept = sum(len(list(folder.glob("*/scores.json"))) for folder in folders)
    assert sum(int(row[-2].partition(" ")[0]) for row in rows) == kept >= 9


def test_rows_fill_as_runs_come(module, tmp_path, capsys):
    """Three seeds of a row make a mean, one none; another neck is another row."""
    original = module("original")
    first, neck, *_ = original.planned()
    for row, seeds in ((first, 3), (neck, 1)):
        for seed in range(seeds):
            config = dump(row.config) | {"seed": seed, "precision": "bf16"}
            del config["out"]
            scores = scores_json([0.6 + seed / 100] * 2) | {"checkpoint": "checkpoint.pt"}
            write_run(tmp_path / "runs", f"{row.is_added}-{seed}", scores=scores, **config)
    assert original.main([str(tmp_path / "runs"), str(tmp_path / "missing")]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()[2:]
    assert len(lines) == 8
    assert lines[0] == (
        "| softmax, resnet18, neck relu, cifar10 exp 0.1 | 67.7 | 61.0±1.0 | 3 of 3 | -6.7 |"
    )
    assert lines[1].endswith("| - | not run yet | 1 of 3 | - |")
    assert all("not run yet | 0 of 3" in line for line in lines[2:])
    assert replace(first, is_added=True).figure() is None


def test_lsoftmax_is_held_against_the_same_neck(module, tmp_path, capsys):
    """Of differences of 2, 3 and 4 points the half width is 4.303 / sqrt 3.

    Beside it a net without runs, and one of which only L-Softmax has some.
    """
    original = module("original")
    rows = [*original.planned()[:3], original.planned("imagenet")[2]]
    full = {"loss": "lsoftmax:margin=2,lambda_min=1,weight_norm=shared"}
    counts = {"train": (5000, 50), "test": (100, 100)}
    for number, (row, more) in enumerate(zip(rows, ({}, {}, full, full), strict=True)):
        for seed in range(3):
            gain = 0.02 + seed / 100 if more else 0
            scores = scores_json([0.6 + seed / 50 + gain] * 2, **counts)
            config = dump(row.config) | {"seed": seed} | more
            del config["out"]
            scores |= {"checkpoint": "checkpoint.pt"}
            write_run(tmp_path / "runs", f"{number}-{seed}", scores=scores, **config)
    assert original.main([str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out.partition("**L-Softmax less")[2].splitlines()[-3:]
    found, *missing = ([cell.strip() for cell in line.strip("|").split("|")] for line in told)
    assert found[1] == r"+3.0 \[+0.5, +5.5]"
    assert found[3:] == ["3 paired", "seeds", "better"]
    assert all(one[1:3] == ["not run yet"] * 2 for one in missing)
    assert missing[1][0].endswith("from ImageNet weights")
