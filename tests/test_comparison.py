"""Which runs are put together, and what `lmsm compare` says of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmsm_cli.reports.comparison import Statistic, compare_runs
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.record import RunRecord, find_runs, read_run

CONFIG = {"dataset": "digits", "loss": "softmax", "neck": "bn", "seed": 1, "out": "runs", "device": "cpu"}  # fmt: skip


def scores_of(accuracies, *, train=(30, 3), test=(10, 10), names=("cat", "dog"), **more):
    """Return a scores.json in which each class has the given accuracy."""
    mean = sum(accuracies) / len(accuracies)
    rows = zip(names, train, test, accuracies, strict=True)
    return {
        **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall"), mean),
        "per_class": [
            {"name": name, "train_count": n, "test_count": k, "accuracy": a, "precision": a, "f1": a}
            for name, n, k, a in rows
        ],
        "confusion": [[0] * len(names)] * len(names),
        "groups": {"many": accuracies[0], "medium": None, "few": accuracies[-1]},
        **more,
    }  # fmt: skip


def run(name, accuracies=(0.5, 0.5), *, scores=None, state="completed", **config):
    """Return the record of a run as `read_run` would."""
    status = {"state": state, "reason": "", "exit_code": 0}
    return RunRecord(Path("runs") / name, CONFIG | config, status, [], scores or scores_of(accuracies), None)  # fmt: skip


def write(record):
    """Write the record as a run folder below the current folder."""
    folder = RunFolder.create(record.path.parent, record.path.name)
    folder.write_config("\n".join(f"{key}: {json.dumps(value)}" for key, value in record.config.items()))  # fmt: skip
    folder.write_status(record.state, exit_code=0)
    folder.append_metrics({"epoch": 1})
    if record.scores:
        folder.write_scores(record.scores)


def test_runs_that_differ_in_the_seed_are_one_group_with_mean_and_sd():
    """Three seeds of one config give one row; sd is the sample's, worked by hand."""
    comparison = compare_runs([
        run("a", (0.9, 0.1), seed=1),
        run("b", (0.8, 0.2), seed=2, out="elsewhere", device="cuda"),
        run("c", (0.7, 0.6), seed=3, data_dir="there"),
    ])  # fmt: skip
    (group,) = comparison.groups
    assert group.seeds == (1, 2, 3)
    assert group.metrics["many"] == Statistic(pytest.approx(0.8), pytest.approx(0.1), 3)
    # (0.1, 0.2, 0.6): mean 0.3, squares 0.04 + 0.01 + 0.09 = 0.14, sd sqrt(0.07)
    assert group.metrics["few"] == Statistic(pytest.approx(0.3), pytest.approx(0.07**0.5), 3)
    assert group.metrics["medium"] is None
    assert [one.accuracy.mean for one in group.per_class] == pytest.approx([0.8, 0.3])


def test_one_run_has_no_standard_deviation():
    """A single seed shows n = 1 and no sd, instead of a zero that looks like certainty."""
    (group,) = compare_runs([run("a", (0.9, 0.1))]).groups
    assert group.metrics["accuracy"] == Statistic(0.5, None, 1)


def test_a_repeated_seed_counts_once():
    """Of two runs with one config and seed the newest counts, and the other's row says so."""
    comparison = compare_runs([run("20260102", (0.9, 0.9)), run("20260101", (0.1, 0.1))])
    assert comparison.groups[0].metrics["accuracy"] == Statistic(0.9, None, 1)
    (left_out,) = comparison.unscored
    assert left_out.run.endswith("20260101")
    assert "20260102" in left_out.reason


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"loss": "lsoftmax:margin=4"}, "lsoftmax:margin=4"),
        ({"neck": "relu"}, "softmax neck=relu"),
        ({"epochs": 3}, "softmax epochs=3"),
        ({"state": "interrupted"}, "softmax state=interrupted"),
        ({"scores": scores_of((1, 1), checkpoint="best.pt")}, "softmax checkpoint=best.pt"),
        ({"scores": scores_of((1, 1), test=(10, 11))}, "softmax test_images=21"),
        ({"scores": scores_of((1, 1), train=(30, 4))}, "softmax train_images=34"),
    ],
)  # fmt: skip
def test_runs_that_differ_in_anything_else_are_never_averaged(change, label):
    """Another choice, an unfinished run, another checkpoint or other images make another group."""
    comparison = compare_runs([run("a", seed=1), run("b", seed=2, **change)])
    assert len(comparison.groups) == 2
    assert comparison.groups[1].label == label


def test_other_classes_are_another_test_set():
    """Runs on other classes are told apart even where their configs are equal."""
    other = scores_of((1, 1), names=("red", "green"))
    comparison = compare_runs([run("a"), run("b", seed=2, scores=other)])
    assert [group.test_set for group in comparison.groups] == [0, 1]


def test_run_without_scores_is_listed_with_its_reason():
    """A run folder without scores does not stop the comparison of the others."""
    broken = RunRecord(Path("runs/x"), None, None, [], None, "no config.yaml; no scores.json")
    comparison = compare_runs([broken, run("a")])
    assert len(comparison.groups) == 1
    assert comparison.unscored[0].reason == "no config.yaml; no scores.json"
    assert compare_runs([broken]).groups == ()


def test_json_is_plain_and_strict():
    """The document of --json survives a strict round trip, None for what there is not."""
    document = compare_runs([run("a"), run("b", seed=2)]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["groups"][0]["metrics"]["medium"] is None
    assert document["groups"][0]["per_class"][1] == {
        "name": "dog", "train_count": 3, "accuracy": {"mean": 0.5, "sd": 0.0, "n": 2},
    }  # fmt: skip


def test_records_from_disk_are_grouped_like_those_in_memory(tmp_path, monkeypatch):
    """What a run folder holds is enough: nothing that decides a group is lost on disk."""
    monkeypatch.chdir(tmp_path)
    records = [run("a"), run("b", seed=2), run("c", loss="lsoftmax:margin=2")]
    for record in records:
        write(record)
    read = [read_run(path) for path in find_runs([Path("runs")])]
    assert compare_runs(read) == compare_runs(records)


COMMAND = """
import sys
sys.modules["torch"] = None  # importing it would raise
import typer
from lmsm_cli.commands.compare import compare
typer.run(compare)
"""


def compare_in_a_process(folder, *arguments, encoding="utf-8"):
    """Run the command without torch, piped, and return what it wrote to stdout."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, *arguments, str(folder)],
        capture_output=True, env=environment, check=True,
    )  # fmt: skip
    assert done.stderr == b""
    return done.stdout.decode(encoding)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Make a folder with two seeds of softmax, one L-Softmax and a run that failed."""
    working = Path.cwd()
    monkeypatch.chdir(tmp_path)
    names = ("[red]cät", "a\x1b[31mb")
    for name, seed, loss, accuracies in (
        ("a", 1, "softmax", (0.9, 0.2)),
        ("b", 2, "softmax", (0.8, 0.4)),
        ("c", 1, "lsoftmax:margin=4,lambda_min=5", (0.7, 0.6)),
    ):
        write(run(name, seed=seed, loss=loss, scores=scores_of(accuracies, names=names)))
    RunFolder.create(Path("runs"), "d").write_status("failed", "the loss is not finite", 5)
    monkeypatch.chdir(working)
    return tmp_path / "runs"


def test_compare_prints_whole_lines_into_an_ascii_pipe(runs):
    """Piped without UTF-8 and without torch, every cell is there, uncut and harmless."""
    text = compare_in_a_process(runs, encoding="ascii")
    assert "..." not in text
    assert "\x1b" not in text
    line = next(line for line in text.splitlines() if "|softmax" in line)
    assert [cell.strip(" |") for cell in line.split("|")][1:7] == ["1", "softmax", "2", "57.5+-3.5", "57.5+-3.5", "57.5+-3.5"]  # fmt: skip
    assert "lsoftmax:margin=4,lambda_min=5" in text
    assert "65.0*" in text
    assert "d: no config.yaml; no metrics.jsonl; no scores.json; status failed: the loss is not finite" in text  # fmt: skip
    assert "[red]c?t" in text
    assert "a\\x1b[31mb" in text


def test_compare_json_is_one_document_on_stdout(runs):
    """--json gives one document and nothing else."""
    document = json.loads(compare_in_a_process(runs, "--json"))
    assert [group["label"] for group in document["groups"]] == ["softmax", "lsoftmax:margin=4,lambda_min=5"]  # fmt: skip
    assert [one["name"] for one in document["groups"][0]["per_class"]] == ["[red]cät", "a\x1b[31mb"]
    assert len(document["unscored"]) == 1
