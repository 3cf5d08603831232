"""`lmsm sweep --keep winner`: whose weights stay, when they go, and what is said."""

import json

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.conclusion import losers_of
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.reports.tables_checks import disk_line, weights_lines
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.sweeps.kept import drop_losers
from tests.synthetic_runs import records_in, write_runs
from tests.test_dropped_weights import BY, weights_of
from tests.test_sweep import BAD, FLAGS, folders, swept

TWO = ("--arm", "loss=softmax", "--arm", "loss=focal")
WINNER = ("--keep", "winner")


def with_weights(out):
    """Give each run in a folder a file of weights of 1,000 bytes."""
    for run in find_runs([out]):
        (run / "checkpoint.pt").write_bytes(bytes(1000))


def losses_with_weights(out):
    """Return the losses of the runs that have weights, and those of the runs that have none."""
    found = {True: set(), False: set()}
    for run in find_runs([out]):
        found[bool(weights_of(run))].add(read_run(run).config["loss"])
    return found[True], found[False]


def test_of_those_that_beat_softmax_the_best_stays_with_it(tmp_path):
    """ldam and focal are both told better, by 20 and 25 points; focal's weights stay."""
    write_runs(tmp_path, ("softmax", "ldam", "focal"), 3)
    with_weights(tmp_path)
    comparison = compare_runs(records_in(tmp_path))
    assert [group.verdict for group in comparison.groups] == ["", "better", "better"]
    kept = drop_losers(comparison)
    assert losses_with_weights(tmp_path) == ({"softmax", "focal"}, {"ldam"})
    assert (kept.kept, kept.dropped) == (("softmax", "focal"), ("ldam",))
    assert (kept.num_runs, kept.num_bytes) == (3, 3000)
    assert weights_lines(kept.to_json()) == [
        "the weights of softmax, focal stay; 3 runs lost theirs, which frees 0.0 MB"
    ]


def test_where_none_beats_softmax_it_stays_alone(tmp_path):
    """A loss that is told worse goes; so does one that nothing is told of, by one seed."""
    write_runs(tmp_path / "worse", ("focal", "softmax"), 3)
    write_runs(tmp_path / "open", ("softmax", "focal"), 1)
    for out in (tmp_path / "worse", tmp_path / "open"):
        with_weights(out)
        drop_losers(compare_runs(records_in(out)))
        assert losses_with_weights(out) == ({"softmax"}, {"focal"})


def test_what_is_held_against_nothing_stays(tmp_path):
    """Without softmax nothing speaks against any."""
    write_runs(tmp_path, ("ldam", "focal"), 3)
    with_weights(tmp_path)
    comparison = compare_runs(records_in(tmp_path))
    assert losers_of(comparison.groups) == []
    kept = drop_losers(comparison).to_json()
    assert losses_with_weights(tmp_path) == ({"ldam", "focal"}, set())
    assert weights_lines(kept) == [
        "the weights of ldam, focal stay; no arm is held against another"
    ]


def test_a_winner_whose_weights_are_gone_is_told(tmp_path):
    """More seeds may make a winner of an arm that has lost its weights before."""
    write_runs(tmp_path, ("softmax", "focal"), 3)
    with_weights(tmp_path)
    (gone,) = (run for run in find_runs([tmp_path]) if run.name == "1-2")
    (gone / "checkpoint.pt").unlink()
    kept = drop_losers(compare_runs(records_in(tmp_path)))
    assert kept.gone_before == (gone,)
    line = weights_lines(kept.to_json())[-1]
    assert line.startswith("1 run of softmax, focal had lost weights before, such as ")
    assert f"`lmsm eval {gone}`" in line


def test_the_weights_go_when_all_runs_are_done(tmp_path, capsys):
    """Not while one fails; then the losers', by the command; again, nothing is done anew."""
    bad = ("--arm", f"loss=focal lr={BAD}")
    document, said = swept(capsys, tmp_path, *TWO, *bad, *WINNER, code=1)
    assert "disk: about" in said
    assert "weights" not in document
    assert "and no weights go before" in said
    found = [read_run(run) for run in folders(tmp_path)]
    of_loss = {run.config["loss"]: run.path for run in found if run.state == "completed"}
    done = [of_loss["softmax"], of_loss["focal"]]
    assert len([run for run in found if run.state == "completed"]) == 2
    assert [weights_of(run) for run in done] == [["checkpoint.pt", "best.pt"]] * 2
    document, said = swept(capsys, tmp_path, *TWO, *WINNER)
    assert "2 of 2 runs are there already" in said
    assert "disk: about" not in said
    weights = document["weights"]
    assert (weights["kept"], weights["dropped"]) == (["softmax"], ["focal"])
    assert weights["runs_dropped"] == 1
    assert [weights_of(run) for run in done] == [["checkpoint.pt", "best.pt"], []]
    assert [read_run(run).status.dropped_by for run in done] == ["", BY]
    assert (done[1] / "predictions.npz").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    again, _ = swept(capsys, tmp_path, *TWO, *WINNER)
    assert again["weights"] == weights | {"runs_dropped": 0, "freed_bytes": 0}
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}


def test_the_room_that_is_needed_is_told_before(tmp_path, capsys):
    """For each missing run three checkpoints, as large as a run's are, and a MB of other files."""
    words = ["sweep", *FLAGS, "--out", str(tmp_path), *TWO, *WINNER, "--dry-run", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)["disk_bytes"]
    assert not list(tmp_path.iterdir())
    swept(capsys, tmp_path, "--arm", "loss=softmax")
    size = (folders(tmp_path)[0] / "checkpoint.pt").stat().st_size
    assert told == pytest.approx(2 * (3 * size + 1e6), rel=0.01)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["disk_bytes"] == pytest.approx(told / 2, rel=0.01)


def test_too_little_room_is_said():
    """The line on the disk ends with it."""
    assert disk_line(2e9, 1e9).endswith("of 1 GB free, which is too little")
    assert disk_line(1e9, 2e9) == (
        "disk: about 1,000 MB until the losers' weights go, of 2 GB free"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arm", "loss=softmax", "--keep", "winer"), "did you mean 'winner'?"),
        (("--arm", "loss=focal", *WINNER), "has no run with it: add loss=softmax"),
        (("--grid", "lr=0.1,0.2", *WINNER, "--loss", "softmax"), "has no other loss: vary loss"),
        (("--grid", "lr=0.1,0.2", *WINNER, "--trials", "2"), "--trials has none: leave --keep out"),
    ],
)
def test_what_can_have_no_winner_is_refused(words, message, tmp_path, capsys):
    """Before anything is run."""
    assert main(["sweep", *FLAGS, "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
