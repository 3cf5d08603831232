"""The simulation of the intervals: its truth is that of its draws, its command prints tables."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import BENCHMARKS

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")


@pytest.mark.parametrize("effects", ["small", "large"])
def test_the_truth_is_the_mean_of_the_draws(module, effects):
    """Of many seeds and images the difference is the one that coverage is counted by."""
    coverage = module("coverage")
    cell = coverage.Cell(effects, 2000, 1000)
    baseline, own = coverage.answers(cell, (1.0,), cell.random(0))
    found = own.mean() - baseline.mean()
    # the standard error is that of 2,000 seeds and of 3,000 images: 1 point at most
    assert coverage.true_difference(effects, 1.0) == pytest.approx(found, abs=0.03)
    assert 0.08 < found < 0.15


def test_shares_are_marked_by_their_targets(module, monkeypatch):
    """A cell below 93.5 or above 98% is MISSED, and so are 6.5% of 1,000 false verdicts."""
    coverage = module("coverage")
    cells = [coverage.Cell("usual", seeds, 10) for seeds in (3, 5)]
    for share, met in ((0.934, False), (0.935, True), (0.98, True), (0.9805, False)):
        found = {"two-way": share, "unpaired": 0.95, "over seeds alone": 0.5}
        monkeypatch.setattr(coverage, "coverage", lambda *_, found=found: found)
        assert [row.met for row in coverage.rows_of_coverage(cells, 10, 0)] == [met]
    for share, met in ((0.0637, True), (0.065, False)):
        monkeypatch.setattr(coverage, "false_verdicts", lambda *_, share=share: share)
        assert [row.met for row in coverage.rows_of_holm(cells, 1000, 0)] == [met]
    monkeypatch.setattr(coverage, "powers", lambda _, gap, *__: (0.5, 0.5 + gap / 6))
    rows = coverage.rows_of_power(cells, 10, 0)
    assert [row.met for row in rows] == [True, False, False]
    assert rows[0].text == "2.9 | 50.0 / 50.0 | 54.2 / 54.2 | met"


def test_a_cell_repeats_whatever_else_is_simulated(module):
    """Numbers of a cell depend on it and on the seed alone."""
    coverage = module("coverage")
    cell = coverage.Cell("usual", 3, 10)
    one, other = (coverage.coverage(cell, 20, 0) for _ in range(2))
    assert one == other
    draws = [coverage.answers(cell, (0.5,), cell.random(seed))[0] for seed in (0, 1)]
    assert not np.array_equal(*draws)


def test_the_command_prints_every_table():
    """A try of one small cell prints the tables that it is asked for."""
    cell = ["--studies", "10", "--seeds", "3", "--images", "10", "--effects", "usual"]
    command = [sys.executable, BENCHMARKS / "coverage.py", *cell, "--only", "coverage", "holm"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in text.splitlines() if line.startswith("| usual | 10 |")]
    assert [row.count("|") for row in rows] == [7, 5]
