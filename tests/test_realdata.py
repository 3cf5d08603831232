"""The main job on real CIFAR-10, one epoch: it learns, and the known collapse is called by name."""

import json
import re

import pytest

from lmsm_cli.commands.app import main

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def train(real_data, tmp_path, *flags):
    """Run one epoch of the imbalanced CIFAR-10; return scores and the metrics row."""
    command = [
        "train",
        "--dataset",
        "imbalanced",
        "--imbalance",
        "exp",
        "--epochs",
        "1",
        "--data-dir",
        str(real_data),
        "--out",
        str(tmp_path),
        *flags,
    ]
    assert main(command) == 0
    (folder,) = tmp_path.iterdir()
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads((folder / "scores.json").read_text()), json.loads(rows[0])


def test_lsoftmax_learns_real_cifar10(real_data, tmp_path):
    """After one epoch of the long-tailed set accuracy is far above chance; nothing collapsed."""
    scores, row = train(real_data, tmp_path, "--factor", "0.1", "--loss", "lsoftmax")
    assert scores["accuracy"] > 0.3
    assert row["collapse"] == []
    assert [c["train_count"] for c in scores["per_class"]] == [
        4500,
        3484,
        2697,
        2088,
        1616,
        1252,
        969,
        751,
        580,
        450,
    ]
    assert [c["test_count"] for c in scores["per_class"]] == [1000] * 10


def test_the_known_collapse_is_called_in_epoch_1(real_data, tmp_path, capsys):
    """Full margin from the first step on ReLU features, as the original has it: chance."""
    scores, row = train(
        real_data,
        tmp_path,
        "--factor",
        "0.02",
        "--neck",
        "relu",
        "--loss",
        "lsoftmax:margin=2,anneal=none,weight_norm=free",
    )
    assert scores["accuracy"] == pytest.approx(0.1, abs=0.02)
    assert "dead features" in row["collapse"]
    said = capsys.readouterr().err
    assert re.search(r"WARNING: Epoch 1: (all|9\d\.\d% of the) features are exactly 0", said)
