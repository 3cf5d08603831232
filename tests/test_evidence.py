"""The evidence: the tables of RESULTS.md are what `lmsm compare` prints of the kept runs."""

import json
import re
import shutil
import statistics
import tarfile

import numpy as np
import pytest
import yaml

from lmsm_cli.commands.app import main
from tests.conftest import BENCHMARKS
from tests.synthetic_runs import write_runs

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")


def test_the_tables_are_those_of_the_kept_runs(module):
    """Made anew from the archives, RESULTS.md is what it is."""
    results = module("results")
    text = results.RESULTS.read_text()
    assert text.count("<!-- end -->") >= 10
    assert results.refreshed(text) == text, "python benchmarks/results.py writes it anew"


def test_a_table_keeps_its_columns(module):
    """A new metric is left out of a study from before it; a column that is gone is gone."""
    old = "**Runs**\n\n| # | few | gone |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n"
    new = "**Runs**\n\n| # | new | few |\n| --- | ---: | ---: |\n| 1 \\| 2 | 7 | 8 |\n"
    module = module("results")
    assert module.with_columns_of(old, new) == (
        "**Runs**\n\n| # | few |\n| --- | ---: |\n| 1 \\| 2 | 8 |\n"
    )
    assert module.with_columns_of("", new) == new


def test_a_table_is_the_mean_and_sd_of_the_files(module, tmp_path):
    """Few-shot accuracy and its difference, worked out from scores.json by hand."""
    module("results").unpack("digits", tmp_path)
    few = {}
    for path in sorted((tmp_path / "runs" / "digits-base").glob("*/scores.json")):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        few.setdefault(config["loss"], {})[config["seed"]] = json.loads(path.read_text())["groups"][
            "few"
        ]
    softmax, lsoftmax = (few[loss] for loss in sorted(few, reverse=True))
    assert sorted(softmax) == sorted(lsoftmax) == [0, 1, 2, 3, 4]
    text = (BENCHMARKS / "RESULTS.md").read_text()
    for values in (softmax.values(), lsoftmax.values()):
        assert f"{100 * statistics.fmean(values):.1f}±{100 * statistics.stdev(values):.1f}" in text
    differences = [100 * (lsoftmax[seed] - softmax[seed]) for seed in softmax]
    mean = statistics.fmean(differences)
    half = 2.776445 * statistics.stdev(differences) / 5**0.5  # Student's t, 4 degrees of freedom
    assert f"{mean:+.1f} \\[{mean - half:+.1f}, {mean + half:+.1f}]" in text


def test_no_number_without_seeds_and_sd(module):
    """Every row of scores names its runs, three at least, and every share in it has an sd."""
    tables = re.findall(
        r"<!-- [\w-]+: lmsm.*?<!-- end -->", module("results").RESULTS.read_text(), re.S
    )
    assert tables
    for table in tables:
        titles, _, *rows = re.findall(r"^\|.*", table.partition("**Against")[0], re.M)
        shares = titles.split("|").index(" margin ") - 4
        assert rows
        for row in rows:
            _, _, runs, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            assert int(runs) >= 3, row
            assert all("±" in cell for cell in cells[:shares] if cell != "-"), row
        assert shares >= 4


def test_the_readmes_answer_is_that_of_the_tables():
    """Each mean, sd and interval of its first screen stands in RESULTS.md, in its study."""
    readme = (BENCHMARKS.parent / "README.md").read_text().partition("## Set up")[0]
    results = (BENCHMARKS / "RESULTS.md").read_text()
    confirmed = results.partition("runs/digits-confirm --")[2].replace("\\[", "[")
    cells = re.findall(r"[\d.]+±[\d.]+|[+-][\d.]+ \[[^]]*\]", readme)
    assert len(cells) == 18
    assert not [
        cell for cell in cells if f" {cell} |" not in confirmed and f" {cell}\\* |" not in confirmed
    ]


def test_kept_runs_are_compared_as_before(module, tmp_path, monkeypatch, capsys):
    """An archive holds what `compare` needs, no weights and no place; twice the same bytes."""
    keep = module("keep")
    write_runs(tmp_path / "runs" / "mine", ["softmax", "focal"], 3)
    for path in (tmp_path / "runs" / "mine").iterdir():
        (path / "checkpoint.pt").write_bytes(b"weights")
        environment = json.loads((path / "environment.json").read_text())
        environment["command"] = [
            f"{tmp_path}/lmsm",
            "train",
            "--data-dir",
            f"{tmp_path}/data",
            f"--out={tmp_path}/runs",
            "--loss",
            "softmax",
        ]
        (path / "environment.json").write_text(json.dumps(environment))
    monkeypatch.setattr(keep, "KEPT", tmp_path)
    assert keep.main(["kept", str(tmp_path / "runs" / "mine")]) == 0
    again = (tmp_path / "kept.tar.xz").read_bytes()
    (unfinished := tmp_path / "runs" / "mine" / "unfinished").mkdir()
    (unfinished / "status.json").write_text('{"state": "failed"}')
    assert again == keep.archive([tmp_path / "runs" / "mine"])
    shutil.rmtree(unfinished)
    with tarfile.open(tmp_path / "kept.tar.xz") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "there", filter="data")
    assert len(names) == 6 * 5
    assert not [name for name in names if "checkpoint" in name]
    assert not [
        name for name in names if str(tmp_path).encode() in (tmp_path / "there" / name).read_bytes()
    ]
    environment = json.loads((tmp_path / "there" / "mine" / "0-0" / "environment.json").read_text())
    assert environment["command"] == [
        "lmsm",
        "train",
        "--data-dir",
        "data",
        "--out=runs",
        "--loss",
        "softmax",
    ]
    capsys.readouterr()
    printed = []
    for folder in (tmp_path / "runs" / "mine", tmp_path / "there" / "mine"):
        assert main(["compare", str(folder), "--markdown"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_keeping_nothing_is_refused(module, tmp_path, capsys):
    """A folder without a completed run is named."""
    assert module("keep").main(["kept", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_angles_of_a_fan(module):
    """Classes at 0, 50 and 180 degrees, their images 10 degrees to either side, at any length."""
    degrees = np.radians([10, -10, 40, 60, 170, 190])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * [[1], [7], [2], [1], [3], [5]]
    within, between = module("angles").angles(points, np.array([0, 0, 1, 1, 2, 2]))
    assert (within, between) == pytest.approx((10, 50))
