"""Searches: the best by validation, exactly as many trials as asked for, each told how it ended."""

import dataclasses
import signal
import sys

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import resolve
from lmsm_cli.errors import DataError, DiskError, LmsmError, PrunedError, StoppedError
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs.record import read_run
from lmsm_cli.sweeps.grid import parse_axes
from lmsm_cli.sweeps.optuna_store import Search, _alone_in
from lmsm_cli.sweeps.search import _Reporting, check_search, run_search
from lmsm_cli.training.run import resume_run, start_run
from tests.conftest import SilentDisplay, printed_json
from tests.test_resume import Stopping
from tests.test_sweep import BAD, FLAGS, folders, layers, status

pytestmark = pytest.mark.libraries

optuna = pytest.importorskip("optuna")

GRIDS = ["lr=0.001..0.1:log", "batch_size=32..64", "loss=softmax,lsoftmax:margin=2"]
CHOICES = [word for text in GRIDS for word in ("--grid", text)]
_AT = FLAGS.index("--batch-size")
OTHER_FLAGS = FLAGS[:_AT] + FLAGS[_AT + 2 :]


def search(out, num_trials, *grids, arms=(), seeds=None, prune=False, **values):
    """Return a search over the digits, whose killed processes are noticed within seconds."""
    axes = parse_axes(grids or GRIDS, arms)
    return Search(layers(out, **values), axes, seeds, num_trials, prune=prune, heartbeat=1)


def searched(out, num_trials, *grids, display=None, **options):
    """Do a search; return its trials."""
    return run_search(search(out, num_trials, *grids, **options), display or SilentDisplay())


def finished(out, *, all_states=False):
    """Return the trials of the one study of a folder, as Optuna has them."""
    storage = f"sqlite:///{out}/study.db"
    (name,) = optuna.get_all_study_names(storage)
    states = (
        None if all_states else [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    )
    return optuna.load_study(study_name=name, storage=storage).get_trials(states=states)


def test_the_best_is_best_on_validation(tmp_path, capsys):
    """A value is the last epoch's val_balanced_accuracy; the best's command repeats that run."""
    flags = ["sweep", *OTHER_FLAGS, *CHOICES, "--out", str(tmp_path)]
    document = printed_json(capsys, *flags, "--trials", "3")
    for row in document["trials"]:
        (run,) = row["runs"]
        record = read_run(tmp_path / run)
        assert row["value"] == record.metrics[-1]["val_balanced_accuracy"]
        drawn = {key: str(record.config[key]) for key in ("lr", "batch_size")}
        assert float(drawn["lr"]) == float(row["choices"]["lr"])
        assert drawn["batch_size"] == row["choices"]["batch_size"]
        assert 32 <= record.config["batch_size"] <= 64
        assert 0.001 <= record.config["lr"] <= 0.1
        assert record.config["loss"].startswith(row["choices"]["loss"])
    best = document["best"]
    assert best["value"] == max(row["value"] for row in document["trials"])
    assert f"--lr {best['choices']['lr']}" in best["command"]
    assert "--out" not in best["command"]
    assert main([*flags, "--trials", "4"]) == 0
    printed = capsys.readouterr()
    assert len(folders(tmp_path)) == 4
    assert "4 trials" in printed.out
    assert "the best: lmsm train --preset digits" in printed.out
    assert "Trial" not in printed.out


@pytest.mark.parametrize("name", ["what?", "%41", "a b#c"])
def test_the_database_lies_in_its_folder(tmp_path, name):
    """A folder's name is no part of a URL's syntax."""
    assert len(searched(tmp_path / name, 1)) == 1
    assert (tmp_path / name / "study.db").is_file()


def test_a_search_repeats_itself(tmp_path):
    """One process draws the same choices again, also where it was ended in between."""
    whole = searched(tmp_path / "one", 3)
    for num_trials in (1, 3):
        parts = searched(tmp_path / "two", num_trials)
    assert [(one.number, one.choices, one.value) for one in whole] == [
        (one.number, one.choices, one.value) for one in parts
    ]
    assert searched(tmp_path / "other", 1, seed=7)[0].choices != next(
        one.choices for one in whole if one.number == 0
    )


def test_a_value_is_the_mean_over_seeds(tmp_path):
    """Each seed is a run of its own."""
    (one,) = searched(tmp_path, 1, seeds=(0, 5))
    values = [read_run(path).metrics[-1]["val_balanced_accuracy"] for path in folders(tmp_path)]
    assert len(values) == len(one.runs) == 2
    assert one.value == pytest.approx(sum(values) / 2)


def test_arms_are_searched_whole(tmp_path):
    """An arm's choices come together or not at all."""
    arms = ["loss=ldam reweight=effective", "loss=softmax sampling=balanced"]
    for one in searched(tmp_path, 3, "lr=0.01..0.1", arms=arms):
        config = read_run(tmp_path / one.runs[0]).config
        assert (config["loss"].partition(":")[0], config["reweight"], config["sampling"]) in [
            ("ldam", "effective", "shuffle"),
            ("softmax", "none", "balanced"),
        ]


def test_a_diverged_trial_is_told_and_counted(tmp_path, capsys):
    """Else a search among bad choices would never end; if none is good, the exit code says so."""
    flags = [
        "sweep",
        *FLAGS,
        "--grid",
        f"lr={BAD}..1e35:log",
        "--trials",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main(flags) == 1
    printed = capsys.readouterr()
    assert printed.out.count("failed: the loss is no longer finite") == 2
    assert "none of the 2 trials came to its end" in printed.err
    assert "Traceback" not in printed.err


def test_a_pruned_run_says_so_and_is_counted(tmp_path, monkeypatch):
    """The pruner sees each epoch's validation; the run is interrupted with the reason."""
    threshold = optuna.pruners.ThresholdPruner(lower=1.1)
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **options: threshold)
    found = searched(tmp_path, 2, prune=True, epochs="3")
    assert [one.state for one in found] == ["pruned", "pruned"]
    assert sorted(run for one in found for run in one.runs) == [*map(str, folders(tmp_path))]
    for path in folders(tmp_path):
        assert status(path)["state"] == "interrupted"
        assert status(path)["reason"].startswith("pruned after epoch 1 of 3")
        assert len(read_run(path).metrics) == 1
    values = [trial.intermediate_values for trial in finished(tmp_path)]
    rows = [read_run(path).metrics[0]["val_balanced_accuracy"] for path in folders(tmp_path)]
    assert values == [{1: value} for value in rows]
    resume_run(folders(tmp_path)[0], SilentDisplay(), with_plots=False)
    assert status(folders(tmp_path)[0])["state"] == "completed"


def test_a_run_is_not_pruned_after_its_last_epoch(tmp_path):
    """What is done is done, and its value counts."""

    class Trial:
        """Would prune whenever it is asked."""

        reported = ()

        def report(self, value, step):
            self.reported += ((step, value),)

        def should_prune(self):
            return True

    trial = Trial()
    config = resolve(layers(tmp_path), check_loss).config
    folder = start_run(config, _Reporting(SilentDisplay(), trial, 10), with_plots=False)
    assert trial.reported == ((11, read_run(folder.path).metrics[0]["val_balanced_accuracy"]),)
    with pytest.raises(PrunedError):
        start_run(
            config.model_copy(update={"epochs": 2}),
            _Reporting(SilentDisplay(), trial, 0),
            with_plots=False,
        )


def test_a_stopped_search_goes_on_with_its_run(tmp_path):
    """The trial that a signal ended is none; its choices come again, and its run is resumed."""
    with pytest.raises(StoppedError, match="saved; 0 of 2 trials are done") as stopped:
        searched(tmp_path, 2, display=Stopping(3, signal.SIGINT))
    assert stopped.value.exit_code == 130
    (path,) = folders(tmp_path)
    assert status(path)["state"] == "interrupted"
    assert len(searched(tmp_path, 2)) == 2
    assert [status(path)["state"] for path in folders(tmp_path)] == ["completed"] * 2
    assert path in folders(tmp_path)  # of two runs of one second, names do not tell the older


def test_missing_data_ends_the_search(tmp_path):
    """It would be missing in the next trial too."""
    there = {
        "dataset": "folder",
        "data_dir": str(tmp_path / "nothing"),
        "imbalance": "none",
        "model": "resnet18",
    }
    with pytest.raises(DataError):
        searched(tmp_path / "runs", 3, "lr=0.01..0.1", **there)


REFUSED = [
    ({"validation": "0"}, {}, "needs validation images"),
    (
        {},
        {"axes": parse_axes(["lr=0.1,0.2", "loss=softmax,focal"], [])},
        "there are only 4 combinations",
    ),
    ({}, {"axes": parse_axes(["lr=-1..0.1"], [])}, "lr=-1: lr of the sweep: lr is '-1'"),
    (
        {},
        {"axes": parse_axes(["lr=0.1..0.2", "loss=softmax,lsoftmx"], [])},
        "did you mean 'lsoftmax'?",
    ),
    ({}, {"storage": "nonsense"}, "the study's database cannot be opened"),
    ({}, {"storage": "mysql+nodriver://u:secret@host/db"}, "the study's database cannot be opened"),
    ({}, {"storage": "sqlite:////nowhere/at/all.db"}, "the study's database cannot be opened"),
]


@pytest.mark.parametrize(("values", "changes", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_work_is_told_before_anything_starts(values, changes, message, tmp_path):
    """One sentence, without a traceback or a password."""
    with pytest.raises(LmsmError) as told:
        run_search(dataclasses.replace(search(tmp_path, 9, **values), **changes), SilentDisplay())
    assert message in str(told.value)
    assert "secret" not in str(told.value)
    assert not folders(tmp_path)


def test_a_study_is_of_one_search(tmp_path):
    """Other ranges, losses or seeds under an old name would mix what cannot be compared."""
    named = dataclasses.replace(search(tmp_path, 1), study="mine")
    assert len(run_search(named, SilentDisplay())) == 1
    assert len(run_search(dataclasses.replace(named, num_trials=2), SilentDisplay())) == 2
    other = dataclasses.replace(search(tmp_path, 1, "lr=0.01..0.1"), study="mine")
    with pytest.raises(LmsmError, match="'mine' is of another search"):
        run_search(other, SilentDisplay())
    storage = f"sqlite:///{tmp_path}/foreign.db"
    study = optuna.create_study(storage=storage, study_name="theirs")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(LmsmError, match="'theirs' is of another search"):
        run_search(dataclasses.replace(other, study="theirs", storage=storage), SilentDisplay())


def test_without_optuna_the_way_out_is_told(tmp_path, monkeypatch):
    """It is an extra, named with its pip command."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LmsmError, match=r"pip install 'optuna<6,>=5'"):
        check_search(search(tmp_path, 1))


def test_a_trial_too_many_is_not_run(tmp_path, monkeypatch):
    """Where two processes take the last place in the same moment, the later number stands back."""
    ask, others = optuna.study.Study.ask, []

    def asked_at_once(study, *arguments):
        if not others:
            others.append((study, ask(study)))
        return ask(study, *arguments)

    class Other(SilentDisplay):
        """Ends the other process's trial once this one waits for it."""

        def info(self, text):
            super().info(text)
            if text.startswith("waiting for the trials"):
                study, trial = others[0]
                study.tell(trial, 0.5)

    monkeypatch.setattr(optuna.study.Study, "ask", asked_at_once)
    found = searched(tmp_path, 1, display=Other())
    assert [(one.number, one.value) for one in found] == [(0, 0.5)]
    assert not folders(tmp_path)
    assert [trial.state.name for trial in finished(tmp_path, all_states=True)] == [
        "COMPLETE",
        "FAIL",
    ]


def test_a_process_that_was_taken_for_dead_stands_back(tmp_path):
    """A laptop that slept through a trial leaves it to whoever took it over, and goes on."""

    class Slept(SilentDisplay):
        """Lets the study give the first trial up during its run."""

        has_slept = False

        def epoch(self, epoch, num_epochs):
            if not self.has_slept:
                self.has_slept = True
                (trial,) = [
                    one
                    for one in finished(tmp_path, all_states=True)
                    if not one.state.is_finished()
                ]
                storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
                storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)

    display = Slept()
    found = searched(tmp_path, 2, display=display)
    assert [one.number for one in sorted(found, key=lambda one: one.number)] == [1, 2]
    assert "trial 0 was taken for dead while this process slept; others do it" in display.said
    # sorted: of runs that start in the same second the names say nothing of the order
    assert sorted(status(path)["state"] for path in folders(tmp_path)) == [
        "completed",
        "completed",
        "interrupted",
    ]


def test_a_study_that_is_a_link_is_refused(tmp_path):
    """SQLite would write through it: to a file of the user's, or to a new one anywhere."""
    (tmp_path / "study.db").symlink_to("elsewhere")
    with pytest.raises(DiskError, match="it is a link"), _alone_in(tmp_path):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".sweep").symlink_to("..")
    with pytest.raises(DiskError, match="it is a link"), _alone_in(tmp_path / "other"):
        pass
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "study.lock").exists()
