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
from lmsm_cli.runs.images import IMAGES, read_images_record, read_predictions
from tests.conftest import BENCHMARKS
from tests.synthetic_runs import images_of, write_predicting_run, write_runs

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")


def test_the_tables_are_those_of_the_kept_runs(module):
    """Made anew from the archives, RESULTS.md is what it is."""
    results = module("results")
    text = results.RESULTS.read_text()
    assert text.count("<!-- end -->") >= 10
    assert results.refreshed(text) == text, "python benchmarks/results.py writes it anew"


def test_a_table_keeps_its_columns(module):
    """A new metric is left out of a study from before it; a column that is gone is gone.

    A table of none of the old columns is a new one, and whole.
    """
    old = "**Runs**\n\n| # | few | gone |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n"
    new = "**Runs**\n\n| # | new | few |\n| --- | ---: | ---: |\n| 1 \\| 2 | 7 | 8 |\n"
    module = module("results")
    assert module.with_columns_of(old, new) == (
        "**Runs**\n\n| # | few |\n| --- | ---: |\n| 1 \\| 2 | 8 |\n"
    )
    assert module.with_columns_of("", new) == new
    other = "| net | many |\n| --- | ---: |\n| a | 9 |\n"
    assert module.with_columns_of(old, f"{old}\n{other}") == f"{old}\n{other}"


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
        scores = re.split(r"\*\*(?:Against|Net and recipe)", table)[0]
        titles, _, *rows = re.findall(r"^\|.*", scores, re.M)
        shares = len(titles.split("|")) - 5
        assert rows
        for row in rows:
            _, _, runs, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            assert int(runs) >= 3, row
            assert all("±" in cell for cell in cells[:shares] if cell != "-"), row
        assert shares >= 4


def test_the_answer_is_that_of_the_tables():
    """Each mean, sd and interval of the page on losses stands in RESULTS.md, in its study."""
    page = (BENCHMARKS.parent / "docs" / "which-loss.md").read_text()
    results = (BENCHMARKS / "RESULTS.md").read_text()
    confirmed = results.partition("runs/digits-confirm --")[2].replace("\\[", "[")
    pattern = r"[\d.]+±[\d.]+|[+-][\d.]+ \[[^]]*\]"
    rows, prose = (
        [line for line in page.splitlines() if line.startswith("|") == is_row]
        for is_row in (True, False)
    )
    cells = re.findall(pattern, "\n".join(rows))
    assert len(cells) == 23
    assert not [
        cell for cell in cells if f" {cell} |" not in confirmed and f" {cell}\\* |" not in confirmed
    ]
    known = results.replace("\\[", "[") + (BENCHMARKS / "LOG.md").read_text()
    assert not [one for one in re.findall(pattern, "\n".join(prose)) if one not in known]


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


CLASSES = ("ant", "bee", "cow")


def logits_of(seed, images):
    """Return logits (N, 3) that depend on the image and the seed alone, not on the order."""
    numbers = images.of("test").places.astype(int)
    return np.stack([np.sin(numbers * (3 + label) + 7 * seed) for label in range(3)], axis=1)


def predicting(out, name, seed=0, test=range(20, 50), **config):
    """Write a run of three classes, with predictions for the test images in this order."""
    images = images_of(CLASSES, training=range(12), test=test)
    return write_predicting_run(
        out, name, images, logits_of(seed, images), (7, 4, 1), seed=seed, **config
    )


def kept(module, monkeypatch, tmp_path, *folders):
    """Keep folders of runs; return the folder that the archive is unpacked in."""
    keep = module("keep")
    monkeypatch.setattr(keep, "KEPT", tmp_path)
    assert keep.main(["kept", *map(str, folders)]) == 0
    with tarfile.open(tmp_path / "kept.tar.xz") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    return tmp_path / "there"


def test_predictions_are_kept_small_with_one_list_of_images(module, tmp_path, monkeypatch, capsys):
    """Per image the class predicted, as it was, beside the class and digest of the list."""
    out = tmp_path / "runs" / "mine"
    runs = [
        predicting(out, "a", 0),
        predicting(out, "b", 1),
        predicting(out, "c", 2, test=range(49, 19, -1)),  # the same images in another order
    ]
    there = kept(module, monkeypatch, tmp_path, out) / "mine"
    lists = list((there / "test-images").iterdir())
    assert len(lists) == 1
    with np.load(lists[0], allow_pickle=False) as columns:
        listed = {name: columns[name] for name in columns.files}
    assert listed["class"].dtype == np.uint8
    assert listed["classes"].tolist() == [b"ant", b"bee", b"cow"]
    first = read_images_record(runs[0]).of("test")
    assert np.array_equal(listed["class"], first.labels)
    assert np.array_equal(listed["digest"], first.digests)
    for run in runs:
        live, record = read_predictions(run), read_images_record(run).of("test")
        answers = {
            (number, content.tobytes()): answer
            for number, content, answer in zip(
                record.labels, record.digests, live.predicted, strict=True
            )
        }
        path = there / run.name
        assert not (path / IMAGES).exists()
        small = read_predictions(path)
        assert small.logits is small.probabilities is None
        assert small.labels.tolist() == listed["class"].tolist()
        rows = zip(listed["class"], listed["digest"], small.predicted, strict=True)
        assert {(n, content.tobytes()): answer for n, content, answer in rows} == answers
        with np.load(path / "predictions.npz") as arrays:
            assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.uint8)}
    capsys.readouterr()
    printed = []
    for folder in (out, there):
        assert main(["compare", str(folder), "--markdown"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    keep = module("keep")
    assert keep.archive([there]) == keep.archive([out]) == (tmp_path / "kept.tar.xz").read_bytes()


def test_many_classes_take_two_bytes(module):
    """Up to 256 classes a byte, then two."""
    small = module("run_images").small
    assert [small(np.array([0]), size).dtype for size in (2, 256, 257)] == ["u1", "u1", "u2"]
    assert small(np.array([256]), 257).tolist() == [256]


def test_data_sets_have_a_list_each(module, tmp_path, monkeypatch):
    """Runs on other data stand in the same folder, each with the images of its own list."""
    out = tmp_path / "runs" / "mine"
    predicting(out, "a", dataset="one")
    predicting(out, "b", dataset="other", test=range(60, 99))
    there = kept(module, monkeypatch, tmp_path, out) / "mine"
    run_images, record = module("run_images"), module("lmsm_cli.runs.record")
    sizes = [len(run_images.images_tested_on(record.read_run(there / n)).labels) for n in "ab"]
    assert sizes == [30, 39]


def refused(module, monkeypatch, tmp_path, capsys, out):
    """Return why keeping a folder is refused; nothing is written."""
    keep = module("keep")
    monkeypatch.setattr(keep, "KEPT", tmp_path)
    assert keep.main(["kept", str(out)]) > 0
    assert not (tmp_path / "kept.tar.xz").exists()
    return capsys.readouterr().err


def test_other_test_images_of_one_data_set_are_refused(module, tmp_path, monkeypatch, capsys):
    """The runs that differ are named: their predictions are no samples of one thing."""
    out = tmp_path / "runs" / "mine"
    for name, last in (("a", 50), ("b", 50), ("c", 51)):
        predicting(out, name, test=range(20, last))
    message = refused(module, monkeypatch, tmp_path, capsys, out)
    assert "runs of digits" in message
    assert ": a, b;" in message
    assert ": c)" in message


def test_predictions_of_unknown_images_are_refused(module, tmp_path, monkeypatch, capsys):
    """Without images.npz, with that of other images, or with other labels."""
    out, other = tmp_path / "runs" / "mine", predicting(tmp_path / "other", "a", test=range(20, 51))
    run = predicting(out, "a")
    own = (run / IMAGES).read_bytes()
    (run / IMAGES).unlink()
    assert "nothing tells of which" in refused(module, monkeypatch, tmp_path, capsys, out)
    shutil.copy(other / IMAGES, run / IMAGES)
    assert "tells of other test images" in refused(module, monkeypatch, tmp_path, capsys, out)
    (run / IMAGES).write_bytes(own)
    shutil.copy(other / "predictions.npz", run)
    assert "is not of the test images" in refused(module, monkeypatch, tmp_path, capsys, out)


def test_angles_of_a_fan(module):
    """Classes at 0, 50 and 180 degrees, their images 10 degrees to either side, at any length."""
    degrees = np.radians([10, -10, 40, 60, 170, 190])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * [[1], [7], [2], [1], [3], [5]]
    within, between = module("angles").angles(points, np.array([0, 0, 1, 1, 2, 2]))
    assert (within, between) == pytest.approx((10, 50))
