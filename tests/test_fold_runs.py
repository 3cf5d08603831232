"""Folds through the command line: planned, trained, resumed, paired across losses and compared."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.splits import load_data, load_test
from lmsm_cli.errors import DataError, LmsmError
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs.documents import Status
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import OncePerPlan, Step
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, noise, printed_json, save, write_class_folders

FLAGS = (
    "--dataset folder --data-dir photos --image-size 8 --model paper-mnist --epochs 1 "
    "--batch-size 4 --validation 0.25 --threads 1 --device cpu --precision fp32 --quiet"
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of two losses over two folds and two seeds."""
    root = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_class_folders(root / "photos", ("ant", "bee"), 8, size=8)
        save(root / "photos" / "lynx" / "only.png", noise(3, (8, 8)))
        save(root / "photos" / "lynx2" / "a.png", noise(4, (8, 8)))
        save(root / "photos" / "lynx2" / "b.png", noise(5, (8, 8)))
        assert sweep() == 0
    return root


def sweep(*more):
    """Run the sweep in the current folder."""
    grid = ("--grid", "loss=softmax,ldam", "--seeds", "2", "--folds", "2", "--out", "runs")
    return main(["sweep", *grid, *FLAGS.split(), *more])


def runs_of(root):
    """Return the runs by loss, seed and fold, and what each was tested on."""
    found = {}
    for path in sorted((root / "runs").glob("*-f?*")):
        config = read_run(path).config
        key = (config["loss"].partition(":")[0], config["seed"], config["fold"])
        found[key] = (path, config, read_images_record(path))
    return found


def names_of(record, part):
    """Return the files of a part of a run's images."""
    return sorted(record.of(part).places.tolist())


def test_each_image_is_tested_once_in_a_repeat_and_the_lonely_one_never(swept):
    """A config names its fold and its division, which is the seed's own, the same for each loss."""
    runs = runs_of(swept)
    assert len(runs) == 8
    files = sorted(
        str(path.relative_to(swept / "photos")).encode()
        for path in (swept / "photos").rglob("*.png")
    )
    for loss in ("softmax", "ldam"):
        for seed in range(2):
            pair = [runs[loss, seed, fold] for fold in range(2)]
            tested = [name for *_, record in pair for name in names_of(record, "test")]
            assert sorted(tested) == [name for name in files if name != b"lynx/only.png"]
            assert all(config["split_seed"] == seed for _, config, _ in pair)
            assert all(b"lynx/only.png" in names_of(record, "training") for *_, record in pair)
    for seed in range(2):
        for fold in range(2):
            records = [runs[loss, seed, fold][2] for loss in ("softmax", "ldam")]
            assert records[0].all_digests == records[1].all_digests
    by_seed = [names_of(runs["ldam", seed, 0][2], "test") for seed in range(2)]
    assert by_seed[0] != by_seed[1]


def test_the_same_command_finds_its_folds_and_does_only_what_is_missing(swept, monkeypatch, capsys):
    """One fold is gone and one was killed: one is trained anew, one goes on, six are kept."""
    monkeypatch.chdir(swept)
    runs = runs_of(swept)
    gone, killed = runs["softmax", 0, 1][0], runs["ldam", 1, 0][0]
    before = {path: (path / "scores.json").stat().st_mtime_ns for path, *_ in runs.values()}
    scores = json.loads((killed / "scores.json").read_text())
    gone.rename(swept / "gone")
    finished = time.time_ns()
    (killed / "scores.json").unlink()
    RunFolder(killed).write_status("interrupted", "SIGKILL", 137)
    capsys.readouterr()
    assert sweep("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(group["label"], group["seeds"]) for group in found["groups"]] == [
        ("softmax", [0, 1]),
        ("ldam", [0, 1]),
    ]
    again = runs_of(swept)
    assert len(again) == 8
    kept = {path for path in before if path not in (gone, killed)}
    assert all((path / "scores.json").stat().st_mtime_ns == before[path] for path in kept)
    anew = again["softmax", 0, 1][0] / "scores.json"
    assert anew.stat().st_mtime_ns >= finished
    assert again["ldam", 1, 0][0] == killed
    assert Status(state="completed").state == read_run(killed).state
    assert json.loads((killed / "scores.json").read_text())["confusion"] == scores["confusion"]


def test_the_comparison_is_that_of_pooled_repeats(swept, monkeypatch, capsys):
    """Its tables have 19 test images but the lonely class none, and the answer stands last."""
    monkeypatch.chdir(swept)
    capsys.readouterr()
    found = printed_json(capsys, "compare", "runs")
    group = found["groups"][0]
    tested = {one["name"]: one["test_count"] for one in group["per_class"]}
    assert tested == {"ant": 8, "bee": 8, "lynx": 0, "lynx2": 2}
    right = 0
    for fold in range(2):
        path = runs_of(swept)["softmax", 0, fold][0]
        confusion = np.array(json.loads((path / "scores.json").read_text())["confusion"])
        right += np.trace(confusion)
    first = group["seeds"].index(0)
    assert first == 0
    pooled = [group["metrics"]["accuracy"]["mean"] * 2 * 18 - right]
    assert pooled[0] == pytest.approx(round(pooled[0]))  # the other seed's right answers
    assert any("share training images" in note for note in found["notes"])


def test_train_takes_folds_and_ends_with_their_comparison(tmp_path, monkeypatch, capsys):
    """`train --folds` is a plan of one combination; --fold is a single run, named by its config."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "photos", ("ant", "bee"), 6, size=8)
    save(tmp_path / "photos" / "lynx" / "only.png", noise(3, (8, 8)))
    words = ["train", *FLAGS.split(), "--folds", "2"]
    assert main([*words, "--fold", "1", "--json"]) == 0
    (single,) = (tmp_path / "runs").iterdir()
    assert single.name.endswith("-s42-f1")
    capsys.readouterr()
    assert main(words) == 0
    printed, said = capsys.readouterr()
    lonely = "trained on and never tested: 'lynx' (1 image)"
    assert said.count(lonely) == 1  # though a run says it, and the look at the one that is there
    logs = [path.read_text() for path in (tmp_path / "runs").glob("*/train.log")]
    assert [text.count(lonely) for text in logs] == [1, 1]
    assert "pooled over 2 folds" in printed
    assert "2 run folders in runs" in printed
    assert single in (runs := set((tmp_path / "runs").glob("*-s42-f?")))
    assert len(runs) == 2
    assert main(["eval", str(single), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == read_run(single).scores.accuracy


def test_runs_of_a_plan_share_what_they_say_before_they_train_alone():
    """A collapse is told of each run, in whatever words; the data once; both again elsewhere."""
    display, said = SilentDisplay(), set()
    step = Step(1, 1, 4, 8, None, None, 0.1)
    for _ in range(2):
        run = OncePerPlan(display, said)
        run.warning("one image of lynx")
        run.step(step)
        run.warning("Epoch 1: collapsed")
    assert display.warned == ["one image of lynx", "Epoch 1: collapsed", "Epoch 1: collapsed"]
    OncePerPlan(display, set()).warning("one image of lynx")
    assert display.warned[3:] == ["one image of lynx"]


def config_of(tmp_path, **flags):
    """Return a config on the photos of a folder."""
    usual = {"dataset": "folder", "data_dir": tmp_path / "photos", "image_size": 8, "batch_size": 2}
    return resolve([Layer.of_flags(usual | flags)], check_loss).config


def grouped_photos(tmp_path, subjects=6, each=3):
    """Write photos of subjects, `subject_number.png`, of each class."""
    for label, name in enumerate(("ant", "bee")):
        for number in range(subjects * each):
            file = f"{name[0]}{number // each}_{number}.png"
            save(tmp_path / "photos" / name / file, noise(100 * label + number, (8, 8)))


@pytest.mark.parametrize("flags", [{}, {"test_share": 0.4}, {"folds": 3, "fold": 1}])
def test_a_subject_is_in_one_part_alone(tmp_path, flags):
    """Neither the test nor the validation has pictures of a subject that is trained on."""
    grouped_photos(tmp_path)
    pattern = r"([^/]*)_"
    data = load_data(config_of(tmp_path, group_pattern=pattern, **flags), SilentDisplay())
    sides = [{name.split(b"_")[0] for name in part.places} for part in data.parts.values()]
    assert len(sides) == 3
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12
    assert sum(map(len, data.parts.values())) == 36
    again = load_test(config_of(tmp_path, group_pattern=pattern, **flags), SilentDisplay())
    assert again.places.tolist() == data.test.places.tolist()


def test_a_share_is_of_each_class(tmp_path):
    """Of 18 images 0.4 are 7.2, so 7."""
    grouped_photos(tmp_path)
    data = load_data(config_of(tmp_path, test_share=0.4), SilentDisplay())
    assert data.test.counts() == [7, 7]


def test_what_is_never_tested_is_told(tmp_path):
    """With the number of its images; the training goes on."""
    grouped_photos(tmp_path)
    save(tmp_path / "photos" / "cat" / "c_0.png", noise(999, (8, 8)))
    display = SilentDisplay()
    data = load_data(config_of(tmp_path), display)
    assert data.test.counts()[2] == 0
    assert any("never tested: 'cat' (1 image)" in text for text in display.warned)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"folds": 4, "fold": 0}, "--folds 4 divides images that have no test images of their own"),
        ({"test_share": 0.3}, "--test-share 0.3 divides images"),
        ({"group_pattern": "/(.)"}, "groups? with images for train and for test: 'a'"),
    ],
)
def test_a_given_test_is_not_divided(tmp_path, flags, said):
    """Images of one's own with a test/ are refused; so is a subject on both sides of it."""
    for part in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            for place in range(6):
                file = tmp_path / "photos" / part / name / f"a{place}.png"
                save(file, noise(hash(part) % 100 + 10 * number + place, (8, 8)))
    with pytest.raises(DataError, match=said):
        load_data(config_of(tmp_path, **flags), SilentDisplay())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dataset": "digits", "folds": 3}, "has no effect with dataset 'digits', which has test"),
        ({"dataset": "digits", "test_share": 0.3}, "no effect with dataset 'digits'"),
        ({"dataset": "digits", "group_pattern": "(.)"}, "no effect with dataset 'digits'"),
        ({"fold": 0}, "fold 0 has no effect without folds"),
        ({"folds": 3, "fold": 3}, "fold 3 is none of 3: take 0 to 2"),
        ({"folds": 3, "test_share": 0.3}, "no effect with folds 3"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"test_share": 1}, "less than 1"),
        ({"group_pattern": "("}, "is no regular expression"),
        ({"group_pattern": "a_"}, "has no group in parentheses"),
    ],
)
def test_choices_that_cannot_be_are_refused(tmp_path, flags, said):
    """Before any data is read."""
    with pytest.raises(LmsmError, match=said):
        config_of(tmp_path, **flags)


def test_one_run_needs_one_fold(tmp_path):
    """Where a command does a single run, it says which folds there are."""
    with pytest.raises(LmsmError, match="give --fold, 0 to 4"):
        load_data(config_of(tmp_path, folds=5), SilentDisplay())


def test_the_division_is_the_seeds_own_unless_it_is_named():
    """And without folds the validation images stay those of one choice for all seeds."""
    values = {"dataset": "folder", "seed": 7}
    assert Config.model_validate(values | {"folds": 3}).split_seed == 7
    assert Config.model_validate(values | {"folds": 3, "split_seed": 2}).split_seed == 2
    assert Config.model_validate(values).split_seed == 0
    assert Config.model_validate({"dataset": "folder", "folds": 3}).split_seed == Config().seed


def test_a_search_needs_one_fold(tmp_path, monkeypatch, capsys):
    """It would choose by a mean over nets of other divisions."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    words = ["--trials", "2", "--grid", "lr=0.1..0.2", "--folds", "3"]
    assert main(["sweep", *FLAGS.split(), *words]) == 2
    assert "a search tries its choices on one of them; give --fold" in capsys.readouterr().err


def test_a_fold_has_no_defaults_of_its_own(tmp_path, monkeypatch):
    """Of 6 and 13 images a fold may have 4 and 7, no long tail; the loss is that of the whole."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "photos", ("ant",), 6, size=8)
    write_class_folders(tmp_path / "photos", ("bee",), 13, size=8, seed=1)
    flags = {"loss": "lsoftmax", "model": "paper-mnist", "epochs": 1, "batch_size": 4}
    flags |= {"threads": 1, "device": "cpu", "folds": 2, "validation": 0.25}
    specs, counts = set(), []
    for fold in range(2):
        config = config_of(tmp_path, fold=fold, **flags)
        path = start_run(config, SilentDisplay(), with_plots=False).path
        record = read_run(path)
        specs.add(record.config["loss"])
        counts.append([row.train_count for row in record.scores.per_class])
    assert len({second > 2 * first for first, second in counts}) == 2, counts
    (spec,) = specs
    assert "margin=tail" in spec
