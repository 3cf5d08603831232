"""`lmsm study` on small folders: its answer, going on after anything, and what it refuses."""

import json
import shlex
import subprocess
from copy import deepcopy
from pathlib import Path
from shutil import copytree, rmtree
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.study_errors import share_told, simulated
from lmsm_cli.commands.app import main
from lmsm_cli.comparison.sequential import looks_at
from lmsm_cli.config import Config
from lmsm_cli.errors import CheckpointError, LmsmError, RunError
from lmsm_cli.inference import export
from lmsm_cli.reports.study import study_sentence
from lmsm_cli.reports.study_script import study_script
from lmsm_cli.runs.folder import is_run
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.sweeps import candidates as tried
from lmsm_cli.sweeps import second_stage, study_plan, study_race, study_start, study_verdict
from lmsm_cli.sweeps import study as studies
from lmsm_cli.sweeps.candidates import candidates_for
from lmsm_cli.sweeps.held_out import Answered, Question
from lmsm_cli.sweeps.second_stage import recipe_of
from lmsm_cli.sweeps.study_plan import (
    Cost,
    Rounds,
    StudyPlan,
    StudyState,
    plan_by_budget,
    plan_by_rounds,
    plan_longer,
    read_state,
    seconds_of,
)
from lmsm_cli.sweeps.study_verdict import judged
from tests.conftest import noise, save

FLAGS = (
    "--rounds 2+3 --image-size 8 --model paper-mnist --augment none --epochs 1 --batch-size 4 "
    "--device cpu --precision fp32 --threads 1 --quiet"
)


def few_candidates(patch):
    """Let four candidates race, of each kind one, and hold out two folds in turn."""
    patch.setattr(tried, "_FOR_TAILS", ("balanced-softmax",))
    patch.setattr(tried, "_STAGES", ("crt",))
    patch.setattr(tried, "_decayed", lambda *_: [])
    patch.setattr(tried, "_deferred", lambda *_: [])
    patch.setattr(study_plan, "_FOLDS", (2,))
    patch.setattr(second_stage, "recipe_of", lambda *given: recipe_of(*given) | {"epochs": 2})


def photos(root, *, test=10):
    """Write long-tailed class folders that a net can learn: noise about a level of its own."""
    for label, (name, count) in enumerate((("ant", 24), ("bee", 12), ("cat", 6))):
        for part, number in (("train", count), ("test", test)):
            for place in range(number):
                grey = noise(1000 * label + 100 * (part == "test") + place, (8, 8)) // 2
                file = root / (part if test else "") / name / f"{part}{place}.png"
                save(file, grey + np.uint8(50 * label))
    return root


def study(*more):
    """Run the study in the current folder."""
    return main(["study", "photos", *FLAGS.split(), *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a study, and what it printed as JSON."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        few_candidates(patch)
        photos(root / "photos")
        assert study() == 0
    return root, json.loads((root / "runs" / "study-photos" / "study.json").read_text())


def answer_of(state):
    """Return what of a study does not depend on when it ran."""
    result = {key: value for key, value in state["result"].items() if key != "model"}
    return result, state["race"], state["arms"], state["result"]["model"]["name"]


def test_a_study_names_its_loss_and_has_the_model(done):
    """The race has all candidates, the rounds the best two; the model is of all training images."""
    root, state = done
    result = state["result"]
    assert set(state["race"]) == {
        "softmax",
        "softmax, adjusted afterwards",
        "balanced-softmax",
        "softmax, rare classes weighted",
        "crt",
    }
    best = sorted(state["race"], key=lambda name: -state["race"][name])
    assert len(state["arms"]) == 2
    assert {state["race"][name] for name in state["arms"]} == {
        state["race"][name] for name in [name for name in best if name != "softmax"][:2]
    }
    assert result["rounds"] == 2
    assert result["verdict"]["decided_on"] in ("test images", "held-out images")
    model = read_run(root / result["model"]["run"])
    assert model.config["test_from"] == "test"
    assert sum(row.train_count for row in model.scores.per_class) == 42 - sum(
        len(model.images.of("validation").labels[:]) for _ in range(1)
    )
    assert Path(root / result["model"]["file"]).exists()


def test_each_round_holds_each_training_image_out_once(done):
    """By two folds here, in divisions of their own, and never a test image."""
    root, _ = done
    runs = [read_run(path) for path in find_runs([root / "runs" / "study-photos"])]
    first = [one for one in runs if one.config["loss"] == "softmax" and one.config["fold"] == 0]
    plain = [one for one in first if one.config["freeze"] is None]
    assert [one.config["split_seed"] for one in plain] == [0, 1]
    for seed in (0, 1):
        folds = [
            one
            for one in runs
            if one.config["split_seed"] == seed
            and one.config["folds"]
            and one.config["freeze"] is None
            and one.config["loss"] == "softmax"
            and one.config["reweight"] == "none"
        ]
        names = [name for one in folds for name in one.images.of("test").places.tolist()]
        assert len(names) == len(set(names)) == 42
        assert all(name.startswith(b"train/") for name in names)


def test_each_net_of_a_study_has_a_seed_of_its_own(done):
    """Two rounds of two folds have four, the same ones for each loss."""
    root, _ = done
    runs = [read_run(path).config for path in find_runs([root / "runs" / "study-photos"])]
    seeds = {}
    for config in runs:
        if config["folds"]:
            name = (config["loss"], config["reweight"], config["freeze"], config["sampling"])
            seeds.setdefault(name, set()).add(
                (config["split_seed"], config["fold"], config["seed"])
            )
    every = {(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)}
    assert seeds["softmax", "none", None, "shuffle"] == every
    assert all(one <= every for one in seeds.values())


def test_only_the_weights_of_the_winner_and_softmax_stay(done):
    """And those of the model; the scores of all runs do."""
    root, state = done
    result = state["result"]
    kept = {"softmax", result["verdict"]["arm"]}
    for path in (root / "runs" / "study-photos").iterdir():
        if is_run(path):
            config = read_run(path).config
            is_softmax = config["loss"] == "softmax" and config["reweight"] == "none"
            is_plain = is_softmax and config["freeze"] is None
            if is_plain:
                assert (path / "checkpoint.pt").exists()
            elif config["loss"] == "balanced-softmax" and "balanced-softmax" not in kept:
                assert not list(path.glob("*.pt"))
            assert (path / "scores.json").exists()


def test_the_same_command_does_nothing_new(done, monkeypatch, capsys):
    """It prints the same answer, and touches no run."""
    root, state = done
    monkeypatch.chdir(root)
    few_candidates(monkeypatch)
    out = root / "runs" / "study-photos"

    def times():
        written_anew = (".html", ".sh")
        return {
            path: path.stat().st_mtime_ns
            for path in out.rglob("*")
            if path.suffix not in written_anew
        }

    before = times()
    capsys.readouterr()
    assert study("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["held_out"] == state["result"]["held_out"]
    assert times() == before
    assert study() == 0
    printed = capsys.readouterr().out
    assert "The race of last layers" in printed
    assert printed.rstrip().splitlines()[-1].startswith("Use ")
    assert (out / "study.html").exists()


def test_a_script_repeats_each_training(done, monkeypatch, tmp_path):
    """A net and a last layer on it, by their lines, have the scores of the study's."""
    root, _ = done
    monkeypatch.chdir(root)
    few_candidates(monkeypatch)
    assert study() == 0
    script = (root / "runs" / "study-photos" / "repeat.sh").read_text()
    assert "#     lmsm study photos --image-size 8" in script
    assert "--rounds 2x2+3" in script
    commands = [shlex.split(line) for line in script.splitlines() if "train --config" in line]
    configs = [Path(words[3]) for words in commands]
    assert [path.parent for path in configs] == find_runs([Path("runs/study-photos")])
    heads = [path for path in configs if "freeze: features" in path.read_text()]
    for number, path in enumerate((configs[0], heads[0])):
        out = tmp_path / str(number)
        assert main(["train", "--config", str(path), "--out", str(out), "--quiet"]) == 0
        (again,) = find_runs([out])
        assert read_run(again).scores.per_class == read_run(path.parent).scores.per_class


def test_a_larger_budget_goes_on(tmp_path, monkeypatch, capsys):
    """Where a study ran out of time; where its looks are over, it says so."""
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    monkeypatch.setattr(study_plan, "MOST_ROUNDS", 3)
    photos(tmp_path / "photos", test=0)
    file = tmp_path / "runs" / "study-photos" / "study.json"

    def ended(budget):
        flags = FLAGS.replace("--rounds 2+3", f"--budget {budget}").replace("--quiet", "")
        assert main(["study", "photos", *flags.split()]) == 0
        result = json.loads(file.read_text())["result"]
        return result["rounds"], result["ended"]

    with monkeypatch.context() as patch:
        patch.setattr(studies.Study, "_spent_here", lambda self: 3600.0)
        patch.setattr(study_race, "RACE", 2)
        assert ended("1h") == (1, "the budget")
    assert "a larger --budget continues the study" in capsys.readouterr().out
    assert ended("1h") == (1, "the budget")
    assert ended("2h") == (3, "the plan")
    assert "its level of 5% is spent" not in capsys.readouterr().err
    assert ended("3h") == (3, "the plan")
    assert "its level of 5% is spent" in " ".join(capsys.readouterr().err.split())

    done = json.loads(file.read_text())
    unfinished = {"result": None, "arms": None, "race": None, "spent": 1e6}
    file.write_text(json.dumps(done | unfinished))
    flags = FLAGS.replace("--rounds 2+3", "")
    assert main(["study", "photos", *flags.split()]) == 0
    again = json.loads(file.read_text())  # what is done is not lost for want of time
    assert answer_of(again) == answer_of(done)
    assert again["budget"] == 7200

    save(tmp_path / "photos" / "ant" / "more.png", noise(4711, (8, 8)))
    assert main(["study", "photos", *flags.split()]) == 3
    assert "has a study of other images" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("pairs", "rounds", "ended", "dropped", "goes_on"),
    [
        (0, 2, "the plan", {}, True),  # a larger one has rounds enough for a look
        (0, 5, "the plan", {}, False),  # the level is spent
        (0, 5, "the budget", {}, True),
        (5, 2, "the plan", {}, True),  # three rounds choose what is asked of test images
        (5, 3, "the plan", {}, False),
        (5, 3, "the plan", {"crt": "it diverged"}, False),
        (5, 3, "the plan", {"crt": study_plan.NO_TIME}, True),
        (0, 5, "a look", {"crt": study_plan.NO_TIME}, False),
    ],
)
def test_a_larger_budget_is_promised_where_it_does_something(
    pairs, rounds, ended, dropped, goes_on
):
    """Other rounds, those that time was too short for, or losses that had no time to race."""
    looks = () if pairs else looks_at(rounds)
    plan = StudyPlan(2, rounds, looks, 2, 10.0, 60.0, pairs)
    state = StudyState({}, [], plan, arms=["vs"], dropped=dropped, budget=60.0)
    state.race = {"vs": 0.1, "softmax": 0.0}
    state.result = {"rounds": rounds, "ended": ended, "verdict": {"decided_on": "held-out images"}}
    told = deepcopy(state)
    told.result["verdict"] = {"decided_on": "test images"}
    assert (state.may_go_on, told.may_go_on) == (goes_on, False)
    said = []
    display = SimpleNamespace(info=said.append)
    study_start._go_on_longer(state, study_start.Wanted(Config(), budget=1e6), 4, display)
    assert (state.result is None) == goes_on == (not said)
    assert ((state.plan, state.arms) != (plan, ["vs"])) == (goes_on and ended != "the budget")
    why = "three rounds" if pairs else "its level of 5% is spent"
    assert goes_on or why in said[0]


def test_a_study_of_so_many_rounds_refuses_a_budget(done, monkeypatch, capsys):
    """It would do nothing; without one the answer is shown again, and nothing is promised."""
    root, _ = done
    monkeypatch.chdir(root)
    few_candidates(monkeypatch)
    flags = FLAGS.replace("--rounds 2+3", "").split()
    capsys.readouterr()
    assert main(["study", "photos", *flags, "--budget", "9h"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has a study of 2 rounds, which was begun with --rounds and is finished" in said
    assert "give another --out to begin a new one" in said
    assert main(["study", "photos", *flags]) == 0
    state = read_state(Path("runs", "study-photos"))
    state.result["verdict"] |= {"decided_on": "held-out images", "is_told": False}
    assert not state.may_go_on


@pytest.mark.parametrize("given", ["--budget 1h", "--rounds 2+4"])
def test_a_plan_tells_what_the_test_images_decide_on(tmp_path, monkeypatch, capsys, given):
    """How many nets a side on all training images: planned by the budget, or as asked."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    flags = FLAGS.replace("--rounds 2+3", given).split()
    assert main(["study", "photos", *flags, "--dry-run"]) == 0
    wanted = 5 if given == "--budget 1h" else 4
    said = " ".join(capsys.readouterr().out.split())
    assert f"with {wanted} seeds each" in said
    assert ("with more while time is left" in said) == (given == "--budget 1h")


def test_the_test_images_decide_by_nets_on_all_training_images(done):
    """As many a side as asked for, of the seeds from 0; none of those of the rounds was asked."""
    root, state = done
    verdict = state["result"]["verdict"]
    runs = [read_run(path) for path in find_runs([root / "runs" / "study-photos"])]
    whole = [one for one in runs if one.config["folds"] is None]
    plain = [one for one in whole if one.config["loss"] == "softmax"]
    plain = [one for one in plain if one.config["freeze"] is None]
    plain = [one for one in plain if one.config["reweight"] == "none"]
    if verdict["decided_on"] == "held-out images":  # no arm was ahead: only the model is trained
        assert verdict["reason"] == "no arm is ahead"
        assert len(whole) == 1
        return
    assert state["result"]["pairs"] == verdict["nets"] == 3
    assert {one.config["seed"] for one in plain} == {0, 1, 2}
    assert len(whole) > len(plain)
    counts = np.bincount(whole[0].images.of("test").labels)
    assert counts.tolist() == [10, 10, 10]


def test_pairs_are_trained_while_there_is_time(monkeypatch):
    """At least one, which has the model; no more than asked for, where that is said."""
    one = simulated(np.random.default_rng(3), effect=0.7, rounds=3, test_images=60)
    monkeypatch.setattr(one, "on_all_images", lambda name, seed: (name, seed))
    monkeypatch.setattr(studies, "_seconds", lambda record: 1.0)
    for budget, left, wanted in ((None, 99, 3), (9.0, 4, 4), (9.0, 0, 1), (9.0, 99, 10)):
        one.budget = budget
        monkeypatch.setattr(one, "_has_time_for_pair", lambda arm, seed, _: seed < left)  # noqa: B023
        assert one._train_pairs("arm 0").own == [("arm 0", seed) for seed in range(wanted)]


class _Killed(BaseException):
    """What a test stops a study with."""


@pytest.mark.parametrize("runs", [2, 9, 17])
def test_a_killed_study_ends_as_an_undisturbed_one(done, tmp_path, monkeypatch, runs):
    """It is stopped after so many trainings, and started again; another's run stays as it is."""
    root, state = done
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    (tmp_path / "photos").symlink_to(root / "photos")
    out = tmp_path / "runs" / "study-photos"
    other = out / "other"
    copytree(root / state["result"]["model"]["run"], other)
    file = other / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"asked": "0" * 64}))
    left, write = [runs], studies.Study._note_time

    def note(self):
        write(self)
        left[0] -= 1
        if left[0] < 0:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(studies.Study, "_note_time", note)
        with pytest.raises(_Killed):
            study()
    assert study() == 0
    assert answer_of(json.loads((out / "study.json").read_text())) == answer_of(state)
    assert (other / "checkpoint.pt").exists()
    assert "other" not in (out / "repeat.sh").read_text()


def test_without_test_images_the_held_out_ones_decide(tmp_path, monkeypatch, capsys):
    """With a level for all that raced; a last layer of softmax's own net is corrected."""
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    photos(tmp_path / "photos", test=0)
    flags = FLAGS.replace("--rounds 2+3", "--rounds 3 --json --keep all").split()
    assert main(["study", "photos", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"]["decided_on"] == "held-out images"
    assert told["verdict"]["nets"] == 0
    assert told["rounds"] == 3
    runs = find_runs([tmp_path / "runs" / "study-photos"])
    assert all((path / "checkpoint.pt").exists() for path in runs)


def test_a_study_goes_on_in_another_place(done, tmp_path, monkeypatch, capsys):
    """Its folder and its images were moved; only what is missing is trained."""
    root, state = done
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    copytree(root / "photos", tmp_path / "pictures")
    copytree(root / "runs" / "study-photos", tmp_path / "moved")
    file = tmp_path / "moved" / "study.json"

    def again():
        flags = ["--out", "moved", "--json"]
        assert main(["study", "pictures", *FLAGS.split(), *flags]) == 0
        return json.loads(capsys.readouterr().out)

    run = Path("moved") / Path(state["result"]["model"]["run"]).name
    assert again()["model"] == state["result"]["model"] | {
        "run": str(run),
        "file": str(run / "checkpoint.pt"),
    }
    heads = [path for path in find_runs([Path("moved")]) if has_head_of(path, "balanced")]
    for path in heads:
        rmtree(path)
    file.write_text(json.dumps(state | {"result": None, "arms": None, "race": None}))
    told = again()
    assert answer_of(json.loads(file.read_text())) == answer_of(state)
    assert told["answer"].startswith("Use ")
    made = [path for path in find_runs([Path("moved")]) if has_head_of(path, "balanced")]
    assert len(made) == len(heads) > 0


def has_head_of(run, sampling):
    """Return whether a run is a last layer that was trained on so drawn images."""
    config = read_run(run).config
    return config["freeze"] == "features" and config["sampling"] == sampling


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--epochs", "3"), "has a study with epochs 1, not 3"),
        (("--also", "cosface"), "--also [], not ['cosface']"),
        (("--rounds", "3"), "rounds 2x2+3, not 3"),
        (("--rounds", "2x3"), "rounds 2x2+3, not 2x3"),
    ],
)
def test_another_study_in_its_folder_is_refused(done, monkeypatch, capsys, flags, said):
    """Before anything is done."""
    root, _ = done
    monkeypatch.chdir(root)
    few_candidates(monkeypatch)
    assert study(*flags) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("flags", "said", "code"),
    [
        (("--budget", "1h"), "--budget and --rounds both say", 2),
        (("--keep", "none"), "--keep", 2),
        (("--also", "softmx"), "softmx", 2),
        (("--also", "balanced-softmax"), "the study tries it anyway", 2),
        (("--rounds", "0"), "--rounds is 0: give at least 1", 2),
        (("--rounds", "3x1"), "as in 4, in 4x2 for 4 rounds of 2 folds, or", 2),
        (("--out", "photos/train/runs"), "lies in the folder of the images, photos, where", 2),
        (("--freeze", "features", "--pretrained", "."), "which a study does by itself", 2),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, flags, said, code):
    """Before work starts, and no folder is made."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", test=2)
    assert study(*flags) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_what_an_export_needs_is_asked_for_before_hours_of_training(tmp_path, monkeypatch, capsys):
    """And no folder is made."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", test=2)

    def missing(form):
        raise LmsmError(f"{form} is not installed")

    monkeypatch.setattr(export, "check_extra", missing)
    assert study("--export") == 2
    assert "onnx is not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_class_of_one_image_is_refused(tmp_path, monkeypatch, capsys):
    """By name, with what to add."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", test=2)
    for part in ("train", "test"):
        save(tmp_path / "photos" / part / "dog" / f"{part}.png", noise(9999 + len(part), (8, 8)))
    assert study() == 3
    assert "add images of 'dog' (1)" in " ".join(capsys.readouterr().err.split())


def test_a_budget_below_one_round_is_refused_with_one_that_allows_it():
    """The smallest, by hand: 3 x 2 trainings of 37.5 s, one of 75 s, 2 x 10 heads: 350 of 372 s."""
    counts = [300, 150, 60, 20, 8]
    with pytest.raises(
        study_plan.BudgetError, match=r"of 2 min 0 s does not allow one round.* give --budget 7m"
    ) as refused:
        plan_by_budget(counts, Cost(120.0, 60.0, 10), 2, has_test=False)
    known = refused.value.refusal
    assert known.plan.folds == 2
    assert known.cost.parts(known.plan) == {"rounds": 225, "race": 50, "whole": 75}
    assert known.share == pytest.approx((0.94 * 120 - 50) / 300)
    with pytest.raises(LmsmError, match="half an hour"):
        seconds_of("half an hour")
    with pytest.raises(LmsmError, match="a finite time"):
        seconds_of("9" * 400 + "h")


def test_a_plan_has_the_most_folds_that_leave_three_rounds():
    """By hand: a training on four fifths takes 10 s; on two thirds 10/1.2, on a half 10/1.6."""
    counts = [300, 150, 60, 20, 8]
    assert plan_by_budget(counts, Cost(3600.0, 10.0, 10), 2, has_test=False).folds == 5
    plan = plan_by_budget(counts, Cost(420.0, 10.0, 10), 2, has_test=False)
    # around: 12.5 + 10 * 3 * 2.5 + 0.06 * 420 = 112.7; a round: 3 * 3 * 10 / 1.2 = 75
    assert (plan.folds, plan.rounds, plan.looks) == (3, 4, (3, 4))
    assert plan.expected_seconds == pytest.approx(112.7 + 4 * 75)
    large = Cost(3600.0, 60.0, 10)
    assert plan_by_budget([5000] * 10, large, 2, has_test=False).folds is None


def test_a_plan_of_rounds_is_as_asked_for():
    """With folds as the data allows, and pairs where there are test images."""
    counts = [300, 150, 60, 20, 8]

    def plan(counts, text, *, has_test=False):
        return plan_by_rounds(counts, Rounds.of(text), 2, has_test=has_test)

    assert plan(counts, "4").folds == 5
    assert plan([3, 2], "4").folds == 3
    assert plan(counts, "4x2").trainings == 2 * 3
    assert plan(counts, "4x2", has_test=True).spelled == "4x2+3"
    assert plan(counts, "4x2+7", has_test=True).all_trainings == 4 * 2 * 3 + 2 * 7
    with pytest.raises(LmsmError, match=r"no folds are made here.* give --rounds 4"):
        plan([5000] * 10, "4x2")
    with pytest.raises(LmsmError, match="the largest class has 3 images"):
        plan([3, 2], "1x4")
    with pytest.raises(LmsmError, match=r"there are no test images.* give --rounds 4x2$"):
        plan(counts, "4x2+7")


def test_a_plan_with_test_images_leaves_room_for_whole_trainings():
    """By hand: a training of 8 s on four fifths takes 10 s on all images, and 5 s on a half."""
    counts = [300, 150, 60, 20, 8]

    def plan(budget):
        return plan_by_budget(counts, Cost(budget / 0.94, 8.0, 10), 2, has_test=True)

    # five pairs take 100 s, 10 heads on 5 folds 125 s and on 2 folds 50 s, a round 120 or 30 s
    assert (plan(346.0).folds, plan(346.0).rounds, plan(346.0).pairs) == (5, 1, 5)
    assert (plan(181.0).folds, plan(181.0).rounds, plan(181.0).pairs) == (2, 1, 5)
    assert plan(9999.0).rounds == 3
    # three pairs take 60 s
    assert (plan(141.0).arms, plan(141.0).pairs) == (2, 3)
    assert plan(141.0).expected_seconds == pytest.approx(140 + 0.06 * 141 / 0.94)
    # one arm: a round takes 2 x 2 x 5 s
    assert (plan(131.0).arms, plan(131.0).pairs) == (1, 3)
    assert plan(131.0).looks == ()
    with pytest.raises(LmsmError, match=r"give --budget 3m"):
        plan(129.0)


def test_a_short_budget_takes_epochs_of_the_defaults_away():
    """By hand: 50 s of heads and 8 trainings of 10 s on all images at 40 epochs, 0.25 s each."""
    counts = [300, 150, 60, 20, 8]

    def plan(budget, epochs=40):
        cost = Cost(budget / 0.94, 8.0, 10)
        return plan_by_budget(counts, cost, 2, has_test=True, epochs=epochs)

    assert (plan(131.0).epochs, plan(131.0).usual_epochs) == (None, None)
    shorter = plan(129.0)
    assert (shorter.rounds, shorter.epochs, shorter.usual_epochs) == (1, 39, 40)
    assert shorter.run_seconds == pytest.approx(8 * 39 / 40)
    assert plan(91.0).epochs == 20
    with pytest.raises(LmsmError, match=r"about 4.0 s with 20 of 40 epochs; give --budget 2m"):
        plan(89.0)
    with pytest.raises(LmsmError, match=r"about 8.0 s here; give --budget 3m"):
        plan(129.0, epochs=None)
    longer = plan_longer(shorter, 600.0, 10)
    assert (longer.rounds, longer.epochs, longer.usual_epochs) == (3, 39, 40)


def test_a_study_within_a_short_budget_says_so_and_is_repeated_so(tmp_path, monkeypatch, capsys):
    """Of 200 epochs that 8 trainings of 390 s have, 2 fit into 60 s beside the race."""
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    monkeypatch.setattr(study_plan, "_FEWEST_EPOCHS", 0.01)
    monkeypatch.setattr(studies, "MOST_PAIRS", 3)
    measured = {"seconds": 0.8 * 390, "bytes": 1, "free_bytes": 2, "device": "CPU"}
    monkeypatch.setattr(study_start, "_measured", lambda *_, **__: measured)
    photos(tmp_path / "photos")
    flags = "--image-size 8 --model paper-mnist --device cpu --precision fp32 --threads 1 --quiet"
    command = ["study", "photos", *flags.split(), "--budget", "60s"]
    assert main([*command, "--epochs", "200", "--out", "other"]) == 2
    assert main(command) == 0
    said = "each training has 2 epochs, not 200, so that a round fits into the budget"
    assert said in capsys.readouterr().out
    runs = [read_run(path).config for path in find_runs([Path("runs/study-photos")])]
    whole = [one for one in runs if one["freeze"] != "features"]
    assert {one["epochs"] for one in whole} == {2}
    script = Path("runs/study-photos/repeat.sh").read_text()
    assert "--epochs 2 --rounds 1x2+3" in script
    assert main(command) == 0
    assert len(find_runs([Path("runs/study-photos")])) == len(runs)


def test_a_larger_budget_changes_a_plan_that_has_not_looked():
    """By hand: 12.5 + 10 * 2 * 2.5 + 0.06 * 600 = 98.5 around, 2 * 3 * 6.25 = 37.5 a round."""
    counts = [300, 150, 60, 20, 8]
    plan = plan_by_budget(counts, Cost(150.0, 10.0, 10), 2, has_test=False)
    assert (plan.folds, plan.rounds, plan.looks) == (2, 2, ())
    longer = plan_longer(plan, 600.0, 10)
    assert (longer.folds, longer.rounds) == (2, 13)
    assert plan_longer(longer, 6000.0, 10) == longer


def test_the_score_and_its_distance_by_hand():
    """Two rare images a class told of three rounds, by the formula of a paired t-test."""
    labels = np.array([0] * 4 + [1] * 2 + [2] * 2)
    digests = np.arange(8 * 16).reshape(8, 16).astype(np.uint8)

    def answers(text):
        return Answered(labels, np.array([one == "1" for one in text]), digests)

    question = Question.of(labels, [40, 20, 10], "balanced_accuracy")
    own = [answers("11111111"), answers("11111110"), answers("11111111")]
    baseline = [answers("11111000"), answers("11111000"), answers("11101100")]
    assert question.score(baseline[0]) == pytest.approx((1 + 1 / 2 + 0) / 3)
    from lmsm_cli.comparison.two_way import Over

    found = question.standing(own, baseline, over=Over.SEEDS)
    differences = [0.5, 1 / 3, (1 - (0.75 + 1 + 0) / 3)]
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.shares[0].variance == pytest.approx(np.var(differences, ddof=1) / 3)


def test_rare_classes_are_asked_about_where_they_have_images_enough():
    """20 of them; else all classes are."""
    counts = [40, 20, 10]
    labels = np.repeat([0, 1, 2], [40, 20, 20])
    assert Question.of(labels, counts).key == "few"
    assert Question.of(labels[:-1], counts).key == "balanced_accuracy"
    assert Question.of(labels, [20, 20, 20]).key == "balanced_accuracy"


def test_candidates_follow_the_data():
    """Balanced classes need no correction for rare ones, and `--also` adds to either."""
    config = {"epochs": 10, "head_bias": True, "weight_decay": 0.0002}
    balanced = candidates_for([20, 20], config, ["arcface"])
    tailed = candidates_for([200, 20, 10], config, [])
    assert balanced[-1].whole == {"loss": "arcface", "head_bias": "false"}
    decayed = {one.name for one in balanced} & {one.name for one in tailed}
    assert decayed == {"softmax, more weight decay"}
    assert {one.name: one for one in tailed}[decayed.pop()].whole == {"weight_decay": "0.001"}
    undecayed = candidates_for([20, 20], config | {"weight_decay": 0.0}, ["arcface"])
    assert len(undecayed) == len(balanced) - 1
    deferred = {one.name: one for one in tailed}["ldam, rare classes weighted at the end"]
    assert deferred.whole["rebalance_from"] == "9"
    assert (deferred.head, deferred.whole["head_bias"]) == ("ldam", "false")


@pytest.mark.parametrize(
    ("counts", "spec", "said"),
    [
        ([200, 20, 10], "adjust:1.0", "tries it anyway"),
        ([20, 20], "lsoftmax:lambda_min=5,margin=4", "tries it anyway"),
        ([20, 20], "softmax:label_smoothing=0", "tries it anyway"),
        ([20, 20], "lsoftmax", "tries it anyway"),
        ([200, 20, 0], "lsoftmax", "tries it anyway"),
        ([200, 20, 10], "lsoftmax:margin=tail,lambda_min=0", "tries it anyway"),
        ([200, 20, 10], "lsoftmax:margin=auto,lambda_min=1,weight_norm=shared", "tries it anyway"),
        ([20, 20], "mla", "changes nothing"),
        ([20, 20], "adjust:1", "changes nothing"),
    ],
)
def test_what_is_tried_anyway_or_for_nothing_is_refused(counts, spec, said):
    """However it is spelled, and before a training."""
    config = {"epochs": 10, "head_bias": True, "weight_decay": 0.0002}
    with pytest.raises(LmsmError, match=said):
        candidates_for(counts, config, [spec])


def test_nothing_is_decided_twice(tmp_path):
    """Of two processes that began at once, the first one's plan, arms and end hold for both."""
    plans = [StudyPlan(5, rounds, looks_at(rounds), 2, 10.0, 100.0) for rounds in (4, 5)]
    first, second = (StudyState({"seed": 0}, [], plan, ["digest"], budget=60.0) for plan in plans)
    assert first.begun(tmp_path) is first
    second = second.begun(tmp_path)
    assert second.plan == plans[0]
    with pytest.raises(LmsmError, match="another study began"):
        StudyState({"seed": 0}, [], plans[0], ["other"]).begun(tmp_path)
    first.arms, second.arms = ["a", "b"], ["b", "c"]
    first.result, first.spent = {"rounds": 3}, 30.0
    first.note(tmp_path)
    second.note(tmp_path)
    assert (second.arms, second.result, second.spent) == (["a", "b"], {"rounds": 3}, 30.0)
    longer = StudyState({"seed": 0}, [], plans[0], ["digest"], budget=120.0)
    longer.note(tmp_path)
    assert longer.result is None
    assert read_state(tmp_path) == longer


@pytest.mark.parametrize(
    ("text", "said"), [('{"schema": 1, "plan": {}}', "is of another version"), ("{", "is damaged")]
)
def test_a_study_that_cannot_be_read_says_why(tmp_path, text, said):
    """An older one is not damaged; of either, no run is promised that would be another now."""
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"json {said}.*that this version would train alike"):
        read_state(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '"study"'])
def test_a_file_that_is_no_study_is_told_in_words(tmp_path, content):
    """As a JSON file of another program is, which lies under the name of a study's."""
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged: it holds no study"):
        read_state(tmp_path)


@pytest.mark.parametrize("fails", [("arm 0",), tuple(f"arm {number}" for number in range(10))])
def test_an_arm_that_failed_in_a_round_is_not_the_answer(monkeypatch, fails):
    """However good it was before; where all did, softmax is."""
    draws = np.random.default_rng(3)
    one = simulated(draws, effect=3.0, rounds=4, test_images=60)
    answers = one._answers_of

    def failing(name, number):
        if name in fails and number == 1:
            raise RunError("it diverged")
        return answers(name, number)

    monkeypatch.setattr(one, "_answers_of", failing)
    found = one.run()
    assert "arm 0" in one.state.arms
    assert found["dropped"].keys() == set(fails) & set(one.state.arms)
    assert not found["verdict"]["is_told"] or found["verdict"]["arm"] not in fails
    if len(fails) == 1:
        assert found["verdict"]["arm"] != "arm 0"
    else:
        assert "it failed in a later round" in study_sentence(found)


def test_an_arm_that_fails_on_all_training_images_is_not_the_answer(monkeypatch):
    """However good it was on parts of them: softmax is, and the reason is said."""
    one = simulated(np.random.default_rng(3), effect=3.0, rounds=3, test_images=60)

    def failing(arm):
        raise RunError("it diverged")

    monkeypatch.setattr(one, "_asked_of_test", failing)
    found = one.run()
    assert found["dropped"] == {"arm 0": "it diverged"}
    assert found["model"]["name"] == "softmax"
    assert "it failed on all training images" in study_sentence(found)


def test_a_single_net_tells_nothing_of_others():
    """However many test images it has right: another training could say otherwise."""
    labels = np.repeat([0, 1], 200)
    right = np.ones((3, 400), dtype=bool)
    wrong = right & (np.arange(400) % 3 > 0)
    question = Question.of(labels, [20, 20])
    alone = judged("crt", right[:1], wrong[:1], question)
    assert (alone.is_told, alone.reason) == (False, "fewer than three nets a side")
    assert judged("crt", right, wrong, question).is_told
    assert not judged("crt", right[:2], wrong[:2], question).is_told


@pytest.mark.parametrize(("rare", "said"), [(0, "no two test images of cat"), (5, "")])
def test_test_images_may_lack_the_rare_classes(monkeypatch, rare, said):
    """Which is said, and no error: of the rare classes that are there the others tell."""
    labels = np.repeat(np.arange(6), [30, 30, 30, 30, 1, rare])
    digests = np.arange(len(labels) * 16).reshape(-1, 16).astype(np.uint8)
    answers = {
        name: Answered(labels, np.full(len(labels), name == "own"), digests)
        for name in ("own", "other")
    }
    monkeypatch.setattr(study_verdict, "answered", lambda records: answers[records[0].name])
    images = SimpleNamespace(classes=("ant", "bee", "elk", "fox", "cat", "dog"))
    own, other = (SimpleNamespace(name=name, images=images) for name in ("own", "other"))
    warned = []
    display = SimpleNamespace(warning=warned.append)
    pairs = study_verdict.Pairs("crt", [own] * 3, [other] * 3)
    found = study_verdict.verdict_on_test(pairs, "few", [90, 80, 70, 60, 10, 9], display)
    assert found.reason.startswith(said)
    assert (found.mean == 1) == bool(rare)
    assert ["cat" in text for text in warned] == [True] * bool(rare)


def test_a_script_is_one_in_any_folder(tmp_path):
    """Its commands have the names as they are: quotes, spaces, dollars, line ends."""
    place = tmp_path / 'it\'s "a" $HOME `x`\n}'
    runs = [SimpleNamespace(name="run", path=place / "run", config={"loss": "softmax", "seed": 0})]
    text = study_script(f"lmsm study {shlex.quote(str(place))}", "lmsm eval x", runs)
    (tmp_path / "lmsm").write_text('#!/bin/sh\nfor one; do printf "%s\\0" "$one"; done\n')
    (tmp_path / "lmsm").chmod(0o755)
    for more, out in (((), f"{place}-again"), (("there it's",), "there it's")):
        done = subprocess.run(
            ["sh", "-c", text, "sh", *more],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        words = ["train", "--config", f"{place}/run/config.yaml", "--out", out]
        assert done.stdout.split("\0")[:-1] == [*words, "eval", "x", "compare", str(place)]
        assert not done.stderr


@pytest.mark.parametrize("test_images", [0, 60])
def test_no_effect_is_seldom_told(test_images):
    """In at most 6.4% of studies; 120 of them leave room for chance. A large effect is told."""
    told, _ = share_told(120, effect=0.0, rounds=4, test_images=test_images)
    assert told <= 0.1
    if test_images:
        _, right = share_told(30, effect=2.5, rounds=4, test_images=test_images)
        assert right > 0.6


def test_the_answer_says_what_was_not_compared_for_want_of_time():
    """How many were, and in which budget all are: by the same command, or by a new study."""
    verdict = {"arm": "crt", "is_told": False, "mean": 0.1, "low": None, "high": None}
    verdict |= {"decided_on": "held-out images", "reason": ""}
    result = {"verdict": verdict, "question": "balanced_accuracy", "settled": {}, "rounds": 1}
    assert study_sentence(result).startswith("Use softmax: no loss shows a clear difference")
    assert study_sentence(result).endswith("images (one round cannot tell that from chance).")
    short = {"losses": ["vs", "lws"], "of": 4, "budget": 1740.0, "continues": True}
    said = study_sentence(result | {"short_of_time": short})
    assert said.startswith("Use softmax: none of the 2 losses that were compared shows a clear ")
    assert said.endswith(
        " Only 2 of 4 losses were compared, for want of time: the same command with --budget 29m "
        "compares all."
    )
    short |= {"losses": ["vs", "lws", "marc"], "continues": False}
    said = study_sentence(result | {"short_of_time": short})
    assert "the one loss that was compared does not show a clear difference from it" in said
    assert said.endswith("time: a new study, with --budget 29m and another --out, compares all.")
    verdict |= {"is_told": True, "low": 0.05, "high": 0.15}
    rows = [{"name": "softmax"}, {"name": "crt", "difference": 0.1}]
    said = study_sentence(result | {"short_of_time": short, "held_out": rows})
    assert said.startswith("Use crt: ")
    assert " Only 1 of 4 losses was compared" in said


def test_the_budget_in_which_all_can_race_by_hand():
    """Two of six took 20 s after 30 s: the other four take 40 s more, and 45% of it is the race's.

    With as few folds as here the trainings of a round need less than that.
    """
    plan = StudyPlan(2, 3, (), 2, 8.0, 100.0)
    state = StudyState({}, [], plan, race={"softmax": 0.0, "vs": 0.0, "crt": 0.1})
    state.race_begun, state.race_seconds, state.spent = 30.0, 20.0, 50.0
    # (30 + 20 + 40) / 0.45 = 200 s, and a tenth more: 220 s; 50 + 40 + 40 are less
    assert study_race.budget_for_all(state, 4) == 240.0
    state.spent = 200.0  # 6 trainings of 5 s and one of 10: (200 + 40 + 40) / 0.94 = 298 s; 328
    assert study_race.budget_for_all(state, 4) == 360.0


def test_losses_without_time_race_in_a_larger_budget(tmp_path, monkeypatch, capsys):
    """They are one line and no warning; no look must have been at the others."""
    monkeypatch.chdir(tmp_path)
    few_candidates(monkeypatch)
    monkeypatch.setattr(study_plan, "MOST_ROUNDS", 2)
    photos(tmp_path / "photos", test=0)
    file = tmp_path / "runs" / "study-photos" / "study.json"
    flags = FLAGS.replace("--rounds 2+3", "").replace("--quiet", "").split()

    def ended(budget):
        assert main(["study", "photos", *flags, "--budget", budget]) == 0
        return json.loads(file.read_text()), capsys.readouterr()

    with monkeypatch.context() as patch:
        patch.setattr(study_race, "RACE", 1e-9)
        state, said = ended("1h")
    short = state["result"]["short_of_time"]
    assert short["losses"] == list(state["result"]["dropped"])
    assert (len(state["race"]), len(short["losses"]), short["of"]) == (3, 2, 4)
    assert said.err.count("the race had no time for") == 1
    warned = [line for line in said.err.splitlines() if "WARNING" in line]
    assert all("few images to train" in line for line in warned)
    assert "Only 2 of 4 losses were compared" in " ".join(said.out.split())
    state, said = ended("2h")
    assert len(state["race"]) == 5
    assert state["result"]["short_of_time"] is None
    assert state["result"]["dropped"] == {}
    assert {*state["arms"]} <= {*state["race"]} - {"softmax"}


def test_no_other_losses_race_after_a_look():
    """Which ones go on must not follow from what was told."""
    plan = StudyPlan(2, 5, (3, 5), 2, 8.0, 100.0)
    for rounds, again in ((2, None), (3, ["vs"])):
        verdict = {"decided_on": "held-out images"}
        state = StudyState({}, [], plan, arms=["vs"], race={"vs": 0.1, "softmax": 0.0})
        state.dropped = {"crt": study_race.NO_TIME}
        state.result = {"rounds": rounds, "ended": "the budget", "verdict": verdict}
        study_race.race_again(state)
        assert state.arms == again


def test_the_level_is_for_all_that_raced_where_they_raced_on_what_decides():
    """Ten that raced share it, however many went on."""
    one = simulated(np.random.default_rng(3), effect=0.0, rounds=1, test_images=0)
    one.run()
    assert len(one.state.arms) == 2
    assert one.family == 10


def test_test_images_that_cannot_tell_are_said_to_be_so():
    """With the reason, and softmax is the answer."""
    verdict = {"arm": "crt", "is_told": False, "mean": 0.0, "low": None, "high": None}
    verdict |= {"decided_on": "test images", "reason": "the test images are one of each class"}
    text = study_sentence({"verdict": verdict, "question": "balanced_accuracy"})
    assert text == (
        "Use softmax: the test images cannot decide whether crt beats it (the test images are one "
        "of each class)."
    )


def test_what_looks_told_and_is_not_is_explained():
    """An interval above 0 where several losses share the level, and a verdict of rounds alone."""
    verdict = {"arm": "crt", "is_told": False, "mean": 0.03, "low": 0.01, "high": 0.05}
    verdict |= {"decided_on": "held-out images", "reason": ""}
    result = {"verdict": verdict, "question": "balanced_accuracy", "settled": {}}
    assert "(the level of 5% is for all looks and losses together)" in study_sentence(result)
    result["settled"] = {"crt": "better"}
    verdict |= {"decided_on": "test images", "low": -0.01}
    assert "(the difference is clear on held-out images alone" in study_sentence(result)
    result["settled"] = {}
    assert "(" not in study_sentence(result)
    result["verdict"] |= {"is_told": True}
    rows = [{"name": "softmax"}, {"name": "crt", "difference": 0.03}]
    assert study_sentence(result | {"held_out": rows}).endswith("5.0].")
    rows.append({"name": "vs", "difference": 0.04})
    assert study_sentence(result | {"held_out": rows}).endswith(
        "5.0]. vs is further ahead on held-out images, without a clear difference."
    )
