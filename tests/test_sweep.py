"""Sweeps: only what is missing is run, by whom- and however often it is asked for; none is lost."""

import json
import shlex
import signal
import subprocess
import sys

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.commands.options import train_command
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.samples import spelled_alike
from lmsm_cli.config import ADDED_KEYS, RUNTIME_KEYS, dump, dump_yaml
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.errors import DataError, LmsmError, StoppedError
from lmsm_cli.losses.registry import build_head, check_loss
from lmsm_cli.runs.environment import describe
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.record import read_run
from lmsm_cli.sweeps.plan import PlannedRun, RunIndex, build_plan
from lmsm_cli.sweeps.sweep import claimed, run_plan
from lmsm_cli.training.resume import config_hash, fingerprint
from lmsm_cli.training.run import resume_run, start_run
from tests.conftest import SilentDisplay, write_class_folders
from tests.test_checkpoint import damage
from tests.test_resume import Stopping, assert_same_bits

# One epoch of the digits takes half a second.
FIXED = {
    "epochs": "1",
    "device": "cpu",
    "precision": "fp32",
    "layout": "channels-last",
    "threads": "1",
    "batch_size": "64",
    "model": "paper-2d",
}
FLAGS = [
    "--preset",
    "digits",
    *(word for key, value in FIXED.items() for word in (f"--{key.replace('_', '-')}", value)),
]
BAD = "1e30"


def layers(out, **values):
    """Return the layers of quick runs into a folder."""
    return [Layer.of_preset("digits"), Layer.of_flags({**FIXED, "out": out, **values})]


def plan(out, *choices, seeds=(0, 1), **values):
    """Return a plan of given choices and seeds."""
    return build_plan(layers(out, **values), choices or [{}], seeds)


def status(path):
    """Return status.json."""
    return json.loads((path / "status.json").read_text())


def run(runs, display=None):
    """Complete a plan; return the failures."""
    return run_plan(
        runs, RunIndex(runs[0].config.out, display or SilentDisplay()), with_plots=False
    )


def folders(out):
    """Return the run folders, oldest first."""
    return sorted(path.parent for path in out.glob("*/status.json"))


def swept(capsys, out, *flags, code=0):
    """Run the command; return its JSON and what it said."""
    assert main(["sweep", *FLAGS, "--out", str(out), "--json", *flags]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def test_a_sweep_ends_with_the_comparison_and_runs_nothing_twice(tmp_path, capsys):
    """Each combination is a group over its seeds; the same command again does none."""
    flags = ("--grid", "lr=0.05,0.1", "--seeds", "2")
    document, _ = swept(capsys, tmp_path, *flags)
    assert [(group["differs"]["lr"], sorted(group["seeds"])) for group in document["groups"]] == [
        (0.05, [0, 1]),
        (0.1, [0, 1]),
    ]
    assert document["failed"] == []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    again, said = swept(capsys, tmp_path, *flags)
    assert again == document
    assert "4 of 4 runs are there already" in said
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*") if path.name != ".lock"
    } == {path: at for path, at in before.items() if path.name != ".lock"}
    more, _ = swept(capsys, tmp_path, "--grid", "lr=0.05,0.1,0.2", "--seeds", "2")
    assert len(folders(tmp_path)) == 6
    assert len(more["groups"]) == 3
    swept(capsys, tmp_path, *flags, "--plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "accuracy_by_training_images.png",
        "accuracy_by_training_images.pdf",
    }
    assert len(folders(tmp_path)) == 6  # the pictures' folder is taken for no run
    assert swept(capsys, tmp_path, *flags)[0] == document


def test_a_failed_run_stops_no_other_and_is_tried_again(tmp_path, capsys):
    """Exit code 1, a table with the reason and the command to repeat it; again: only that one."""
    flags = ["sweep", *FLAGS, "--out", str(tmp_path), "--grid", f"lr={BAD},0.05"]
    for tries in (1, 2):
        assert main(flags) == 1
        printed = capsys.readouterr()
        assert f"lr={BAD}" in printed.out
        assert "no longer finite" in printed.out
        assert "to repeat it: lmsm train --preset digits" in printed.out
        assert "1 of 2 runs failed" in printed.err
        states = [status(path)["state"] for path in folders(tmp_path)]
        assert sorted(states) == ["completed"] + ["failed"] * tries
    (line,) = [line for line in printed.out.splitlines() if line.startswith("to repeat it: ")]
    assert main(line.removeprefix("to repeat it: lmsm ").split()) == 5
    assert len(folders(tmp_path)) == 4


@pytest.mark.parametrize("name", ["scores.json", "config.yaml"])
def test_a_run_that_cannot_be_read_is_a_failure_not_a_smaller_n(
    tmp_path, capsys, monkeypatch, name
):
    """Damage to one of three completed runs is shown with its reason, and the exit code is 1."""
    ran, made = start_run, []

    def run_and_damage(*arguments, **options):
        made.append(ran(*arguments, **options))
        if len(made) == 2:
            (made[-1].path / name).write_text("{")
        return made[-1]

    monkeypatch.setattr("lmsm_cli.sweeps.sweep.begin", run_and_damage)
    document, said = swept(capsys, tmp_path, "--seeds", "3", code=1)
    (failed,) = document["failed"]
    assert failed["label"] == "seed=1"
    assert name in failed["reason"]
    assert "1 of 3 runs failed" in said
    assert document["groups"][0]["seeds"] == [0, 2]


@pytest.mark.slow
def test_a_run_in_a_sweep_has_the_bits_of_one_alone(tmp_path):
    """Nothing leaks from run to run: neither generators nor arithmetic."""
    others = [
        {
            "loss": "lsoftmax:margin=4",
            "precision": "bf16-conv",
            "threads": "2",
            "augment": "crop-flip",
        }
    ]
    runs = plan(tmp_path / "sweep", *others, {"loss": "focal"}, seeds=(3,), model="paper-mnist")
    assert run(runs) == []
    alone = start_run(
        runs[1].config.model_copy(update={"out": tmp_path / "alone"}),
        SilentDisplay(),
        with_plots=False,
    )
    assert len(list((tmp_path / "sweep").glob("*-s*"))) == len(runs)
    path = RunIndex(tmp_path / "sweep").status_of(runs[1]).record.path
    assert_same_bits(path, alone.path)


def test_a_stopped_sweep_goes_on(tmp_path):
    """A signal ends the run after its step and the sweep with its code; later the rest is done."""
    runs = plan(tmp_path, {"lr": "0.05"}, {"lr": "0.1"})
    num_steps = 7  # of a run
    with pytest.raises(StoppedError, match=r"and saved; 1 of 4 runs is done$") as stopped:
        run(runs, Stopping(num_steps + 2, signal.SIGTERM))
    assert stopped.value.exit_code == 143
    assert stopped.value.by_same_command
    states = [status(path)["state"] for path in folders(tmp_path)]
    assert sorted(states) == ["completed", "interrupted"]
    display = SilentDisplay()
    assert run(runs, display) == []
    assert [status(path)["state"] for path in folders(tmp_path)] == ["completed"] * 4
    assert "1 of 4 runs are there already" in display.said
    whole = start_run(
        runs[1].config.model_copy(update={"out": tmp_path / "whole"}),
        SilentDisplay(),
        with_plots=False,
    )
    assert_same_bits(RunIndex(tmp_path).status_of(runs[1]).record.path, whole.path)


def test_what_another_process_failed_at_is_told_and_not_tried_again(tmp_path):
    """A failure that comes up while the sweep goes on is reported by every process."""
    runs = plan(tmp_path, {"lr": "0.05"}, {"lr": BAD}, seeds=(0,))

    class Meanwhile(SilentDisplay):
        """Lets the other process do the second run during the first."""

        def epoch(self, epoch, num_epochs):
            run(runs[1:])

    (failure,) = run(runs, Meanwhile())
    assert failure.run.label == f"lr={BAD} seed=0"
    assert "no longer finite" in failure.reason
    assert len(folders(tmp_path)) == 2


def test_a_claim_keeps_others_out(tmp_path):
    """A claimed run is no other's until the claim ends."""
    (one,) = plan(tmp_path, seeds=(0,))
    with claimed(one, wait=False) as is_ours:
        assert is_ours
        lock = str(tmp_path / ".sweep" / f"{one.config_hash[:32]}.lock")
        code = (
            "from filelock import FileLock, Timeout\n"
            f"try: FileLock({lock!r}, timeout=0).acquire()\n"
            "except Timeout: print('taken')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "taken\n"
    with claimed(one, wait=True) as is_ours:
        assert is_ours


def test_two_damaged_checkpoints_are_no_end(tmp_path):
    """A run that cannot be resumed is begun anew, and the user told why."""
    runs = plan(tmp_path, seeds=(0,), epochs="3")
    with pytest.raises(StoppedError):
        run(runs, Stopping(16))
    (path,) = folders(tmp_path)
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        damage(path / name, "half")
    display = SilentDisplay()
    assert run(runs, display) == []
    assert any("begun anew" in text for text in display.warned)
    assert RunIndex(tmp_path).status_of(runs[0]).state == "completed"
    assert len(folders(tmp_path)) == 2


def test_a_run_that_no_longer_tells_what_was_asked_for_is_named(tmp_path):
    """It cannot be told from others, and counts as none: the user is told so, once."""
    runs = plan(tmp_path, seeds=(0,))
    assert run(runs) == []
    (path,) = folders(tmp_path)
    (path / "environment.json").write_text("{")
    display = SilentDisplay()
    index = RunIndex(tmp_path, display)
    assert [index.status_of(runs[0]).state for _ in range(2)] == ["missing"] * 2
    (told,) = display.warned
    assert told.startswith(f"{path}: environment.json is damaged; so it is not known")


def test_a_run_that_was_made_longer_or_lost_its_scores(tmp_path):
    """A longer run is not the one asked for; one without scores is scored again."""
    runs = plan(tmp_path, seeds=(0,))
    assert run(runs) == []
    (path,) = folders(tmp_path)
    (path / "scores.json").unlink()
    assert run(runs) == []
    assert folders(tmp_path) == [path]
    assert (path / "scores.json").exists()
    resume_run(path, SilentDisplay(), {"epochs": 2}, with_plots=False)
    assert RunIndex(tmp_path).status_of(runs[0]).state == "missing"


def test_a_run_that_was_made_longer_is_no_sample_of_that_length(tmp_path):
    """Its learning rate fell as for fewer epochs: it is a group of its own, named as what it is."""
    assert run(plan(tmp_path, seeds=(0,))) == []
    (path,) = folders(tmp_path)
    resume_run(path, SilentDisplay(), {"epochs": 2}, with_plots=False)
    resume_run(path, SilentDisplay(), {"epochs": 3}, with_plots=False)
    assert run(plan(tmp_path, seeds=(0, 1), epochs="3")) == []
    found = compare_runs([read_run(path) for path in folders(tmp_path)])
    assert {group.label.partition(" ")[2]: group.seeds for group in found.groups} == {
        "lengthened_from=[1, 2]": (0,),
        "": (0, 1),
    }
    assert not found.unscored


def test_missing_data_ends_the_sweep(tmp_path):
    """The first run without its data is the last: the others have none either."""
    there = {
        "dataset": "folder",
        "data_dir": str(tmp_path / "nothing"),
        "imbalance": "none",
        "model": "resnet18",
    }
    runs = build_plan(layers(tmp_path / "runs", **there), [{}], (0, 1))
    display = SilentDisplay()
    with pytest.raises(DataError):
        run(runs, display)
    assert len([text for text in display.said if text.startswith("run ")]) == 1


def test_mistakes_of_all_combinations_are_told_together(tmp_path):
    """Before anything starts, each with its combination; one that all have, once and without."""
    with pytest.raises(LmsmError) as told:
        plan(
            tmp_path,
            {"lr": "x"},
            {"loss": "lsoftmx"},
            {"loss": "lsoftmax:margin=4,lambda_start=1"},
            {"lr": "0.1"},
        )
    lines = str(told.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("lr=x: lr of the sweep: lr is 'x'")
    assert "did you mean 'lsoftmax'?" in lines[1]
    assert lines[2].startswith("loss=lsoftmax:margin=4,lambda_start=1: ")
    with pytest.raises(LmsmError) as told:
        plan(tmp_path, {"lr": "0.1"}, {"lr": "0.2"}, momentum="2")
    assert str(told.value).startswith("--momentum: momentum is '2'")
    assert not list(tmp_path.iterdir())


def test_equal_runs_are_refused(tmp_path):
    """0.1 and 0.10 are one learning rate."""
    with pytest.raises(LmsmError, match=r"'lr=0.1' and 'lr=0.10' are the same run"):
        plan(tmp_path, {"lr": "0.1"}, {"lr": "0.10"}, seeds=None)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 9}, False),
        ({"lr": 0.5}, False),
        ({"precision": "bf16"}, False),
        ({"device": "auto"}, True),
        ({"threads": 2}, True),
        ({"data_dir": "elsewhere"}, True),
        ({"out": "elsewhere"}, True),
    ],
)
def test_where_a_run_is_made_is_not_what_it_is(tmp_path, change, same):
    """A run is known by what is computed, not where; once, class folders were known by place."""
    one = resolve(layers(tmp_path), check_loss).config
    other = resolve([*layers(tmp_path), Layer.of_flags(change)], check_loss).config
    assert (config_hash(one) == config_hash(other)) is same
    folder = one.model_copy(update={"dataset": "folder"})
    moved = folder.model_copy(update={"data_dir": tmp_path})
    assert config_hash(folder) == config_hash(moved)
    assert config_hash(folder, knows_images=False) != config_hash(moved, knows_images=False)


def test_weights_to_start_from_are_known_by_their_content(tmp_path):
    """Another file under the same name is another choice; a copy is the same."""
    for name, content in (("a.pt", b"1"), ("b.pt", b"1")):
        (tmp_path / name).write_bytes(content)
    base = resolve(layers(tmp_path), check_loss).config
    first, copy = (
        config_hash(base.model_copy(update={"pretrained": str(tmp_path / name)}))
        for name in ("a.pt", "b.pt")
    )
    assert first == copy != config_hash(base)
    (tmp_path / "a.pt").write_bytes(b"2")
    assert config_hash(base.model_copy(update={"pretrained": str(tmp_path / "a.pt")})) != first
    imagenet = [
        config_hash(base.model_copy(update={"pretrained": name}))
        for name in ("imagenet", "gone.pt")
    ]
    assert len({first, *imagenet}) == 3


def test_data_sets_of_ones_own_are_swept_like_other_choices(tmp_path, capsys):
    """Each has runs of its own, which are found again; a folder that is named twice is one run."""
    for number, name in enumerate(("cats", "dogs")):
        write_class_folders(tmp_path / name, ("one", "two"), 8, size=8, seed=number)
    words = "--epochs 1 --batch-size 4 --model paper-2d --device cpu --threads 1 --json"
    words = ["sweep", *words.split(), "--validation", "0", "--augment", "none"]
    words += ["--lr", "0.01", "--out", str(tmp_path / "runs")]
    both = ["--grid", f"dataset={tmp_path / 'cats'};{tmp_path / 'dogs'}"]
    assert main([*words, *both]) == 0, capsys.readouterr().err
    document = json.loads(capsys.readouterr().out)
    assert [group["differs"]["images"] for group in document["groups"]] == ["cats", "dogs"]
    assert len(folders(tmp_path / "runs")) == 2
    assert main([*words, *both]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == document
    assert "2 of 2 runs are there already" in printed.err
    assert "left out" not in printed.err
    again = ["--grid", f"dataset={tmp_path / 'cats'};{tmp_path / 'dogs' / '..' / 'cats'}"]
    assert main([*words, *again, "--dry-run"]) == 2
    assert "are the same run" in capsys.readouterr().err


def test_each_fold_counts_as_a_run(tmp_path):
    """A plan that is too large is refused before its runs are made; just within, it is not."""
    write_class_folders(tmp_path / "photos", ("one", "two"), 8, size=8)
    given = {"dataset": str(tmp_path / "photos"), "model": "paper-2d", "out": tmp_path}
    for folds, seeds in ((1000, 11), (3, 3334)):
        with pytest.raises(LmsmError, match="more than 10,000 runs, of which each fold"):
            build_plan([Layer.of_flags({**given, "folds": folds})], [{}], range(seeds))
    choices = [{"folds": "2"}, {"folds": "1000"}]
    with pytest.raises(LmsmError, match="more than 10,000 runs"):
        build_plan([Layer.of_flags(given)], choices, range(10))
    assert len(build_plan([Layer.of_flags({**given, "folds": 3})], [{}], range(2))) == 6


def test_an_option_at_its_default_is_no_other_run(tmp_path):
    """Neither in a plan, nor in a comparison, nor where an older lmsm wrote the loss as typed."""
    arms = [{"loss": "lsoftmax:margin=auto"}, {"loss": "lsoftmax:margin_max=4.0,margin=auto"}]
    with pytest.raises(LmsmError, match="are the same run"):
        plan(tmp_path, *arms)
    one, other = (plan(tmp_path, arm, seeds=(0,))[0] for arm in arms)
    assert one.config_hash == other.config_hash
    assert one.config_hash in one.other_hashes  # a text in its normal form is as it was
    assert config_hash(other.config, knows_spellings=False) in other.other_hashes
    assert other.config_hash != config_hash(other.config, knows_spellings=False)
    spelled = [spelled_alike({"loss": arm["loss"]}) for arm in arms]
    assert spelled[0] == spelled[1]


OF_LSOFTMAX = "c107620476f50b98c9b03202908b448242caabb86bb734f252b44087d70ae928"


@pytest.mark.parametrize(
    ("resolved", "state"),
    [
        ("lsoftmax:margin=2,lambda_min=0,weight_norm=free", "interrupted"),
        ("lsoftmax:margin=auto,lambda_min=1,weight_norm=shared", "missing"),
    ],
)
def test_a_default_that_was_changed_is_another_run_where_it_was_taken(tmp_path, resolved, state):
    """Before 0.2 lsoftmax was margin=auto on a long tail, and on balanced data what it is now.

    The hash is what that version recorded of these choices.
    """
    flags = {"dataset": "digits", "epochs": 3, "loss": "lsoftmax"}
    now = PlannedRun(resolve([Layer.of_flags(flags)], check_loss).config, "lsoftmax")
    folder = RunFolder.create(tmp_path, "older")
    folder.write_config(dump_yaml(now.config.model_copy(update={"loss": resolved})))
    folder.write_environment(describe("cpu") | {"asked": OF_LSOFTMAX})
    assert RunIndex(tmp_path).status_of(now).state == state


def test_the_hash_has_a_trace_of_the_default_that_was_changed():
    """It is that of the head on a long tail, so a run of another default is another run."""
    flags = {"dataset": "digits", "epochs": 3, "loss": "lsoftmax"}
    config = resolve([Layer.of_flags(flags)], check_loss).config
    made = {key: value for key, value in dump(config).items() if key not in RUNTIME_KEYS}
    usual = {key: type(config).model_fields[key].default for key in ADDED_KEYS}
    kept = {key: one for key, one in made.items() if one is not None and one != usual.get(key)}
    assert fingerprint(kept) == OF_LSOFTMAX
    margin = build_head("lsoftmax", 2, 2, torch.tensor([50, 5])).resolved_options()["margin"]
    assert config_hash(config) == fingerprint(kept | {"usual_margin": margin})


def test_a_choice_that_is_not_made_leaves_no_trace(tmp_path):
    """So runs from before `head_weight_decay` or `head_bias` are found by one that has them."""
    config = resolve(layers(tmp_path), check_loss).config
    kept = {key: value for key, value in dump(config).items() if key not in RUNTIME_KEYS}
    assert kept["head_weight_decay"] is None
    older = {
        key: value
        for key, value in kept.items()
        if key not in ("head_weight_decay", "images_per_class", "pretrained", *ADDED_KEYS)
    }
    assert config_hash(config) == fingerprint(older)


def test_the_bar_of_all_runs_counts_what_is_done(tmp_path):
    """What was there before is done from the start, and a run that fails is no work any more."""
    assert run(plan(tmp_path, seeds=(1,))) == []
    display = SilentDisplay()
    runs = [*plan(tmp_path, seeds=(0, 1)), *plan(tmp_path, {"lr": BAD}, seeds=(0,))]
    assert len(run(runs, display)) == 1
    assert list(dict.fromkeys(display.runs)) == [(1, 3), (2, 3), (3, 3)]


def test_train_takes_seeds(tmp_path, capsys):
    """`train --seeds` is a sweep of one combination: mean ± sd and the folders, each run once."""
    flags = ["train", *FLAGS, "--out", str(tmp_path)]
    assert main([*flags, "--seeds", "0,4"]) == 0
    printed = capsys.readouterr().out
    assert "±" in printed
    assert f"2 run folders in {tmp_path}" in printed
    assert " has " in printed.splitlines()[-1]  # the answer stands last
    assert len(folders(tmp_path)) == 2
    assert (folders(tmp_path)[0] / "plots" / "confusion.png").exists()
    assert main([*flags, "--seeds", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["groups"][0]["seeds"] == [0]
    assert "1 of 1 runs are there already" in printed.err


REFUSED = [
    (["train", "--seeds", "2", "--seed", "1"], "--seed and --seeds are both given"),
    (["train", "--seeds", "2", "--resume", "x"], "leave --preset, --config, --seeds"),
    (["sweep", "--seeds", "2", "--seed", "1"], "--seed and --seeds are both given"),
    (["sweep", "--grid", "lr=0.1,1", "--lr", "0.2"], "--lr 0.2 is given, and lr is varied"),
    (["sweep", "--arm", "loss=ldam", "--margin", "4"], "--margin 4 is given, and loss is varied"),
    (["sweep", "--grid", "lr=0.1..1"], "search it with --trials"),
    (["sweep", "--prune"], "give --trials N"),
    (["sweep", "--grid", "loss=softmx,focal", "--preset", "digits"], "did you mean 'softmax'?"),
]


@pytest.mark.parametrize(
    ("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED]
)
def test_mistakes_end_with_code_2(words, message, tmp_path, monkeypatch, capsys):
    """Nothing is run or written."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_torchrun_shares_runs_not_sweeps(tmp_path, monkeypatch):
    """Several processes share a sweep by being started several times."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LmsmError, match="start `lmsm sweep` several times"):
        run(plan(tmp_path))


class Interrupted(SilentDisplay):
    """Is interrupted as soon as a run says something, which is before it trains."""

    def info(self, text):
        """Raise at the second run."""
        if text.startswith("run 2 of 4"):
            raise KeyboardInterrupt


def test_a_sweep_that_is_stopped_names_the_one_command_that_continues_it(
    tmp_path, capsys, monkeypatch
):
    """Also where no run was training: how many are done, and the command, not that of a run."""
    monkeypatch.setattr("lmsm_cli.commands.progress.new_display", lambda *given: Interrupted())
    words = ["sweep", *FLAGS, "--out", str(tmp_path / "a b"), "--grid", "lr=0.05,0.1"]
    assert main([*words, "--seeds", "2", "--json"]) == 130
    said = capsys.readouterr().err
    assert "stopped by SIGINT; 1 of 4 runs is done" in said
    assert f"  lmsm sweep {shlex.join([*words[1:], '--seeds', '2', '--json'])}\n" in said
    assert "resume" not in said


def test_what_happens_before_the_first_run_is_shown(tmp_path, capsys):
    """A plan takes as long as torch and the images, so it is shown; with --quiet nothing is."""
    flags = ("--grid", "lr=0.05", "--seeds", "1")
    assert "planning the runs" in swept(capsys, tmp_path, *flags)[1].splitlines()
    assert "looking for runs that are there" in swept(capsys, tmp_path, *flags)[1].splitlines()
    assert swept(capsys, tmp_path, *flags, "--quiet")[1] == ""


def test_a_dry_run_lists_what_is_there_and_what_would_be_done(tmp_path, capsys):
    """States and folders of all runs, and how long the rest will take; nothing is written."""
    flags = [
        "sweep",
        *FLAGS,
        "--out",
        str(tmp_path / "runs"),
        "--grid",
        f"lr=0.05,{BAD},0.1",
        "--dry-run",
    ]
    assert main([*flags, "--json"]) == 0
    empty = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in empty["runs"]] == ["missing"] * 3
    (tried,) = empty["tried"]
    assert tried["label"] == "lr=0.05"
    assert empty["seconds_left"] == pytest.approx(3 * tried["seconds"])
    assert main(flags) == 0
    assert "to do: about" in (said := capsys.readouterr().out)
    assert "guessed by trying out 1 of 3 runs (lr=0.05: " in said
    assert not (tmp_path / "runs").exists()
    assert len(run(plan(tmp_path / "runs", {"lr": "0.05"}, {"lr": BAD}, seeds=None))) == 1
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in found["runs"]] == ["completed", "failed", "missing"]
    assert (found["tried"], found["seconds_left"] > 0) == ([], True)
    assert found["runs"][0]["run"] == str(folders(tmp_path / "runs")[0])
    with RunFolder(folders(tmp_path / "runs")[0]).locked():
        assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "failed: tried again" in printed
    assert "trainings still to do: about" in printed


COMMANDS = [
    {},
    {"loss": "lsoftmax:margin=4,lambda_min=5", "lr": 0.05},
    {"dataset": "imbalanced", "factor": 0.02},
    {
        "dataset": "cifar10",
        "model": "resnet32",
        "neck": "bn",
        "schedule": "multistep",
        "milestones": "3,5",
        "epochs": 9,
    },
    {"model": "resnet32", "cuda_graph": False, "out": "a folder", "compile": True},
]


@pytest.mark.parametrize("preset", [None, "digits", "imbalanced-resnet18"])
@pytest.mark.parametrize("values", COMMANDS, ids=str)
def test_the_command_that_repeats_a_run_says_all(values, preset, capsys, monkeypatch):
    """Resolved again, the flags give the very config, whatever follows from what."""
    import shlex

    monkeypatch.delenv("LMSM_DATA_DIR", raising=False)
    config = resolve([Layer.of_flags(values)], check_loss).config
    words = shlex.split(train_command(config, preset))
    assert words[:2] == ["lmsm", "train"]
    assert main([*words[1:], "--show-config", "--json"]) == 0
    shown = {key: row["value"] for key, row in json.loads(capsys.readouterr().out).items()}
    assert shown == config.model_dump(mode="json")
