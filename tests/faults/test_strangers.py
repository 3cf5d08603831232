"""Folders that somebody sent: nothing of the user's is written, created or deleted through them."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.commands.console import stdout_console
from lmsm_cli.commands.progress import PlainDisplay
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.data.published import Published
from lmsm_cli.errors import DiskError
from lmsm_cli.reports.exports import cell
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder, write_whole
from lmsm_cli.runtime.files import replacing
from lmsm_cli.training.resume import fingerprint
from tests.conftest import plain_state, words, write_class_folders

TRAIN = words(
    "--dataset folder --image-size 8 --model paper-2d --epochs 1 "
    "--batch-size 8 --device cpu --precision fp32 --layout channels-last "
    "--threads 1 --quiet"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its data, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    write_class_folders(root / "data", ("ant", "bee"), 20, size=8)
    assert (
        main(["train", *TRAIN, "--data-dir", str(root / "data"), "--out", str(root / "runs")]) == 0
    )
    (folder,) = (path for path in (root / "runs").iterdir() if not path.name.startswith("."))
    return folder


@pytest.fixture
def received(finished, tmp_path, monkeypatch):
    """A copy of the run in an empty working folder: got/, which its receiver may look at."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "got")
    return Path("got")


def state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what can be seen of everything below a folder."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        seen[str(path.relative_to(folder))] = (info.st_ino, info.st_mode, info.st_mtime_ns, content)
    return seen


def link_out(folder: Path, elsewhere: Path) -> None:
    """Move every file and inner folder elsewhere, and put links in their places."""
    elsewhere.mkdir()
    for path in list(folder.iterdir()):
        there = elsewhere / path.name
        path.rename(there)
        path.symlink_to(there.absolute())


COMMANDS = {
    "resume": ["resume", "got", "--epochs", "2", "--quiet"],
    "eval": ["eval", "got"],
    "report": ["report", "got"],
    "compare": ["compare", "got"],
    "predict": ["predict", "got", "image.png"],
    "export": ["export", "got", "--format", "torch"],
    "train": ["train", *TRAIN, "--data-dir", "data", "--out", "got"],
    "sweep": ["sweep", *TRAIN, *words("--data-dir data --out got --arm loss=softmax --seeds 3")],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_folder_of_links_leads_nowhere(received, finished, command):
    """Each of its files and folders lies elsewhere: it is read, and stays as it is."""
    for name in (".lock", "report.html", "model.pt2", "metrics.jsonl"):
        (received / name).touch()
    for name in (".sweep", "tensorboard"):
        (received / name).mkdir()
    for folder in ("plots", "tensorboard"):
        (received / folder / ".x.1.tmp").write_text("a file of the user's")
        (received / folder / "events.out.tfevents.1").write_text("another")
    link_out(received, Path("elsewhere"))
    shutil.copytree(finished.parent.parent / "data", "data")
    shutil.copy("data/ant/0000.png", "image.png")
    before = state_of(Path("elsewhere"))
    code = main(COMMANDS[command])
    assert state_of(Path("elsewhere")) == before
    assert code == (6 if command in ("resume", "sweep") else 0)


@pytest.mark.parametrize("name", ["train.log", ".lock", "plots", "tensorboard"])
def test_what_would_be_written_through_a_link_ends_the_resumption(received, capsys, name):
    """The message names the link before anything is done, with exit code 6."""
    place = received / name
    if place.exists():
        place.rename("aim")
    place.symlink_to("../aim")
    before = state_of(Path.cwd())
    assert main(COMMANDS["resume"]) == 6
    assert f"got/{name}" in (told := capsys.readouterr().err)
    assert "it is a link" in told
    assert state_of(Path.cwd()) == before


def test_what_is_replaced_takes_the_links_place(received, capsys):
    """A checkpoint and texts that are links become files of the run's own when it goes on."""
    Path("elsewhere").mkdir()
    names = ["checkpoint.pt", "config.yaml", "status.json", "scores.json", "metrics.jsonl"]
    for name in names:
        (received / name).rename(Path("elsewhere", name))
        (received / name).symlink_to(Path("elsewhere", name).absolute())
    before = state_of(Path("elsewhere"))
    assert main(COMMANDS["resume"]) == 0, capsys.readouterr().err
    assert state_of(Path("elsewhere")) == before
    for name in names:
        assert (received / name).is_file()
        assert not (received / name).is_symlink(), name
    previous = received / "checkpoint-previous.pt"
    assert not previous.is_symlink()
    assert plain_state(previous)["epoch"] == 1


def test_versions_of_a_checkpoint_are_one_line_of_the_log(received, capsys):
    """What a stranger wrote into a checkpoint is shown, but makes no line or colour of its own."""
    state = plain_state(received / "checkpoint.pt")
    state["versions"] = {"torch": "torch x\necho chosen #\x1b[31m", "runtime": ""}
    checkpoint.save(state, received / "checkpoint.pt")
    assert main([*COMMANDS["resume"][:-1]]) == 0
    log = (received / "train.log").read_text()
    assert r"torch x\necho chosen #\x1b[31m before" in log
    assert "\necho" not in log
    told = capsys.readouterr().err
    assert "\necho" not in told
    assert "\x1b" not in told


def test_a_temporary_file_is_never_a_strangers(tmp_path):
    """Links that wait under the names of temporary files are removed, not written through."""
    (tmp_path / "aim").write_text("mine")
    place = tmp_path / "x"
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to("aim")
    write_whole(place, "text")
    checkpoint.save({"schema": 1}, place)
    assert (tmp_path / "aim").read_text() == "mine"
    (tmp_path / f".best.{os.getpid()}.tmp").symlink_to(place)
    content = place.read_bytes()
    checkpoint.duplicate(place, tmp_path / "best")
    assert place.read_bytes() == content == (tmp_path / "best").read_bytes()
    assert not (tmp_path / "best").is_symlink()


@pytest.mark.parametrize(
    "name", ["status.json", "scores.json", "config.yaml", "checkpoint.pt", "metrics.jsonl"]
)
def test_a_pipe_in_a_run_folder_is_never_waited_for(received, capsys, name):
    """compare, eval, report and resume end at once, whatever they can still say of the run."""
    (received / name).unlink()
    os.mkfifo(received / name)
    for command in ("compare", "report", "eval", "resume"):
        assert main(COMMANDS[command]) in (0, 2, 4, 6), capsys.readouterr().err
    assert (received / name).is_fifo()


def test_a_device_given_as_an_output_stays(tmp_path):
    """Root could put a file in its place, and the machine would have no /dev/stdout any more."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match="no regular file"):
        write_whole(tmp_path / "pipe", "text")
    with pytest.raises(OSError, match="no regular file"), replacing(tmp_path / "pipe"):
        pass
    assert main(["compare", str(tmp_path), "--csv", str(tmp_path / "pipe")]) == 6
    assert (tmp_path / "pipe").is_fifo()


def test_status_of_a_stranger_is_read_as_text(tmp_path):
    """Who holds a lock is told from status.json, whatever that is."""
    folder = RunFolder(tmp_path)
    for text in (json.dumps({"pid": "1\n", "host": "\x1b[31m"}), "[]", "{"):
        (tmp_path / "status.json").write_text(text)
        assert folder._owner()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-x", "'-x"),
        ("@SUM(1)", "'@SUM(1)"),
        (" =1+1", "' =1+1"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\x1b[31m", "\\x1b[31m"),
        ("-0.5", "-0.5"),
        ("1e-05", "1e-05"),
        (-0.5, -0.5),
        (None, None),
        (True, True),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_a_cell_of_a_csv_is_no_formula(value, written):
    """What a spreadsheet would run begins with a quote; numbers and other text are as they were."""
    assert cell(value) == written


def test_names_of_a_stranger_reach_no_spreadsheet(received, finished, capsys):
    """Class names of a checkpoint and of scores.json, and names of files, are text in both CSVs."""
    state = plain_state(received / "checkpoint.pt")
    state["classes"] = ["=1+1", "bee"]
    checkpoint.save(state, received / "checkpoint.pt")
    scores = json.loads((received / "scores.json").read_text())
    scores["per_class"][0]["name"] = "\n=1+1"
    (received / "scores.json").write_text(json.dumps(scores))
    shutil.copy(finished.parent.parent / "data/ant/0000.png", "=1+1.png")
    assert main(["predict", "got", "=1+1.png", "--csv", "-"]) == 0
    assert main(["compare", "got", "--csv", "-"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    cells = [text for row in rows for text in row]
    assert "'=1+1.png" in cells
    assert "'=1+1" in cells
    assert not [text for text in cells if text.startswith("=") or "\n" in text]


def test_no_text_commands_the_screen(capsys):
    """A console spells control characters, in tables and messages; a message keeps to its line."""
    stdout_console().print("a\x1b[31mb\nc\x9b", markup=False)
    PlainDisplay().info("a\x1b]0;title\x07\nerror: b")
    PlainDisplay().warning("a\rb")
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[31mb\nc\\x9b\n"
    assert printed.err == "a\\x1b]0;title\\x07\\nerror: b\nWARNING: a\\rb\n"


NAN = float("nan")
FIELDS = [
    ("image_shape", [10**6, 10**6, 3]),
    ("image_shape", [30000, 30000, 3]),
    ("image_shape", [0, 0, 3]),
    ("image_shape", "abc"),
    ("image_shape", []),
    ("classes", [str(i) for i in range(100_000)]),
    ("mean", [NAN] * 3),
    ("std", [0.0] * 3),
    ("train_counts", [-5, 3]),
    ("epoch", NAN),
]


@pytest.mark.parametrize(
    ("key", "value"), FIELDS, ids=[f"{key}-{n}" for n, (key, _) in enumerate(FIELDS)]
)
def test_nonsense_in_a_checkpoint_ends_with_4(received, capsys, key, value):
    """predict, eval, export and resume name the file and the key, and write nothing."""
    checkpoint.save(
        plain_state(received / "checkpoint.pt") | {key: value}, received / "checkpoint.pt"
    )
    Path("image.png").touch()
    before = state_of(Path.cwd())
    for command in ("predict", "eval", "export", "resume"):
        assert main(COMMANDS[command]) == 4
        told = capsys.readouterr().err
        assert "got/checkpoint.pt" in told
        assert key in told
        assert "Traceback" not in told
        after = state_of(Path.cwd())
        assert {**after, "got/.lock": ()} == {**before, "got/.lock": ()}


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_that_are_not_finite_are_no_net(received, capsys, value):
    """Nothing is scored, predicted, exported or resumed: exit code 4, and the tensor is named."""
    state = plain_state(received / "checkpoint.pt")
    weight = next(name for name, tensor in state["model"].items() if name.endswith("weight"))
    state["model"][weight] = torch.full_like(state["model"][weight], value)
    checkpoint.save(state, received / "checkpoint.pt")
    Path("image.png").touch()
    for command in ("predict", "eval", "export", "resume"):
        assert main(COMMANDS[command]) == 4
        assert repr(weight) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "resume"])
def test_nothing_is_downloaded_to_a_place_that_only_a_stranger_named(
    received, capsys, monkeypatch, command
):
    """A run's config may name any folder: missing data comes only to one of the user's choice."""

    def fetched(*given, **more):
        raise AssertionError("a download")

    monkeypatch.setattr(Published, "fetch", fetched)
    state = plain_state(received / "checkpoint.pt")
    state["config"] |= {"dataset": "mnist", "data_dir": "mine/photos"}
    state["fingerprint"] = fingerprint(state["config"])
    checkpoint.save(state, received / "checkpoint.pt")
    (received / "config.yaml").write_text(dump_yaml(state["config"]))
    assert main(COMMANDS[command]) == 3
    assert "mnist is not below mine/photos" in capsys.readouterr().err
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg", torch.zeros(3)),
        ("exp_avg", torch.zeros(())),
        ("step", torch.zeros(7)),
        ("other", torch.zeros(())),
    ],
)
def test_momenta_of_other_parameters_are_refused(received, capsys, name, value):
    """torch would take them, and stumble in the first step."""
    state = plain_state(received / "checkpoint.pt")
    state["optimizer"][0][name] = value
    checkpoint.save(state, received / "checkpoint.pt")
    assert main(COMMANDS["resume"]) == 4
    assert "does not fit its own config" in capsys.readouterr().err


HOSTILE = "\x1b]0;title\x07\r\nerror: \u202eforged <img src=x onerror=alert(1)> [red]=1+1|*"


def poisoned(document):
    """Return a JSON document with hostile text in place of or after every text, and in new keys."""
    if isinstance(document, dict):
        return {key: poisoned(value) for key, value in document.items()} | {HOSTILE: HOSTILE}
    if isinstance(document, list):
        return [poisoned(value) for value in document]
    return document + HOSTILE if isinstance(document, str) else document


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    words(
        "status.json environment.json scores.json metrics.jsonl config.yaml folder checkpoint.pt"
    ),
)
def test_text_of_a_stranger_is_spelled_out_everywhere(received, capsys, name):
    """Whatever file of a run it stands in, no table, message, page or CSV holds it as it is."""
    shutil.copytree("got", "runs/a")
    shutil.copytree("got", "runs/b" if name != "folder" else "runs/b\x1b[31m<b>")
    place = received / name
    if name in ("status.json", "environment.json", "scores.json"):
        place.write_text(json.dumps(poisoned(json.loads(place.read_text()))))
        if name == "status.json":
            (received / "scores.json").unlink()
            place.write_text(
                json.dumps(poisoned({"reason": "x", "host": "x"}) | {"state": "failed"})
            )
    elif name == "metrics.jsonl":
        place.write_text(json.dumps(poisoned(json.loads(place.read_text()))) + "\n")
    elif name == "config.yaml":
        text = place.read_text().replace("loss: softmax", f"loss: {json.dumps(HOSTILE)}")
        place.write_text(text.replace("dataset: folder", f"dataset: {json.dumps(HOSTILE)}"))
    elif name == "checkpoint.pt":
        state = plain_state(place)
        state["classes"] = [HOSTILE, "bee"]
        state["versions"] = {"torch": HOSTILE, "runtime": HOSTILE}
        checkpoint.save(state, place)
    shutil.copy(received / "plots" / "confusion.png", "image.png")
    for command in (
        ["compare", "runs", "got"],
        ["compare", "runs", "got", "--markdown"],
        ["compare", "runs", "got", "--csv", "-"],
        ["compare", "runs", "got", "--html", "page.html"],
        COMMANDS["report"],
        COMMANDS["predict"],
        [*COMMANDS["predict"], "--csv", "-"],
        COMMANDS["eval"],
        COMMANDS["resume"][:-1],
    ):
        main(command)
        printed = capsys.readouterr()
        assert not [c for c in printed.out + printed.err if not c.isprintable() and c != "\n"], (
            command
        )
        assert "\nerror: forged" not in printed.err
    for page in (Path("page.html"), received / "report.html"):
        text = page.read_text()
        assert not [c for c in text if not c.isprintable() and c != "\n"], page
        assert "<img src=x" not in text
        assert "<b>" not in text
