"""The run folder: making it, writing to it, reading it back."""

import errno
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from lmsm_cli.errors import DiskError, LmsmError
from lmsm_cli.runs.folder import RunFolder, run_name
from lmsm_cli.runs.record import find_runs, only_run, read_run, runs_below
from tests.synthetic_runs import document, scores_json

SCORES = document(scores_json((0.5, 1.0), checkpoint="best.pt") | {"lambda": None}).to_json()


def complete_run(folder: RunFolder) -> RunFolder:
    """Write every file of a run that ended well."""
    folder.write_config("loss: softmax\nlr: 1e-3\nmilestones: [160, 180]\n")
    folder.write_environment({"python": "3.11"})
    folder.append_metrics({"epoch": 1})
    folder.append_metrics({"epoch": 2})
    folder.write_scores(document(SCORES))
    folder.write_status("completed", exit_code=0)
    return folder


def test_run_name_has_time_what_ran_and_seed_and_no_odd_characters():
    """A run is named <time>-<dataset>-<model>-<loss>-s<seed>, safe as a file name."""
    now = datetime(2026, 1, 2, 3, 4, 5)
    assert (
        run_name("digits", "resnet18", "lsoftmax", 7, now)
        == "20260102-030405-digits-resnet18-lsoftmax-s7"
    )
    assert run_name("a/b", "m", "x y", 1, now) == "20260102-030405-a-b-m-x-y-s1"


def test_runs_started_in_the_same_moment_get_folders_of_their_own(tmp_path):
    """Ten makers of one name at once get ten folders: name, name-2, ... name-10."""
    with ThreadPoolExecutor(10) as pool:
        made = pool.map(
            lambda _: RunFolder.create(tmp_path / "new" / "runs", "run").path, range(10)
        )
        names = {path.name for path in made}
    assert names == {"run", *(f"run-{number}" for number in range(2, 11))}


def test_folder_that_cannot_be_made_is_a_disk_error(tmp_path):
    """Where --out is a file, or below one, the message names it and the exit code is 6."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DiskError, match="--out") as caught:
            RunFolder.create(out, "run")
        assert caught.value.exit_code == 6


def test_complete_run_is_read_back_as_written(tmp_path):
    """Everything that was written comes back, YAML's 1e-3 as a number, and there is no problem."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    record = read_run(run.path)
    assert record.config == {"loss": "softmax", "lr": 0.001, "milestones": (160, 180)}
    assert record.status.to_json() == {
        "state": "completed",
        "reason": "",
        "exit_code": 0,
        "pid": os.getpid(),
        "host": platform.node(),
    }
    assert record.metrics == [{"epoch": 1}, {"epoch": 2}]
    assert record.scores.to_json() == SCORES
    assert record.problem is None
    assert json.loads((run.path / "environment.json").read_text()) == {"python": "3.11"}


@pytest.mark.parametrize(
    ("train", "groups"),
    [
        ((50, 40), {}),  # 1.25 times as many: no class is rare
        ((30, 3), {"many": 0.5, "medium": None, "few": 1.0}),
    ],
)
def test_groups_are_those_of_the_classes_whatever_an_older_lmsm_wrote(tmp_path, train, groups):
    """Which class is rare follows from the counts in the file, and its score from the class's."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    values = scores_json((0.5, 1.0), train=train, groups={"many": 0.9, "few": 0.1, "tail": None})
    run.write_scores(document(values))
    assert read_run(run.path).scores.groups == groups
    assert read_run(run.path).scores.to_json()["groups"] == groups


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    """A disk that is full while a file is replaced costs the new text, never the old one."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"cannot write .*scores\.json: No space left on device"):
        run.write_scores(document(SCORES | {"accuracy": 1.0}))
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.write_status("running"),
        lambda run: run.append_metrics({}),
        lambda run: run.log_line("x"),
    ],
)
def test_run_folder_deleted_while_training_is_a_disk_error(tmp_path, write):
    """Writing into a folder that is gone says so; it is not made again."""
    run = RunFolder(tmp_path / "gone")
    with pytest.raises(DiskError, match="gone"):
        write(run)
    assert not run.path.exists()


def test_undefined_numbers_become_null(tmp_path):
    """NaN and infinities, at any depth, are null: every line and file is strict JSON."""
    run = RunFolder.create(tmp_path, "run")
    run.append_metrics({"a": float("nan"), "b": [1.5, float("-inf")]})
    run.write_scores(document(SCORES | {"c": {"d": float("inf")}}))
    assert (run.path / "metrics.jsonl").read_text() == '{"a": null, "b": [1.5, null]}\n'
    assert json.loads((run.path / "scores.json").read_text()) == SCORES | {"c": {"d": None}}


def test_half_a_last_line_is_ignored_and_then_replaced(tmp_path):
    """What a killed run left of a row is no row, and the next row does not stick to it."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tra')
    assert read_run(run.path).metrics == [{"epoch": 1}, {"epoch": 2}]
    assert read_run(run.path).problem is None
    run.append_metrics({"epoch": 3})
    assert read_run(run.path).metrics == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


def test_rows_are_flushed_on_request(tmp_path, monkeypatch):
    """A power cut then loses none of them; where there is no file yet, there is nothing to do."""
    run = RunFolder.create(tmp_path, "run")
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(run.metrics.read_text()))
    run.sync_metrics()
    run.append_metrics({"epoch": 1})
    assert flushed == []
    run.sync_metrics()
    assert flushed == ['{"epoch": 1}\n']


def test_odd_names_are_written_all_the_same(tmp_path):
    """File names that are no UTF-8 (lone surrogates) and other scripts reach JSON and log."""
    run = RunFolder.create(tmp_path, "run")
    run.write_environment({"argv": "\udc80 ü 日本"})
    run.log_line("\udc80 ü 日本")
    assert json.loads((run.path / "environment.json").read_text("utf-8"))["argv"] == "\udc80 ü 日本"
    assert run.log.read_text("utf-8") == "\\udc80 ü 日本\n"


def test_a_log_line_is_one_line(tmp_path):
    """What a checkpoint of a stranger's says can begin no line of its own, and set no colour."""
    run = RunFolder.create(tmp_path, "run")
    run.log_line("a\nrm -r ~ # \x1b[31m\r\u2028b")
    assert run.log.read_text() == "a\\nrm -r ~ # \\x1b[31m\\r\\u2028b\n"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("scores.json", None, "no scores.json; status completed"),
        ("scores.json", b"", "scores.json is damaged; status completed"),
        ("scores.json", b'{"accuracy": 0.5', "scores.json is damaged"),
        ("scores.json", b'{"accuracy": 0.5}', "scores.json is damaged"),
        ("scores.json", b"[" * 100_000, "scores.json is damaged"),
        (
            "scores.json",
            json.dumps(SCORES).replace("0.5", "NaN").encode(),
            "scores.json is damaged",
        ),
        (
            "scores.json",
            json.dumps(SCORES).replace('"cat"', "7").encode(),
            "scores.json is damaged",
        ),
        ("status.json", b"\xff\xfe\x00", "status.json is damaged"),
        ("status.json", b"[1]", "status.json is damaged"),
        ("metrics.jsonl", b"nonsense\n", "metrics.jsonl is damaged"),
        ("config.yaml", None, "no config.yaml"),
        ("config.yaml", b"a: b: c", "config.yaml:1"),
        ("config.yaml", b"\xff\xfe\xfa", "not UTF-8"),
    ],
)
def test_missing_and_damaged_files_become_the_problem(tmp_path, name, content, problem):
    """A damaged run folder is described in words, and its other files are still read."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    (run.path / name).unlink()
    if content is not None:
        (run.path / name).write_bytes(content)
    record = read_run(run.path)
    assert problem in record.problem
    lost = {
        "scores.json": "scores",
        "status.json": "status",
        "metrics.jsonl": "metrics",
        "config.yaml": "config",
    }[name]
    for part in {"scores", "status", "metrics", "config"} - {lost}:
        assert getattr(record, part)
    assert not getattr(record, lost)


def test_problem_of_a_failed_run_gives_its_reason(tmp_path):
    """A run that ended without scores says how it ended."""
    run = complete_run(RunFolder.create(tmp_path, "run"))
    (run.path / "scores.json").unlink()
    run.write_status("failed", "the loss is not finite", 5)
    assert read_run(run.path).problem == "no scores.json; status failed: the loss is not finite"


def test_find_runs_takes_run_folders_and_folders_of_runs(tmp_path):
    """Runs come once each, in order of name, without other files and folders beside them."""
    for name in ("b", "a"):
        RunFolder.create(tmp_path, name).write_status("running")
    RunFolder.create(tmp_path, "c").write_config("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    a, b, c = (tmp_path / name for name in "abc")
    assert find_runs([tmp_path]) == [a, b, c]
    assert find_runs([b, tmp_path, b]) == [b, a, c]


def test_runs_further_down_are_found_with_their_number(tmp_path):
    """What is looked into already, what is a run, and what lies too far down does not count."""
    for name in ("a", "own/b", "own/c", "demo/comparison/d", "x/y/z/e", "given/f", "a/inner/g"):
        RunFolder.create(tmp_path / Path(name).parent, Path(name).name).write_status("running")
    given = [tmp_path, tmp_path / "given"]
    assert runs_below(given) == {tmp_path / "own": 2}
    assert runs_below(given, levels=2) == {
        tmp_path / "demo" / "comparison": 1,
        tmp_path / "own": 2,
    }
    assert runs_below([tmp_path / "own" / "b"]) == {}


def test_a_folder_of_folders_of_runs_names_them(tmp_path):
    """Where runs lie further down, every command says where."""
    for name in ("runs/own/a", "runs/demo-1/comparison/b"):
        RunFolder.create(tmp_path / Path(name).parent, Path(name).name).write_status("running")
    runs = tmp_path / "runs"
    said = f"; give a folder below it that does: {runs}/demo-1/comparison, {runs}/own"
    for look in (lambda: find_runs([runs]), lambda: only_run(runs)):
        with pytest.raises(LmsmError) as caught:
            look()
        assert str(caught.value).endswith(said)


def test_a_neighbour_that_cannot_be_read_is_no_run(tmp_path, monkeypatch):
    """Somebody else's folder beside the runs keeps nobody from comparing them."""
    run = RunFolder.create(tmp_path, "run").path
    RunFolder(run).write_status("running")
    (tmp_path / "theirs").mkdir()
    is_file, iterdir = Path.is_file, Path.iterdir

    def refuse(real, path):
        if "theirs" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", lambda path: refuse(is_file, path))
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(iterdir, path))
    assert find_runs([tmp_path]) == [run]
    assert runs_below([tmp_path]) == {}
    with pytest.raises(LmsmError, match="theirs: Permission denied"):
        find_runs([tmp_path / "theirs"])


def test_a_run_given_as_a_dot_has_its_name(tmp_path, monkeypatch):
    """Reports name it by its folder, and the newest is told by that."""
    run = RunFolder.create(tmp_path, "run").path
    RunFolder(run).write_status("running")
    monkeypatch.chdir(run)
    assert [read_run(path).name for path in find_runs([Path()])] == ["run"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "there is no"), ("file", "is not a folder"), ("empty", "holds no run")],
)
def test_path_without_runs_is_a_usage_error(tmp_path, name, message):
    """A path that does not exist or holds no run ends in one message and exit code 2."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LmsmError, match=message) as caught:
        find_runs([tmp_path / name])
    assert caught.value.exit_code == 2
