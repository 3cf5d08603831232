"""images.npz and predictions.npz of anybody: read, or refused in words."""

import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.errors import CheckpointError
from lmsm_cli.runs import images
from lmsm_cli.runs.documents import ScoresDocument, build
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.record import RunRecord, read_run
from lmsm_cli.scoring import score

# Of a file in the directory of a zip archive: where its version and flags stand.
_VERSION, _FLAGS = 6, 8


def record(num_images=6):
    """Return the record of so many images of two classes."""
    draw = np.random.default_rng(0)
    return ImagesRecord(
        ("ant", "bee"),
        np.arange(num_images, dtype=np.uint8) % 3,
        np.arange(num_images) % 2,
        draw.integers(0, 256, (num_images, 16), np.uint8),
        np.array([b"ant/%d.png" % number for number in range(num_images)]),
        (0.5,),
        (0.25,),
    )


@pytest.fixture(params=[images.IMAGES, images.PREDICTIONS])
def file(request, tmp_path):
    """Return one of the files in a run folder, and what reads it."""
    images.write_images(tmp_path, record())
    answers = np.arange(6) % 2
    images.write_predictions(
        tmp_path,
        images.Predictions(
            answers, answers, np.full(6, 0.5, np.float32), np.zeros((6, 2), np.float32)
        ),
    )
    read = images.read_images_record if request.param == images.IMAGES else images.read_predictions
    return tmp_path / request.param, lambda: read(tmp_path)


@pytest.mark.parametrize(
    ("offset", "value"), [(_FLAGS, 0x01), (_FLAGS, 0x20), (_FLAGS, 0x40), (_VERSION, 255)]
)
def test_archives_that_python_cannot_open_are_damaged(file, offset, value):
    """Encrypted members and archives of a later version are refused as any other damage."""
    path, read = file
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] |= value
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged"):
        read()


def test_members_that_are_no_arrays_are_damaged(file):
    """Of another content numpy gives the bytes."""
    path, read = file
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"no array")
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged"):
        read()


def test_any_changed_byte_is_read_or_refused(file):
    """Whatever byte changes, and wherever the file ends, it gives a record or a CheckpointError."""
    path, read = file
    whole, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        content = bytearray(whole[: draw.choice([len(whole), draw.randrange(len(whole))])])
        for _ in range(draw.randrange(1, 4) if content else 0):
            content[draw.randrange(len(content))] = draw.choice([0, 255, draw.randrange(256)])
        path.write_bytes(content)
        try:
            read()
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_the_small_form_has_classes_alone(tmp_path):
    """As bytes without probabilities it is read as any other; the whole form keeps all it had."""
    labels, predicted = np.array([0, 200, 3], np.uint8), np.array([0, 3, 255], np.uint8)
    np.savez(tmp_path / images.PREDICTIONS, label=labels, predicted=predicted)
    found = images.read_predictions(tmp_path)
    assert found.labels.tolist() == [0, 200, 3]
    assert found.predicted.tolist() == [0, 3, 255]
    assert found.labels.dtype == found.predicted.dtype == np.int64
    assert found.probabilities is found.logits is None
    images.write_predictions(tmp_path, found)
    with np.load(tmp_path / images.PREDICTIONS) as arrays:
        assert arrays.files == ["label", "predicted"]
    shares, logits = np.array([0.5, 0.25, 1], np.float32), np.zeros((3, 256), np.float32)
    images.write_predictions(tmp_path, images.Predictions(labels, predicted, shares, logits))
    found = images.read_predictions(tmp_path)
    assert found.probabilities.tolist() == [0.5, 0.25, 1]
    assert found.logits.shape == (3, 256)


@pytest.mark.parametrize(
    ("columns", "fact"),
    [
        ({"label": np.zeros(3, np.uint8)}, "predicted"),
        ({"predicted": np.zeros(4, np.uint8)}, "unequal length"),
        ({"predicted": np.zeros((3, 1), np.uint8)}, "column predicted is of uint8 in 2 axes"),
        ({"predicted": np.zeros(3)}, "column predicted is of float64"),
        ({"predicted": np.array([0, -1, 0])}, "no class numbers"),
        ({"label": np.array([True, False, True])}, "column label is of bool"),
        ({"probability": np.array(["a", "b", "c"])}, "column probability is of <U1 in 1 axes"),
        ({"logits": np.array([["a"], ["b"], ["c"]])}, "column logits is of <U1 in 2 axes"),
        ({"probability": np.zeros(2, np.float32)}, "probabilities are not of its images"),
        ({"probability": np.zeros(3, np.float32), "logits": np.zeros((2, 2))}, "logits are not"),
        ({"logits": np.zeros((3, 2), np.float32)}, "logits and no probabilities"),
    ],
)
def test_columns_that_no_run_wrote_are_refused(tmp_path, columns, fact):
    """Missing, unequal, or of another kind: in the small form and in the whole one."""
    usual = {"label": np.zeros(3, np.uint8), "predicted": np.zeros(3, np.uint8)}
    if fact == "predicted":
        del usual["predicted"]
    np.savez(tmp_path / images.PREDICTIONS, **(usual | columns))
    with pytest.raises(CheckpointError, match=rf"predictions.npz is damaged: .*{fact}"):
        images.read_predictions(tmp_path)


_OF_OTHERS = {
    "another program's": ({"classes": np.array(["cat", "dog"])}, "column classes is of <U3"),
    "names as labels": ({"class": np.array(["cat", "dog"])}, "column class is of <U3"),
    "no mean": ({"mean": np.array("none")}, "column mean is of <U4 in 0 axes"),
    "text as division": ({"divided": np.array("fold")}, "column divided is of <U4"),
    "objects": ({"classes": np.array(["cat", None])}, "it holds objects, which are not read"),
}


@pytest.mark.parametrize(("columns", "fact"), _OF_OTHERS.values(), ids=_OF_OTHERS)
def test_a_sound_file_of_another_program_is_told_by_what_it_lacks(file, columns, fact):
    """By the name of its column, and never in the words of Python or of a library."""
    path, read = file
    with np.load(path) as arrays:
        own = dict(arrays)
    np.savez(path, **(own | columns))
    if path.name == images.IMAGES or fact.startswith("it holds"):
        with pytest.raises(CheckpointError, match=rf"is damaged: (its )?{fact}"):
            read()
    first = next(iter(own))
    np.savez(path, other=np.arange(3))
    with pytest.raises(CheckpointError, match=rf"is damaged: it has no column {first}, as that"):
        read()


def test_a_member_that_is_no_array_is_told(file):
    """As in any archive that was renamed."""
    path, read = file
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("photo.jpg", b"no array")
    with pytest.raises(
        CheckpointError, match=r"is damaged: it holds photo\.jpg, which is no array"
    ):
        read()


def run_with_scores(tmp_path, labels, predicted):
    """Write scores.json of these answers, and predictions.npz; return the run, read back."""
    scores = score(["cat", "dog"], np.array(labels), np.array(predicted), [5, 1])
    folder = RunFolder(tmp_path)
    folder.write_scores(build(ScoresDocument, scores.parts()))
    np.savez(tmp_path / images.PREDICTIONS, label=np.array(labels), predicted=np.array(predicted))
    return read_run(tmp_path)


def test_a_record_reads_its_predictions_when_asked(tmp_path):
    """They are those on disk at that moment; without a file, and for older runs, there are none."""
    found = run_with_scores(tmp_path, [0, 1, 1], [0, 0, 1])
    assert found.predictions.labels.tolist() == [0, 1, 1]
    assert found.predictions.predicted.tolist() == [0, 0, 1]
    assert found.predictions is not found.predictions, "1,000 runs of them would not fit"
    (tmp_path / images.PREDICTIONS).unlink()
    assert found.predictions is None
    assert found.late_problems == []


@pytest.mark.parametrize("number", [0, 3])
def test_what_a_start_has_seen_is_read_again(tmp_path, number):
    """A start may have seen nothing that is known; a record without a start has no such column."""
    seen = np.arange(16 * number, dtype=np.uint8).reshape(number, 16)
    images.write_images(tmp_path, replace(record(), seen_before=seen))
    found = images.read_images_record(tmp_path)
    own = record().digests[record().split == 0]
    assert np.array_equal(found.seen_in_training, np.concatenate([own, seen]))
    images.write_images(tmp_path, record())
    assert np.array_equal(images.read_images_record(tmp_path).seen_in_training, own)


def test_what_a_start_has_seen_is_digests(tmp_path):
    """Other numbers in their place are damage."""
    images.write_images(tmp_path, replace(record(), seen_before=np.zeros((2, 8), np.uint8)))
    with pytest.raises(CheckpointError, match=r"images\.npz is damaged: .* seen before"):
        images.read_images_record(tmp_path)


def test_predictions_of_a_record_can_be_held_without_a_folder(tmp_path):
    """A file of results is no run folder, and its record holds what it said."""
    held = images.Predictions(np.array([0, 1]), np.array([1, 1]), None, None)
    found = RunRecord(tmp_path / "x.csv", {}, None, [], None, None, held_predictions=held)
    assert found.predictions is held


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 0, 1], [0, 0, 1]),  # other images
        ([0, 1, 1], [0, 1, 1]),  # as many of each class, other answers
        ([0, 1, 2], [0, 0, 2]),  # a class more
    ],
)
def test_predictions_of_another_run_are_a_problem_and_none(tmp_path, labels, predicted):
    """A file beside scores that are not its own would give intervals of something else."""
    run_with_scores(tmp_path, [0, 1, 1], [0, 0, 1])
    np.savez(tmp_path / images.PREDICTIONS, label=np.array(labels), predicted=np.array(predicted))
    found = read_run(tmp_path)
    assert found.predictions is found.predictions is None
    assert found.late_problems == [
        f"{tmp_path / 'predictions.npz'} holds other answers than scores.json"
    ]


def test_damaged_predictions_are_a_problem_and_none(tmp_path):
    """A comparison goes on without them, and can say why."""
    found = run_with_scores(tmp_path, [0, 1, 1], [0, 0, 1])
    (tmp_path / images.PREDICTIONS).write_bytes(b"PK")
    assert found.predictions is None
    assert len(found.late_problems) == 1
    assert "predictions.npz is damaged" in found.late_problems[0]
