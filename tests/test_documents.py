"""The JSON documents of a run folder: whatever is written is read back."""

import json
import tracemalloc
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.errors import RunError
from lmsm_cli.metrics import DENSE_CLASSES
from lmsm_cli.reports.confusion import confusion_of
from lmsm_cli.reports.html.confusions import confusions_of
from lmsm_cli.reports.plots import plot_confusion
from lmsm_cli.reports.tables import confusion_table
from lmsm_cli.runs.documents import (
    Environment,
    Row,
    ScoresDocument,
    Status,
    build,
    pretty_text,
    read_document,
    read_row,
    row_text,
)
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.files import LARGEST_TEXT
from lmsm_cli.scoring import score

DIGEST = "0123456789abcdef" * 2
# name -> classes, labels, predictions
DEGENERATE = {
    "nothing right": (3, [0, 1, 2, 0], [1, 2, 0, 2]),
    "nothing right, guesses beyond the labels": (3, [0, 0], [2, 1]),
    "everything right": (3, [0, 1, 2, 0], [0, 1, 2, 0]),
    "one image, right": (2, [1], [1]),
    "one image, wrong": (2, [1], [0]),
    "one class present": (4, [2, 2, 2], [2, 0, 2]),
    "one class missing": (3, [0, 2, 2], [0, 1, 2]),
    "two classes, one guess": (2, [0, 1, 1], [0, 0, 0]),
    "one class at all": (1, [0, 0], [0, 0]),
    "1,000 classes": (1000, [999, 5, 5], [999, 5, 6]),
    "1,000 classes, nothing right": (1000, [999, 5, 5], [0, 6, 6]),
    "1,001 classes": (1001, [1000, 5, 5], [1000, 6, 6]),
    "5,000 classes, nothing right": (5000, [4999, 5, 5], [0, 6, 6]),
}


def scored(num_classes, labels, predictions, *, with_logits=True, dtype=np.int64):
    """Return the scores as a run writes them."""
    labels, predictions = np.array(labels, dtype), np.array(predictions, dtype)
    logits = np.zeros((len(labels), num_classes), dtype=np.float32)
    logits[np.arange(len(labels)), predictions] += 5
    names = [f"class {number}" for number in range(num_classes)]
    given = logits if with_logits else None
    return score(names, labels, predictions, np.arange(num_classes) + 1, given).to_json()


def written_and_read(tmp_path, scores):
    """Return what a run folder gives back for a scores.json, and its problem."""
    folder = RunFolder.create(tmp_path, "run")
    folder.write_config("seed: 1\n")
    folder.write_status("completed", exit_code=0)
    folder.write_metrics([])
    folder.write_scores(build(ScoresDocument, scores))
    record = read_run(folder.path)
    return record.scores.to_json(), record.problem


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_scores_are_read_back_as_written(tmp_path, case):
    """None right, all right, one image, classes without images: read back, with whole numbers."""
    scores = scored(*DEGENERATE[case])
    assert written_and_read(tmp_path, scores) == (scores, None)
    counts = [row["test_count"] for row in scores["per_class"]]
    assert {type(count) for count in counts} == {int}
    labels, predictions = DEGENERATE[case][1:]
    assert counts == [labels.count(number) for number in range(DEGENERATE[case][0])]
    assert scores["accuracy"] == np.mean(np.array(labels) == np.array(predictions))


@pytest.mark.parametrize("case", DEGENERATE)
def test_every_reader_of_a_confusion_takes_both_forms(tmp_path, case):
    """Table, plot and page show the errors counted by hand, stored dense or sparse."""
    num_classes, labels, predictions = DEGENERATE[case]
    document = scored(*DEGENERATE[case])
    assert isinstance(document["confusion"], dict) == (num_classes > DENSE_CLASSES)
    scores = build(ScoresDocument, document)
    assert confusion_of(scores).cells == Counter(zip(labels, predictions, strict=True))
    errors = Counter((a, b) for a, b in zip(labels, predictions, strict=True) if a != b)
    table = confusion_table(scores)
    cells = {str(cell) for column in table.columns for cell in column.cells}
    found = confusions_of(None, [scores, scores])
    for (true, guess), images in errors.items() if num_classes > 20 else ():
        share = images / labels.count(true)
        assert (f"class {true}", f"class {guess}", 2 * images, share) in found.commonest
        assert f"class {guess}" in cells
    if num_classes in (3, 5000):
        plot_confusion(scores, tmp_path)
        assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_many_classes_take_little_room():
    """20,000 classes, whose matrix would take 3 GB, are scored, written and listed in a few MB."""
    labels = np.arange(2000) * 7 % 20_000
    names = [str(number) for number in range(20_000)]
    tracemalloc.start()
    scores = score(names, labels, (labels + labels % 3) % 20_000, [1] * 20_000)
    text = pretty_text(scores)
    confusion_of(scores).commonest_errors(30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert len(text) < 5e6


def test_a_confusion_of_many_cells_is_written_and_read(tmp_path):
    """A text is never longer than what is read of a file: a large one has no line a number."""
    cells = range(300_000)
    scores = scored(1001, [0], [1]) | {
        "confusion": {
            "num_classes": 1001,
            "rows": [n // 1001 for n in cells],
            "columns": [n % 1001 for n in cells],
            "counts": [12345] * len(cells),
        }
    }
    assert written_and_read(tmp_path, scores) == (scores, None)
    assert (tmp_path / "run" / "scores.json").stat().st_size < LARGEST_TEXT / 10


def test_names_of_classes_may_hold_anything(tmp_path):
    """Lone surrogates, quotes, controls and line separators come back as they were."""
    names = ["\udc80 ü", '"\\udc80', "a\x00\x1b\nb", "\u2028\ufeff", "日本"]
    scores = score(names, np.arange(5), np.arange(5), [1] * 5).to_json()
    assert written_and_read(tmp_path, scores) == (scores, None)


@st.composite
def answers(draw):
    """Draw classes, labels and predictions: often few of each."""
    num_classes = draw(st.sampled_from([1, 2, 3, 4, 6, DENSE_CLASSES + 1]))
    number = st.integers(0, num_classes - 1)
    pairs = draw(st.lists(st.tuples(number, number), min_size=1, max_size=8))
    return num_classes, *map(list, zip(*pairs, strict=True))


@settings(max_examples=40, deadline=timedelta(seconds=5))
@given(
    answers=answers(),
    with_logits=st.booleans(),
    dtype=st.sampled_from([np.int64, np.int32, np.int16]),
)
def test_write_and_read_of_any_scores_is_the_identity(answers, with_logits, dtype):
    """Whatever was right or wrong, and of whatever type labels are: read as written."""
    document = scored(*answers, with_logits=with_logits, dtype=dtype)
    document |= {"images": {"training": DIGEST, "validation": None, "test": DIGEST}, "lambda": 0.5}
    text = pretty_text(build(ScoresDocument, document))
    assert read_document(ScoresDocument, text).to_json() == document


SCORES = scored(2, [0, 1], [0, 0])
NO_IMAGES = {"training": None, "validation": None}
CELL = {"num_classes": 2, "rows": [0], "columns": [1], "counts": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 1.5}, "accuracy of ScoresDocument is 1.5"),
        ({"accuracy": float("nan")}, "accuracy of ScoresDocument is None"),
        (
            {"per_class": [SCORES["per_class"][0] | {"test_count": 4.0}]},
            "per_class.0.test_count of ScoresDocument is 4.0",
        ),
        ({"images": NO_IMAGES | {"test": DIGEST.upper()}}, "images.test"),
        ({"images": NO_IMAGES}, "images.test of ScoresDocument is missing"),
        ({"confusion": CELL | {"columns": [2]}}, "beyond the classes"),
        ({"confusion": CELL | {"counts": []}}, "not equally many"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, change, message):
    """A document that its own model refuses ends the run with a message, and the old file stays."""
    folder = RunFolder.create(tmp_path, "run")
    folder.write_scores(build(ScoresDocument, SCORES))
    before = (folder.path / "scores.json").read_bytes()
    with pytest.raises(RunError, match="fault of lmsm") as error:
        folder.write_scores(build(ScoresDocument, SCORES | change))
    assert message in str(error.value)
    assert (folder.path / "scores.json").read_bytes() == before


def test_scores_of_older_runs_are_read():
    """Keys that an older lmsm did not write may be missing, and those of a newer one are kept."""
    newer = ("top_k", "calibration_error", "reliability")
    older = {key: value for key, value in SCORES.items() if key not in newer}
    for document in (older, older | {"from the future": [1]}):
        found = read_document(ScoresDocument, json.dumps(document)).to_json()
        assert {key: found[key] for key in document} == document


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (Status, {"state": "failed", "reason": "\udc80 ü", "exit_code": -9, "pid": 1, "host": "h"}),
        (Status, {}),
        (
            Environment,
            {"python": "3.11", "scikit-learn": "1.9", "git": None, "command": ["a", "\udc80"]}
            | {"asked": DIGEST, "new": {"a": 1}},
        ),
        (Row, {"epoch": 1, "lambda": None, "collapse": ["stuck loss"], "new": "text"}),
    ],
)
def test_every_document_is_read_back_as_written(model, document):
    """Status, environment and rows survive the way through their files, odd names included."""
    assert read_document(model, pretty_text(build(model, document))).to_json() == document
    if model is Row:
        assert read_row(row_text(document)) == document


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (Status, {"state": "asleep"}),
        (Status, {"exit_code": "1"}),
        (Environment, {"asked": 3}),
        (Environment, {"git": "main"}),
    ],
)
def test_a_document_of_other_types_is_damaged(model, document):
    """A state that there is not, or a text for a number, is no document of a run."""
    with pytest.raises(ValueError, match=model.__name__):
        read_document(model, json.dumps(document))


def test_measures_that_are_no_numbers_are_null_in_both_directions():
    """A row with NaN or a text in place of a measure has null there, written and read."""
    row = {"epoch": 1, "train_loss": float("inf"), "lr": "x", "lambda": True, "seconds": 2}
    wanted = {"epoch": 1, "train_loss": None, "lr": None, "lambda": None, "seconds": 2}
    assert row_text(row) == json.dumps(wanted) + "\n"  # 1 stays 1, not 1.0
    assert (
        read_row('{"epoch": 1, "train_loss": null, "lr": "x", "lambda": true, "seconds": 2}')
        == wanted
    )


ODD_NAMES = r"""~|null|1e5|0x1F|on|2026-01-01|{a}|*x|!x|a: b|- a|#x| x |'|"|%|=|<<|.inf"""
MORE_ODD_NAMES = ("a\x85b", "a\u2028b", "\ufeff", "\t", "\U0001f600")


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from((*ODD_NAMES.split("|"), *MORE_ODD_NAMES)) | st.text(max_size=8))
def test_config_yaml_is_read_back_as_written(tmp_path_factory, name):
    """A folder may be called anything, a line end of YAML included: it comes back the same."""
    try:
        config = Config.model_validate({"data_dir": name, "out": name, "lr": 1e-5})
    except ValidationError:  # a NUL or half a surrogate pair
        return
    folder = RunFolder.create(tmp_path_factory.mktemp("run"), "run")
    folder.write_config(dump_yaml(config))
    assert resolve([Layer.of_file(folder.path / "config.yaml")]).config == config
