"""The command line from outside: exit codes, streams, JSON, tables; products on disk."""

import fcntl
import io
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.commands.console import layout_width, stdout_console
from lmsm_cli.losses.registry import HEADS
from tests.conftest import printed_json, words, write_class_folders

QUICK = ["train", "--preset", "digits", "--epochs", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs on the digits: softmax with two seeds, L-Softmax with one."""
    out = tmp_path_factory.mktemp("runs")
    for loss, seed in (("softmax", "0"), ("softmax", "1"), ("lsoftmax:margin=2", "0")):
        assert main([*QUICK, "--loss", loss, "--seed", seed, "--out", str(out)]) == 0
    return out


def only_run(runs, text):
    """Return the run folder whose name holds the text."""
    (path,) = [path for path in runs.iterdir() if text in path.name]
    return path


def test_train_prints_the_table_and_writes_the_folder(tmp_path, capsys):
    """Results go to stdout, progress to stderr, one line an epoch where there is no terminal."""
    assert main([*QUICK, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    (folder,) = tmp_path.iterdir()
    scores = json.loads((folder / "scores.json").read_text())
    for row in scores["per_class"]:
        line = next(line for line in printed.out.splitlines() if line.split()[:1] == [row["name"]])
        assert line.split()[1:4] == [
            str(row["train_count"]),
            str(row["test_count"]),
            f"{100 * row['accuracy']:.1f}",
        ]
    assert "effective margin" in printed.out
    assert str(folder) in printed.out
    assert "epoch" not in printed.out
    assert [
        line.split("|")[0].strip() for line in printed.err.splitlines() if line.startswith("epoch")
    ] == ["epoch 1/2", "epoch 2/2"]
    assert "lambda" in printed.err


def test_train_json_is_one_document(tmp_path, capsys):
    """--json prints the scores and the folder's place, and nothing else on stdout."""
    document = printed_json(capsys, *QUICK, "--out", tmp_path)
    assert document["run"] == str(next(tmp_path.iterdir()))
    assert len(document["per_class"]) == 10


@pytest.mark.slow
def test_eval_takes_a_checkpoint_or_a_folder(runs, capsys):
    """`lmsm eval RUN` and `lmsm eval RUN/checkpoint.pt` give the run's own scores."""
    folder = only_run(runs, "lsoftmax")
    wanted = json.loads((folder / "scores.json").read_text())
    for target in (folder, folder / "checkpoint.pt"):
        assert printed_json(capsys, "eval", target)["per_class"] == wanted["per_class"]
    rows = printed_json(capsys, "eval", folder, "--split", "validation")["per_class"]
    held_out = sum(row["test_count"] for row in rows)
    assert main(["eval", str(folder), "--confusion", "--split", "validation"]) == 0
    printed = capsys.readouterr().out
    assert "Images by true class" in printed
    first = printed.splitlines()[0]
    assert first.startswith(f"{folder / 'checkpoint.pt'} (last epoch, 2")
    assert first.endswith(f"), on {held_out} validation images")
    assert "validation images  accuracy" in printed
    assert "test images" not in printed


@pytest.mark.parametrize(
    "command", [["eval"], ["resume"], ["export"], ["report"], ["predict", "."]]
)
def test_of_a_folder_of_runs_none_is_guessed(runs, capsys, command):
    """Several runs are told with one of them to take."""
    name, *more = command
    assert main([name, str(runs), *more]) == 2
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "holds 3 runs: give one of them, such as" in message


def test_the_only_run_of_a_folder_is_meant(runs, tmp_path, capsys):
    """A folder around one run stands for it; a file in it is not the run."""
    run = only_run(runs, "lsoftmax")
    shutil.copytree(run, tmp_path / run.name)
    assert printed_json(capsys, "eval", tmp_path)["checkpoint"] == str(
        tmp_path / run.name / "checkpoint.pt"
    )
    assert main(["resume", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / run.name / "best.pt")]) == 2
    assert "is a file of a run: give its folder" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


def test_a_run_without_a_checkpoint_says_how_it_ended(tmp_path, capsys):
    """A run that failed before its first epoch names the reason, with exit code 4."""
    (tmp_path / "status.json").write_text(
        '{"state": "failed", "reason": "the loss is no longer finite"}'
    )
    assert main(["eval", str(tmp_path)]) == 4
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "the run is failed: the loss is no longer finite" in message


def test_eval_prints_what_a_correction_did(runs, capsys):
    """--adjust ends with both rows of scores and the line of tau and its source; JSON agrees."""
    folder = only_run(runs, "-softmax-s0")
    told = printed_json(capsys, "eval", folder, "--adjust", "auto")["adjustment"]
    assert main(["eval", str(folder), "--adjust", "auto"]) == 0
    *_, trained, adjusted, _, line = capsys.readouterr().out.splitlines()
    assert trained.split()[:3] == ["as", "trained", f"{100 * told['unadjusted']['accuracy']:.1f}"]
    assert adjusted.split()[:2] == ["tau", f"{told['tau']:g}"]
    assert line.startswith(
        f"logit adjustment with tau {told['tau']:g}, "
        f"chosen on {told['chosen_on']['num_images']} validation images"
    )
    assert told["scale"] is None
    assert (
        printed_json(capsys, "eval", folder, "--tau-norm", "0.5")["adjustment"]["method"]
        == "tau-norm"
    )


@pytest.mark.parametrize("tau", ["0.05", "auto"])
def test_eval_tells_tau_in_units_of_the_logits_scale(runs, capsys, tau):
    """--adjust scaled:TAU has tau and the scale in the JSON, and both in words in the text."""
    folder = only_run(runs, "-softmax-s0")
    told = printed_json(capsys, "eval", folder, "--adjust", f"scaled:{tau}")["adjustment"]
    assert told["scale"] > 0
    assert (told["tau"] == 0.05) or tau == "auto"
    assert (told["chosen_on"] is None) == (tau == "0.05")
    assert main(["eval", str(folder), "--adjust", f"scaled:{tau}"]) == 0
    *_, adjusted, _, line = capsys.readouterr().out.splitlines()
    assert adjusted.startswith(f"  tau {told['tau']:g} in units of {told['scale']:.3g} ")
    assert line.startswith(
        f"logit adjustment with tau {told['tau']:g} in units of the logits' scale "
        f"{told['scale']:.3g}, {'as given' if tau == '0.05' else 'chosen on '}"
    )


def test_compare_groups_over_seeds(runs, capsys):
    """Two seeds of softmax become one row of mean and sd, L-Softmax a row of its own."""
    groups = {group["label"]: group for group in printed_json(capsys, "compare", runs)["groups"]}
    assert len(groups) == 2
    softmax = next(group for label, group in groups.items() if "lsoftmax" not in label)
    assert sorted(softmax["seeds"]) == [0, 1]
    each = [
        json.loads((p / "scores.json").read_text())["accuracy"]
        for p in runs.iterdir()
        if "-softmax-" in p.name
    ]
    statistic = softmax["metrics"]["accuracy"]
    assert statistic["mean"] == pytest.approx(sum(each) / 2)
    assert statistic["sd"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    assert main(["compare", str(runs)]) == 0
    assert "±" in capsys.readouterr().out


def test_compare_shows_a_run_without_scores(runs, tmp_path, capsys):
    """A run that has no scores gets a row that says so, and the others are shown."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("dataset: digits\n")
    assert main(["compare", str(broken), str(only_run(runs, "-softmax-s0"))]) == 0
    printed = capsys.readouterr().out
    assert "broken" in printed
    assert "no scores.json" in printed


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seeds", "1,1"], "seeds"),
        (["--seeds", "0"], "seeds"),
        (["--seeds", "3", "--seed", "1"], "--seed and --seeds are both given"),
        (["--dry-run"], "--show-config and --dry-run are both given"),
    ],
)
def test_show_config_checks_what_it_does_not_show(capsys, flags, told):
    """What a training would refuse is refused before its choices are shown."""
    assert main(["train", *flags, "--show-config"]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""


def test_show_config_names_every_origin(capsys):
    """Each value comes with the preset's line, the flag or the default it came from."""
    document = printed_json(
        capsys, "train", "--preset", "imbalanced-vgg16", "--lr", "0.5", "--show-config"
    )
    assert document["lr"] == {"value": 0.5, "from": "--lr"}
    assert document["model"]["value"] == "vgg16"
    assert document["model"]["from"].startswith("preset imbalanced-vgg16:")
    assert document["split_seed"]["from"] == "default"
    assert main(["train", "--show-config"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--preset", "balanced-resnet"], 2, "did you mean 'balanced-resnet18'?"),
        (["train", "--dataset", "cifar11"], 2, "did you mean 'cifar10'?"),
        (["train", "--model", "resnet19"], 2, "did you mean 'resnet18'?"),
        (["train", "--loss", "lsoftmx"], 2, "did you mean 'lsoftmax'?"),
        (["train", "--reweight", "invers"], 2, "did you mean 'inverse'?"),
        (["train", "--sampling", "shufle"], 2, "did you mean 'shuffle'?"),
        (
            ["train", "--reweight", "inverse", "--rebalance-from", "161"],
            2,
            "after the last of the 10 epochs",
        ),
        (["train", "--epochs", "0"], 2, "--epochs"),
        (["train", "--lr", "nan"], 2, "--lr"),
        (["train", "--dataset", "imbalanced", "--factor", "2"], 2, "--factor"),
        (["train", "--dataset", "imbalanced", "--factor", "0.0001"], 2, "would keep 0 of 5000"),
        (["train", "--dataset", "digits", "--batch-size", "5000"], 2, "training images are left"),
        (["train", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["train", "--dataset", "folder", "--data-dir", "nowhere"], 3, "nowhere"),
        (["trian"], 2, "train"),
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["eval", "nowhere.pt"], 4, "nowhere.pt"),
        (["train", "--dataset", "digits", "--model", "vgg16"], 2, "at least 32 pixels"),
        (["eval", "text.pt"], 4, "text.pt"),
        (
            ["eval", "text.pt", "--adjust", "x"],
            2,
            "--adjust is 'x': give a number of at least 0, or auto",
        ),
        (["eval", "text.pt", "--adjust", "-1"], 2, "--adjust is '-1'"),
        (["eval", "text.pt", "--adjust", "nan"], 2, "--adjust is 'nan'"),
        (["eval", "text.pt", "--adjust", "scaled:x"], 2, "'scaled:x': give scaled:NUMBER"),
        (["eval", "text.pt", "--adjust", "scaled:-1"], 2, "number of at least 0, or scaled:auto"),
        (["eval", "text.pt", "--adjust", "scaled"], 2, "--adjust is 'scaled': give scaled:NUMBER"),
        (["eval", "text.pt", "--adjust", "scaled:"], 2, "--adjust is 'scaled:': give scaled:"),
        (["eval", "text.pt", "--adjust", "scaled:inf"], 2, "give scaled:NUMBER"),
        (
            ["eval", "text.pt", "--adjust", "scalde:1"],
            2,
            "there is no unit 'scalde' (did you mean 'scaled:1'?)",
        ),
        (["eval", "text.pt", "--adjust", "Scale:x"], 2, "(did you mean 'scaled:auto'?)"),
        (
            ["eval", "text.pt", "--tau-norm", "scaled:1"],
            2,
            "'scaled:1': give a number from 0 to 1, or auto; only --adjust takes scaled:TAU",
        ),
        (["eval", "text.pt", "--tau-norm", "7"], 2, "--tau-norm is '7': give a number from 0 to 1"),
        (["eval", "text.pt", "--tau-norm", "inf"], 2, "--tau-norm is 'inf'"),
        (["eval", "text.pt", "--adjust", "1", "--tau-norm", "auto"], 2, "exclude each other"),
        (["eval", "text.pt", "--images", ".", "--split", "validation"], 2, "exclude each other"),
        (
            ["eval", "text.pt", "--split", "vali"],
            2,
            "--split: there is no 'vali' (did you mean 'validation'?)",
        ),
        (["compare", "nowhere"], 2, "nowhere"),
        (["compare", "."], 2, "no run"),
        (["presets", "show", "digit"], 2, "did you mean 'digits'?"),
    ],
)
def test_mistakes_have_exit_codes_and_a_hint(
    tmp_path, monkeypatch, capsys, arguments, code, message
):
    """A mistake prints one message without a traceback, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.replace("│", " ").split())
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


def test_missing_data_names_the_way_out(tmp_path, monkeypatch, capsys):
    """Offline and without data: exit 3, the file to fetch, where to put it, and the digits."""
    import torchvision

    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz"
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert (
        main(["train", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]) == 3
    )
    message = " ".join(capsys.readouterr().err.split())
    for piece in (
        "http://127.0.0.1:9/cifar-10-python.tar.gz",
        str(tmp_path / "data"),
        "--dataset digits",
    ):
        assert piece in message


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
@pytest.mark.parametrize(
    "profile",
    [[], ["--imbalance", "exp", "--factor", "0.5"], ["--imbalance", "step", "--factor", "0.5"]],
    ids=["balanced", "exp", "step"],
)
def test_seed_presets_run_under_every_profile(tiny_cifar, tmp_path, capsys, model, profile):
    """The six presets of the re-implemented project run balanced and imbalanced."""
    family = "balanced" if not profile else "lsoftmax"
    document = printed_json(
        capsys,
        "train",
        "--preset",
        f"{family}-{model}",
        *profile,
        "--epochs",
        1,
        "--batch-size",
        8,
        "--data-dir",
        tiny_cifar,
        "--out",
        tmp_path,
    )
    assert len(document["per_class"]) == 10


def test_deferred_rebalancing_from_the_command_line(tmp_path, capsys):
    """A long-tailed run re-weighted and re-sampled from epoch 2 on keeps that in its config."""
    document = printed_json(
        capsys,
        *QUICK,
        *words("--reweight effective --reweight-beta 0.99 --sampling balanced --rebalance-from"),
        2,
        "--out",
        tmp_path,
    )
    config = (next(tmp_path.iterdir()) / "config.yaml").read_text().splitlines()
    assert {
        "reweight: effective",
        "reweight_beta: 0.99",
        "sampling: balanced",
        "rebalance_from: 2",
    } <= set(config)
    assert len(document["per_class"]) == 10


def test_class_folders_from_the_command_line(tmp_path, capsys):
    """Users' own images train with --dataset folder and are scored with eval --images."""
    write_class_folders(tmp_path / "data", ("ant", "bee"), 20, size=16)
    document = printed_json(
        capsys,
        *words("train --dataset folder --data-dir"),
        tmp_path / "data",
        "--image-size",
        16,
        "--model",
        "paper-2d",
        "--batch-size",
        8,
        "--epochs",
        1,
        "--out",
        tmp_path / "runs",
    )
    scores = printed_json(capsys, "eval", document["run"], "--images", tmp_path / "data")
    assert sum(row["test_count"] for row in scores["per_class"]) == 40


@pytest.mark.slow
def test_demo_compares_and_draws(tmp_path, capsys):
    """The demo leaves a comparison of three losses and the picture of four margins.

    No validation loss of the comparison begins far above ln 10, that of guessing.
    """
    document = printed_json(capsys, "demo", "--seeds", 1, "--out", tmp_path)
    losses = [group["label"].partition(":")[0] for group in document["groups"]]
    assert losses == ["softmax", "lsoftmax", "balanced-softmax"]
    (folder,) = tmp_path.iterdir()
    for run in (folder / "comparison").iterdir():
        first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert first["val_loss"] < 3 * math.log(10), run
    assert document["picture"] == str(folder / "features.png")
    assert (folder / "features.png").read_bytes().startswith(b"\x89PNG")
    margins = [
        json.loads((p / "scores.json").read_text())["effective_margin"]
        for p in sorted((folder / "picture").iterdir())
    ]
    assert margins == pytest.approx([1, 2, 3, 4], abs=0.01)


def lmsm(*arguments, **kwargs):
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "lmsm_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **kwargs)


def test_piped_output_is_never_cut(runs):
    """Without a terminal tables are plain and whole, in UTF-8 and in ASCII."""
    for encoding in ("utf-8", "ascii"):
        done = lmsm(
            "compare", runs, env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "40"}
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "…" not in text
        assert "..." not in text
        assert "\x1b" not in text
        assert "lsoftmax" in text
        tables = [line for line in text.splitlines() if re.search(r"\S {2,}\S|[─|]", line)]
        assert max(map(len, tables)) <= 40 + (encoding == "ascii")  # a line at either side


@pytest.mark.parametrize(
    ("columns", "width"), [("90", 90), ("0", None), ("wide", None), ("", None)]
)
def test_a_pipe_is_laid_out_for_columns(monkeypatch, columns, width):
    """COLUMNS says how wide the tables of a pipe may be; without it rows stay whole."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("COLUMNS", columns)
    console = stdout_console()
    assert console.width >= 1000  # no line is broken, whatever it is laid out for
    assert layout_width(console) == (width or console.width)


def test_a_pipe_is_laid_out_for_the_terminal_behind_it(monkeypatch):
    """`lmsm compare RUNS | less` still has the terminal for its messages, and fits it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert layout_width(stdout_console()) == 70
    os.close(ours)


def test_a_closed_pipe_is_no_traceback(runs):
    """`lmsm compare RUNS | head -1` ends quietly."""
    command = f"{sys.executable} -m lmsm_cli compare {runs} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_help_names_every_flag_and_default():
    """`lmsm train --help-all` shows each field of Config as a flag with its default."""
    text = lmsm(
        "train", "--help-all", env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    ).stdout.decode()
    for piece in (
        "--weight-decay",
        "(default: 0.0005)",
        "--margin",
        "(default: none; exp for `imbalanced`)",
        "resnet18-cifar",
    ):
        assert piece in text


def test_losses_lists_every_loss_with_its_options(capsys):
    """Each name that --loss takes is there, with each option and its default."""
    listed = printed_json(capsys, "losses")
    assert listed.keys() == HEADS.keys()
    assert listed["vs"]["options"] == {"gamma": 0.3, "tau": 1.0}
    assert listed["balanced-softmax"]["options"] == {}
    of_lsoftmax = listed["lsoftmax"]["options"]
    assert (of_lsoftmax["margin_min"], of_lsoftmax["margin_max"]) == (1, None)
    assert main(["losses"]) == 0
    table = capsys.readouterr().out
    for name, loss in listed.items():
        assert f"\n{name}" in "\n" + table
        assert loss["description"] in table


def test_losses_explains_one(capsys):
    """A loss's name prints its whole description; a misspelt one names the nearest."""
    assert main(["losses", "lsoftmax"]) == 0
    explained = capsys.readouterr().out
    assert "- follows from the data and the other options" in explained
    assert "`tau`" in explained
    assert not any(word in explained for word in (">>>", "Raises", "Error"))
    assert main(["losses", "cosface"]) == 0
    assert "0.35 as published" in capsys.readouterr().out
    assert main(["losses", "cosfase"]) == 2
    assert "did you mean 'cosface'?" in capsys.readouterr().err


def test_version():
    """`lmsm --version` prints the package's version."""
    from lmsm_cli import __version__

    assert lmsm("--version").stdout.decode().strip() == f"lmsm {__version__}"
