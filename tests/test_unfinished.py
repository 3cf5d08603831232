"""Scores are told with the epoch that they are of, and which runs are not finished."""

import json

import pytest

from lmsm_cli.comparison.grouping import comparable, compare_runs
from lmsm_cli.reports.html.page import page
from lmsm_cli.runs.record import read_run
from tests.synthetic_runs import records_in, scores_of, write_run
from tests.test_page import Document, words
from tests.test_pooling import write_repeat
from tests.test_resume import resumed, whole

NAMES = ("cat", "dog")


def write(out, name, *, epoch, state, before=None, **config):
    """Write a run folder whose scores are of an epoch; return its path."""
    scores = scores_of(NAMES) | {"epoch": epoch, "stopped_before": before}
    return write_run(out, name, scores=scores, state=state, **config)


def told(*paths):
    """Return the notes of a comparison of runs, and the words of its page."""
    records = [read_run(path) for path in paths]
    comparison = compare_runs(records)
    return "\n".join(comparison.notes), words(Document(page(comparison, records)))


def test_a_run_that_was_made_longer_and_stopped_is_told_with_its_old_scores(tmp_path):
    """It was scored after 1 epoch, and goes on to 300; Ctrl-C comes in the second."""
    run = resumed(whole(tmp_path, epochs=1), 2, epochs=300)
    assert json.loads((run / "scores.json").read_text())["epoch"] == 1
    notes, text = told(run)
    assert f"not finished: {run.name} (interrupted; scores of epoch 1 of 300)" in notes
    assert "after 1 of 300 epochs" in text
    assert "300 epochs" not in text.replace("1 of 300 epochs", "")


@pytest.mark.parametrize(
    ("state", "said"),
    [("interrupted", "interrupted"), ("running", "running or killed"), ("failed", "failed")],
)
def test_each_unfinished_run_of_a_group_is_named(tmp_path, state, said):
    """Two seeds are one row; the note says of both where they stand, and of no finished one."""
    runs = [
        write(tmp_path, "one", epoch=2, state=state, epochs=400, seed=1),
        write(tmp_path, "two", epoch=3, state=state, epochs=400, seed=2),
        write(tmp_path, "done", epoch=400, state="completed", epochs=400, seed=3),
    ]
    notes, text = told(*runs)
    assert (
        f"not finished: one ({said}; scores of epoch 2 of 400), "
        f"two ({said}; scores of epoch 3 of 400); `lmsm resume RUN`" in notes
    )
    assert "done (" not in notes
    assert "after 2 of 400, 3 of 400, 400 epochs" in text


def test_a_run_without_patience_left_is_finished(tmp_path):
    """It was to have 60 epochs and stopped after 54: that is said, and no resume asked for."""
    notes, text = told(write(tmp_path, "early", epoch=54, state="completed", before=60, epochs=60))
    assert "not finished" not in notes
    assert "after 54 of 60 epochs" in text
    assert "54 of 60, stopped early (--patience)" in text


@pytest.mark.parametrize("before", [None, 60])
def test_a_run_whose_config_has_more_epochs_is_not_finished(tmp_path, before):
    """So it is where a resume ended before it wrote that it runs, also after an early stop."""
    run = write(tmp_path, "run", epoch=54, state="completed", before=before, epochs=400)
    notes, text = told(run)
    assert "not finished: run (scores of epoch 54 of 400)" in notes
    assert "stopped early" not in text


def test_a_finished_run_has_no_note_and_its_epochs(tmp_path):
    """Nor has an older one that does not say the epoch of its scores."""
    for epoch in (60, None):
        run = write(tmp_path, f"run-{epoch}", epoch=epoch, state="completed", epochs=60)
        notes, text = told(run)
        assert notes == "" or "not finished" not in notes
        assert "after 60 epochs" in text


def test_folds_that_are_one_run_are_told_by_their_own_names(tmp_path):
    """Each has an epoch of its own; together they are after the fewest that all have had."""
    write_repeat(tmp_path, set(range(40)), number=60)
    paths = [record.path for record in records_in(tmp_path)]
    for path, epoch in zip(paths, (6, 4), strict=True):
        file = path / "scores.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"epoch": epoch}))
        (path / "status.json").write_text(json.dumps({"state": "interrupted"}))
    records = records_in(tmp_path)
    comparison = compare_runs(records)
    (note,) = (one for one in comparison.notes if "not finished" in one)
    first, second = (path.name for path in paths)
    assert note.startswith(
        f"not finished: {first} (interrupted; scores of epoch 6 of 10), "
        f"{second} (interrupted; scores of epoch 4 of 10);"
    )
    whole, *_ = comparable(records)
    assert "after 4 of 10 epochs" in words(Document(page(comparison, whole)))
