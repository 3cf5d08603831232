"""Runs whose scores are degenerate, and runs on data that differ in content alone: by command."""

import json

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.losses.registry import HEADS
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.training import finish
from tests.conftest import noise, save, words

QUICK = words(
    "--dataset folder --image-size 8 --model paper-mnist --epochs 1 --batch-size 8 --threads 1 "
    "--device cpu --precision fp32 --layout channels-last"
)


def write_noise(root, *, per_class=8, first_seed=0):
    """Write folders of noise for two classes, of which nothing can be learned."""
    for number, name in enumerate(("no", "yes")):
        for place in range(per_class):
            save(root / name / f"{place}.png", noise(first_seed + 1000 * number + place))
    return root


def command(capsys, *words):
    """Run a command; return its exit code and its JSON."""
    code = main([*map(str, words), "--quiet", "--json"])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, json.loads(printed.out)


@pytest.mark.parametrize(("shift", "accuracy"), [(1, 0.0), (0, 1.0)])
def test_runs_with_none_or_all_right_are_counted(tmp_path, capsys, monkeypatch, shift, accuracy):
    """Two seeds that have every test image wrong, or right: two scored runs with plots, exit 0."""
    score = finish.score
    monkeypatch.setattr(
        finish,
        "score",
        lambda classes, labels, _, *rest: score(classes, labels, (labels + shift) % 2, *rest),
    )
    data = write_noise(tmp_path / "data")
    code, document = command(
        capsys, "train", *QUICK, "--data-dir", data, "--out", tmp_path / "runs", "--seeds", "2"
    )
    (group,) = document["groups"]
    assert (code, document["failed"], document["unscored"]) == (0, [], [])
    assert (group["metrics"]["accuracy"]["mean"], group["metrics"]["accuracy"]["n"]) == (
        accuracy,
        2,
    )
    assert {read_run(path).problem for path in find_runs([tmp_path / "runs"])} == {None}


@pytest.mark.slow
def test_all_runs_on_noise_are_scored_runs(tmp_path, capsys):
    """8 noise images a class, two classes, each loss: some run has all 4 test images wrong."""
    data = write_noise(tmp_path / "data")
    arms = [word for loss in HEADS for word in ("--arm", f"loss={loss}")]
    code, document = command(
        capsys,
        "sweep",
        *QUICK,
        "--epochs",
        "3",
        "--data-dir",
        data,
        "--out",
        tmp_path / "runs",
        "--seeds",
        "5",
        *arms,
    )
    found = [group["metrics"]["accuracy"] for group in document["groups"]]
    assert (code, document["failed"], [score["n"] for score in found]) == (0, [], [5] * len(HEADS))
    runs = [read_run(path) for path in find_runs([tmp_path / "runs"])]
    assert {run.problem for run in runs} == {None}
    assert min(run.scores.accuracy for run in runs) == 0


def test_runs_of_two_folders_are_never_averaged(tmp_path, capsys):
    """Equal class names and counts: two rows, the number of other images, and what to type."""
    for number in (1, 2):
        data = write_noise(tmp_path / f"data{number}", first_seed=10_000 * number)
        code, _ = command(
            capsys,
            "train",
            *QUICK,
            "--data-dir",
            data,
            "--out",
            tmp_path / "runs",
            "--seed",
            number,
        )
        assert code == 0
    code, document = command(capsys, "compare", tmp_path / "runs")
    assert code == 0
    assert [(group["seeds"], group["differences"]) for group in document["groups"]] == [
        ([1], {}),
        ([2], {}),
    ]
    assert len({group["label"] for group in document["groups"]}) == 2
    assert len({group["test_set"] for group in document["groups"]}) == 2
    (note,) = [note for note in document["notes"] if "differ; to compare them" in note]
    assert "4 of 4 test images differ" in note
    assert f"--data-dir {tmp_path / 'data2'}`" in note
