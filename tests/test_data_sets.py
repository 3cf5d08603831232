"""Runs on other images: never averaged, paired or held against each other, and told apart."""

import csv
import io
import json

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.data_sets import names_of
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.config import Config, dump
from lmsm_cli.reports.html.page import page
from tests.synthetic_runs import images_of, records_in, scores_of, write_run
from tests.test_grouping import compare_in_a_process

CLASSES = ("no", "yes")
HERE = {"training": range(60), "validation": range(60, 70), "test": range(100, 120)}
THERE = {part: [number + 1000 for number in numbers] for part, numbers in HERE.items()}
FOLDER = {"dataset": "folder", "imbalance": "none", "factor": 1.0, "data_dir": "photos"}


def write(out, name, parts=HERE, *, seed=0, **config):
    """Write a run on these images: its class counts are the same, whatever they are."""
    images = parts and images_of(CLASSES, **parts)
    scores = scores_of(CLASSES, seed=seed, per_class=10, train_counts=[30, 30])
    return write_run(out, name, scores=scores, images=images, seed=seed, **FOLDER | config)


def compared(out, **options):
    """Return the comparison of the runs in a folder."""
    return compare_runs(records_in(out), **options)


def rows(comparison):
    """Return the seeds of each row."""
    return [group.seeds for group in comparison.groups]


def changed(part, number=1):
    """Return the images with so many of a part replaced by others."""
    numbers = list(HERE[part])
    return HERE | {part: [*(one + 500 for one in numbers[:number]), *numbers[number:]]}


@pytest.mark.parametrize("by", [(), ["loss"]])
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_of_two_folders_are_two_rows_without_a_difference(tmp_path, by, seed):
    """Class names, counts and choices are equal, the images are not; whatever the seed."""
    write(tmp_path, "1", seed=0)
    write(tmp_path, "2", THERE, seed=seed)
    comparison = compared(tmp_path, by=by)
    assert rows(comparison) == [(0,), (seed,)]
    assert comparison.unscored == ()
    assert [group.differences for group in comparison.groups] == [{}, {}]
    assert len({group.label for group in comparison.groups}) == 2
    assert len({group.test_set for group in comparison.groups}) == 2


@pytest.mark.parametrize("key", ["group_column", "split_column"])
def test_a_column_that_divides_a_list_is_a_choice(tmp_path, key):
    """Runs whose lists were divided by another column are told apart by it, and it is no news."""
    listed = {"dataset": "list", "image_list": "photos.csv"}
    write(tmp_path, "1", **listed)
    write(tmp_path, "2", THERE, **listed, **{key: "patient"})
    comparison = compared(tmp_path)
    assert [group.label for group in comparison.groups] == ["softmax", f"softmax {key}=patient"]
    assert not any("differ" in note for note in comparison.notes)


def test_images_have_the_names_of_the_folders_that_they_lie_in(tmp_path):
    """Where each has one of its own; a folder that changed, or was moved, tells nothing apart."""
    write(tmp_path, "1", data_dir="photos/cats")
    write(tmp_path, "2", THERE, data_dir="photos/dogs")
    names = [group.differs["images"] for group in compared(tmp_path).groups]
    assert names == ["cats", "dogs"]
    assert any(note.startswith("images=cats (1) are not images=dogs") for note in notes(tmp_path))
    write(tmp_path, "3", THERE, seed=1, data_dir="photos/cats")
    assert not {"cats", "dogs"} & {one.differs["images"] for one in compared(tmp_path).groups}


def notes(out):
    """Return the notes of a comparison."""
    return compared(out).notes


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_one_image_that_was_replaced_makes_another_row(tmp_path, part):
    """In whatever part; the note says how many images differ, of which runs, and what to type."""
    write(tmp_path, "1", seed=0)
    write(tmp_path, "2", changed(part), seed=1, data_dir="other photos")
    comparison = compared(tmp_path)
    assert rows(comparison) == [(0,), (1,)]
    (note,) = [note for note in comparison.notes if "images differ" in note]
    assert f"1 of {len(HERE[part])} {part} images differ; " in note
    assert note.count("images differ") == 1
    names = [group.differs["images"] for group in comparison.groups]
    assert note.startswith(f"images={names[0]} (1) are not images={names[1]} (2): ")
    command = note.partition("`")[2].rstrip("`")
    assert command == f"lmsm train --config {tmp_path}/1/config.yaml --data-dir 'other photos'"
    assert len({group.test_set for group in comparison.groups}) == 1 + (part == "test")


def test_other_numbers_of_images_are_both_told(tmp_path):
    """Three images more on one side: none of 60 differs there, 3 of 63 here; copies count each."""
    write(tmp_path, "1", HERE | {"training": [*range(60), 2, 2, 4]})
    write(tmp_path, "2", seed=1)
    (note,) = [note for note in compared(tmp_path).notes if "images differ" in note]
    assert "3 of 63 and 0 of 60 training images differ" in note


def test_the_order_and_the_place_of_images_are_no_matter(tmp_path):
    """The same images, in another order and another folder, are seeds of one run."""
    write(tmp_path, "1", seed=0)
    turned = {part: list(reversed(numbers)) for part, numbers in HERE.items()}
    write(tmp_path, "2", turned, seed=1, data_dir="moved")
    assert rows(compared(tmp_path)) == [(0, 1)]


def test_a_loss_on_other_test_images_is_held_against_nothing(tmp_path):
    """A choice that differs as well explains no other images: they are named in the label."""
    write(tmp_path, "1", loss="softmax")
    write(tmp_path, "2", THERE, loss="focal")
    comparison = compared(tmp_path)
    assert [group.differences for group in comparison.groups] == [{}, {}]
    labels = [group.label for group in comparison.groups]
    assert all("images=" in label for label in labels)
    assert f"no baseline for {labels[1]}" in comparison.notes[-1]


def test_other_training_images_are_no_baseline(tmp_path):
    """On the same test images too: the difference would not be the loss's."""
    write(tmp_path, "1", loss="softmax")
    write(tmp_path, "2", changed("training"), loss="focal")
    assert [group.differences for group in compared(tmp_path).groups] == [{}, {}]
    write(tmp_path, "3", changed("training"), loss="softmax")
    held = [bool(group.differences) for group in compared(tmp_path).groups]
    assert sorted(held) == [False, False, True]


def test_choices_that_explain_other_images_need_no_name(tmp_path):
    """Runs on a smaller share of one data set differ in that choice; no note names images."""
    write(tmp_path, "1", factor=0.1)
    write(tmp_path, "2", HERE | {"training": range(40)}, factor=0.01)
    comparison = compared(tmp_path)
    labels = [group.label for group in comparison.groups]
    assert labels == ["softmax factor=0.1", "softmax factor=0.01"]
    assert not any("differ" in note or "images=" in note for note in comparison.notes)


def test_only_images_that_should_have_been_the_same_are_told(tmp_path):
    """With another factor images differ by choice; in another folder they should not."""
    write(tmp_path, "1", factor=0.1)
    write(tmp_path, "2", HERE | {"training": range(40)}, factor=0.01)
    write(tmp_path, "3", THERE, factor=0.1)
    comparison = compared(tmp_path)
    assert len(comparison.groups) == 3
    told = [note.split(" (")[0] for note in comparison.notes if "images differ" in note]
    names = {group.runs[0][-1]: group.differs["images"] for group in comparison.groups}
    assert told == [f"images={names['2']}", f"images={names['1']}"]
    notes = [note for note in comparison.notes if "images differ" in note]
    assert all(f"are not images={names['3']} (3)" in note for note in notes)


def test_runs_from_before_digests_stand_apart_and_are_told_once(tmp_path):
    """Unknown images equal only unknown ones; such runs alone are grouped as ever."""
    write(tmp_path / "old", "1", None, seed=0)
    write(tmp_path / "old", "2", None, seed=1)
    alone = compared(tmp_path / "old")
    assert (rows(alone), alone.groups[0].label) == ([(0, 1)], "softmax")
    assert alone.groups[0].images is None
    assert "1, 2 are from before runs recorded their images" in alone.notes[0]
    write(tmp_path / "old", "3", seed=2, loss="focal")
    mixed = compared(tmp_path / "old")
    assert rows(mixed) == [(0, 1), (2,)]
    assert [group.differences for group in mixed.groups] == [{}, {}]
    assert mixed.groups[0].label == "softmax images=unknown"
    assert sum("from before" in note for note in mixed.notes) == 1


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive"])
def test_a_lost_list_of_images_costs_only_the_number(tmp_path, content):
    """Without images.npz the digests of scores.json still tell the runs apart."""
    write(tmp_path, "1", seed=0)
    write(tmp_path, "2", THERE, seed=1)
    file = tmp_path / "1" / "images.npz"
    file.unlink() if content is None else file.write_bytes(content)
    comparison = compared(tmp_path)
    assert rows(comparison) == [(0,), (1,)]
    reason = "other training and validation and test images (how many is not known"
    assert any(reason in note for note in comparison.notes)


def test_every_form_shows_what_tells_the_rows_apart(tmp_path, capsys):
    """Table, Markdown, CSV, JSON and page have the name of the images in each row."""
    for seed in (0, 1):
        write(tmp_path, f"1{seed}", seed=seed)
        write(tmp_path, f"2{seed}", THERE, seed=seed)
    names = [group.differs["images"] for group in compared(tmp_path).groups]
    assert len(set(names)) == 2
    texts = {}
    for form in ([], ["--markdown"], ["--csv", "-"], ["--json"]):
        assert main(["compare", str(tmp_path), *form]) == 0
        texts["".join(form)] = text = capsys.readouterr().out
        assert all(f"images={name}" in text for name in names)
    assert [row["images"] for row in csv.DictReader(io.StringIO(texts["--csv-"]))] == names
    found = [group["images"]["test"] for group in json.loads(texts["--json"])["groups"]]
    comparison = compared(tmp_path)
    html = page(comparison, records_in(tmp_path))
    assert all(f"20 test images ({digest[:8]})" in html for digest in found)
    assert all(f"images={name}" in html for name in names)


def test_the_images_are_counted_without_torch(tmp_path):
    """The note is made in a process that cannot import torch, so that compare stays quick."""
    write(tmp_path, "1", seed=0)
    write(tmp_path, "2", THERE, seed=1)
    assert "60 of 60 training images differ" in compare_in_a_process(tmp_path)


def test_names_are_as_long_as_they_must_be_to_differ():
    """Eight digits tell a few apart; no two sets of images share a name, and unknown is a word."""
    found = names_of([None, *((f"{number}",) for number in range(3000))])
    assert found.pop(None) == "unknown"
    assert len(set(found.values())) == 3000
    assert {len(name) for name in found.values()} == {8}


def test_usual_choices_go_without_a_key(tmp_path):
    """A config that does not name a choice has its default here too."""
    usual = dump(Config.model_validate({}))
    write(tmp_path, "1", seed=0)
    write(tmp_path, "2", seed=1, validation=usual["validation"])
    assert rows(compared(tmp_path)) == [(0, 1)]
