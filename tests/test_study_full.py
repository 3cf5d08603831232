"""A study against a full comparison: the table holds what the runs say, kept or not."""

import json
import shutil
import tarfile

import numpy as np
import pytest

from lmsm_cli.comparison.grouping import compare_runs
from tests.conftest import BENCHMARKS
from tests.synthetic_runs import images_of, records_in, write_predicting_run

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")

COUNTS = [90, 30, 9]
ARMS = {"softmax": (0.9, 0.8, 0.3), "vs": (0.9, 0.8, 0.6), "focal": (0.9, 0.8, 0.3)}


def result(arm):
    """Return what a study says that told an arm from softmax."""
    verdict = {"arm": arm, "is_told": True, "decided_on": "test images", "reason": ""}
    bounds = {"mean": 0.25, "low": 0.125, "high": 0.375}
    return {"question": "few", "verdict": verdict | bounds, "held_out": [{"name": arm}]}


@pytest.fixture
def full(tmp_path):
    """A folder with ten seeds of three losses, of which one is better on the rare class."""
    folder, images = tmp_path / "study-three-full", images_of("abc", test=range(90))
    runs = {}
    for place, (loss, shares) in enumerate(ARMS.items()):
        runs[loss] = [f"{loss}--s{seed}" for seed in range(10)]
        for seed, name in enumerate(runs[loss]):
            draw = np.random.default_rng((place, seed))
            is_right = draw.random(90) < np.array(shares)[images.labels]
            logits = 4.0 * np.eye(3)[np.where(is_right, images.labels, (images.labels + 1) % 3)]
            write_predicting_run(folder, name, images, logits, COUNTS, loss=loss, seed=seed)
    told = {"minutes": 19.6, "result": result("vs"), "counts": COUNTS, "runs": runs}
    (folder / "full.json").write_text(json.dumps(told))
    return folder


def rows_of(module, capsys, folder):
    """Return the cells of the table's rows."""
    assert module("study_full").main(["table", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_the_intervals_of_compare(module, full, capsys):
    """The difference on the rare class, for each loss, and the verdict after Holm."""
    rows = rows_of(module, capsys, full)
    assert [row[4] for row in rows] == ["better", "no clear difference"]
    assert rows[0][0] == "90, 30, 9"
    assert rows[0][1].startswith("Use vs: on the rare classes of the test images it beats softmax")
    assert rows[0][2] == "20"
    groups = {one.label: one for one in compare_runs(records_in(full)).groups}
    for row, name in zip(rows, ("vs", "focal"), strict=True):
        found = groups[name].differences["few"]
        cells = f"{name}: {100 * found.mean:+.1f} [{100 * found.low:+.1f}, "
        assert row[3] == f"{cells}{100 * found.high:+.1f}]"


def test_kept_runs_give_the_same_table(module, full, capsys, tmp_path):
    """The archive holds full.json and all that the table is made of."""
    before = rows_of(module, capsys, full)
    (tmp_path / "kept.tar.xz").write_bytes(module("keep").archive([full]))
    shutil.rmtree(full)
    with tarfile.open(tmp_path / "kept.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert not (full / "softmax--s0" / "images.npz").exists()
    assert rows_of(module, capsys, full) == before


def test_runs_on_other_images_are_refused(module, full, capsys):
    """They are no pairs."""
    write_predicting_run(
        full, "other", images_of("abc", test=range(1, 91)), np.eye(3)[np.zeros(90, int)], COUNTS
    )
    told = json.loads((full / "full.json").read_text())
    told["runs"]["vs"][3] = "other"
    (full / "full.json").write_text(json.dumps(told))
    assert module("study_full").main(["table", str(full)]) == 2
    assert "other has other test images than the rest" in capsys.readouterr().err
