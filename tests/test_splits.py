"""The images of a run: what a study in short leaves of the test images."""

import json
import shutil

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.data.identity import rows_of_smallest_digests
from lmsm_cli.data.splits import load_data, load_test
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runs.record import read_run
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, evaluate, write_class_folders


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A run that was tested on at most 5 images a class."""
    config = digits_config(tmp_path_factory.mktemp("short"), epochs=1, test_images_per_class=5)
    return start_run(config, SilentDisplay(), with_plots=False).path


def keys(images):
    """Return what each image is."""
    return {row.tobytes() for row in images.digests}


def test_the_smallest_digests_of_each_class_are_taken():
    """Digests are numbers, the first byte weighs most; a class with fewer images keeps all."""
    digests = np.zeros((5, 16), np.uint8)
    digests[:, 0] = (9, 1, 1, 0, 200)
    digests[:, 15] = (0, 7, 3, 0, 0)
    labels = np.array([0, 0, 0, 1, 0])
    assert rows_of_smallest_digests(labels, digests, 1).tolist() == [2, 3]
    assert rows_of_smallest_digests(labels, digests, 2).tolist() == [1, 2, 3]
    assert rows_of_smallest_digests(labels, digests, 9).tolist() == [0, 1, 2, 3, 4]


def test_the_part_is_the_same_in_whatever_order_the_images_lie():
    """So class folders, listed by name, keep the images of the published files."""
    generator = np.random.default_rng(0)
    labels, digests = (
        generator.integers(0, 3, 60),
        generator.integers(0, 256, (60, 16), dtype=np.uint8),
    )
    order = generator.permutation(60)
    kept = rows_of_smallest_digests(labels, digests, 4)
    again = rows_of_smallest_digests(labels[order], digests[order], 4)
    assert set(order[again].tolist()) == set(kept.tolist())
    assert np.bincount(labels[kept]).tolist() == [4, 4, 4]
    assert set(kept.tolist()) < set(rows_of_smallest_digests(labels, digests, 5).tolist())


def test_a_cap_is_on_test_images_alone_and_fixed(tmp_path):
    """Seeds, losses and the split leave it as it is; training and validation stay whole."""
    display = SilentDisplay()
    whole = load_data(digits_config(tmp_path), display)
    short = load_data(digits_config(tmp_path, test_images_per_class=7), display)
    others = {"seed": 3, "loss": "ldam", "split_seed": 5, "factor": 0.5}
    other = load_test(digits_config(tmp_path, test_images_per_class=7, **others), display)
    assert short.test.counts() == [7] * 10
    assert keys(short.test) == keys(other) < keys(whole.test)
    assert keys(short.training) == keys(whole.training)
    assert keys(short.validation) == keys(whole.validation)


def test_own_images_are_capped_too(tmp_path):
    """The fifth of a folder that is its test is capped, however it is read."""
    write_class_folders(tmp_path / "photos", ("cat", "dog"), 40)
    flags = {"dataset": "folder", "data_dir": tmp_path / "photos", "imbalance": "none"}
    config = digits_config(tmp_path, batch_size=8, **flags, factor=1.0, test_images_per_class=3)
    data = load_data(config, SilentDisplay())
    assert data.test.counts() == [3, 3]
    assert keys(load_test(config, SilentDisplay())) == keys(data.test)
    assert min(data.train_counts) > 20


def test_a_run_records_its_part_and_it_is_found_again(short_run, tmp_path, capsys):
    """eval, also adjusted and from a checkpoint apart, and resume score the same images."""
    scores = json.loads((short_run / "scores.json").read_text())
    assert [row["test_count"] for row in scores["per_class"]] == [5] * 10
    assert scores["test_images_per_class"] == 5
    assert "test_images_per_class: 5" in (short_run / "config.yaml").read_text()
    again = evaluate(short_run, SilentDisplay(), adjust=0.0)
    assert again["adjustment"]["unadjusted"]["accuracy"] == scores["accuracy"]
    assert again["test_images_per_class"] == 5
    alone = tmp_path / "alone.pt"
    shutil.copy(short_run / "checkpoint.pt", alone)
    assert evaluate(alone, SilentDisplay())["confusion"] == scores["confusion"]
    validation = evaluate(short_run, SilentDisplay(), split="validation")
    assert validation["test_images_per_class"] is None
    copy = tmp_path / "copy"
    shutil.copytree(short_run, copy)
    assert main(["resume", str(copy), "--epochs", "2", "-q"]) == 0
    assert "at most 5 of each class" in capsys.readouterr().out
    longer = json.loads((copy / "scores.json").read_text())
    assert longer["images"]["test"] == scores["images"]["test"]
    assert longer["epoch"] == 2


def test_scores_of_other_parts_are_never_subtracted(short_run, digits_run, tmp_path):
    """Runs with other caps stand apart, without a difference, and it is said what they rest on."""
    config = digits_config(tmp_path, epochs=1, loss="lsoftmax:margin=2", test_images_per_class=6)
    other = start_run(config, SilentDisplay(), with_plots=False).path
    assert other != short_run
    paths = (short_run, other)
    digests = [read_images_record(path).split_digests for path in paths]
    assert digests[0]["training"] == digests[1]["training"]
    assert digests[0]["test"] != digests[1]["test"]
    compared = compare_runs([read_run(path) for path in (*paths, digits_run)])
    assert len({group.test_set for group in compared.groups}) == 3
    assert not any(group.differences for group in compared.groups)
    assert not any("images=" in group.label for group in compared.groups)  # the choices tell it
    assert any("at most 5 or 6 of each class" in note for note in compared.notes)


@pytest.mark.parametrize("command", ["eval", "compare", "report"])
def test_it_is_said_wherever_the_scores_are(short_run, tmp_path, capsys, command):
    """Tables, the text of eval and the page name the part that was tested on."""
    page = tmp_path / "page.html"
    more = ["--out", str(page)] if command == "report" else []
    assert main([command, str(short_run), *more]) == 0
    shown = page.read_text() if command == "report" else capsys.readouterr().out
    assert "at most 5 of each class" in shown


def test_a_cap_of_none_is_refused(capsys):
    """A class cannot have 0 test images at most: there would be no scores."""
    assert main(["train", "--preset", "digits", "--test-images-per-class", "0"]) == 2
    assert "--test-images-per-class" in capsys.readouterr().err
