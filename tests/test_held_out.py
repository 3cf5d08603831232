"""Test images held out of the training images, while the data set's own test stays unread."""

import json

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.splits import load_data, load_test, load_training, planned_counts
from lmsm_cli.errors import LmsmError
from lmsm_cli.runs.images import read_images_record
from tests.conftest import SilentDisplay, noise, save


def digits(**choices):
    """Return a config of long-tailed digits."""
    usual = {"dataset": "digits", "imbalance": "exp", "factor": 0.05, "model": "paper-mnist"}
    return Config.model_validate(usual | choices)


def keys_of(images):
    """Return the identities of images, sorted."""
    return sorted(
        (label, digest.tobytes())
        for label, digest in zip(images.labels.tolist(), images.digests, strict=True)
    )


def photos(folder):
    """Write two classes of three subjects, with a test of their own."""
    for part, first in (("train", 0), ("test", 50)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(9 if part == "train" else 4):
                file = folder / part / name / f"{part}{name}{number // 3}_{number}.png"
                save(file, noise(1000 * label + first + number, (8, 8)))
    return folder


def test_the_folds_of_long_tailed_training_images_test_each_of_them_once():
    """All that the profile leaves is tested in one fold; nothing is of the data set's own test."""
    usual = load_data(digits(validation=0), SilentDisplay())
    config = digits(validation=0.2, test_from="training", folds=3)
    folds = [
        load_data(config.model_copy(update={"fold": fold}), SilentDisplay()) for fold in range(3)
    ]
    tested = sorted(key for fold in folds for key in keys_of(fold.test))
    assert tested == keys_of(usual.training)
    assert not set(tested) & set(keys_of(usual.test))
    for fold in folds:
        parts = [keys_of(part) for part in (fold.training, fold.validation, fold.test)]
        assert sorted(key for part in parts for key in part) == tested
        assert fold.usual_counts == usual.train_counts
    assert len({fold.divided for fold in folds}) == 1


def test_a_share_is_held_out_of_each_class_and_is_the_same_for_each_seed():
    """It is a fifth, rounded, of what the profile leaves."""
    one = load_data(digits(test_from="training", seed=1), SilentDisplay())
    other = load_data(digits(test_from="training", seed=2), SilentDisplay())
    whole = load_data(digits(validation=0), SilentDisplay()).train_counts
    assert one.test.counts() == [max(1, round(0.2 * count)) for count in whole]
    assert np.array_equal(one.test.digests, other.test.digests)
    assert keys_of(load_test(digits(test_from="training"), SilentDisplay())) == keys_of(one.test)
    training, validation = load_training(digits(test_from="training"), SilentDisplay())
    assert (keys_of(training), keys_of(validation)) == (
        keys_of(one.training),
        keys_of(one.validation),
    )


def test_counts_are_planned_as_they_come():
    """For published data they are known before any is read."""
    config = Config.model_validate({"imbalance": "exp", "test_from": "training", "validation": 0})
    planned = planned_counts(config)
    whole = planned_counts(config.model_copy(update={"test_from": "test"}))
    assert planned == [count - round(0.2 * count) for count in whole]


def test_subjects_stay_on_one_side_of_held_out_images(tmp_path):
    """Of a folder with a test of its own, which is not touched."""
    where = photos(tmp_path / "photos")
    choices = {"dataset": "folder", "data_dir": where, "image_size": 8, "batch_size": 4}
    config = Config.model_validate(
        choices | {"test_from": "training", "group_pattern": "([^/]*)_", "validation": 0}
    )
    data = load_data(config, SilentDisplay())
    sides = [{name.split(b"_")[0] for name in part.places} for part in data.parts.values()]
    assert len(sides[0] & sides[1]) == 0
    assert all(name.startswith(b"train/") for part in data.parts.values() for name in part.places)
    assert data.test.counts() == [3, 3]


@pytest.mark.parametrize("place", ["digits", "folder"])
def test_a_run_on_held_out_images_is_scored_again_and_goes_on(tmp_path, monkeypatch, capsys, place):
    """`eval` scores those images, `resume` finds them; what the run was is in its config."""
    monkeypatch.chdir(tmp_path)
    data = ["--dataset", "digits", "--imbalance", "exp", "--factor", "0.05"]
    if place == "folder":
        data = ["--dataset", str(photos(tmp_path / "photos")), "--image-size", "8"]
    flags = "--test-from training --folds 3 --fold 1 --model paper-mnist --epochs 1 --batch-size 4"
    usual = "--device cpu --precision fp32 --threads 1 --quiet"
    assert main(["train", *data, *flags.split(), *usual.split()]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    scores = json.loads((run / "scores.json").read_text())
    tested = read_images_record(run).of("test")
    assert len(tested) == sum(row["test_count"] for row in scores["per_class"])
    capsys.readouterr()
    assert main(["eval", str(run), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == scores["confusion"]
    assert main(["resume", str(run), "--epochs", "2", "--quiet"]) == 0
    again = read_images_record(run).of("test")
    assert again.digests.tolist() == tested.digests.tolist()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"folds": 3}, "folds 3 has no effect with dataset 'digits'.* or test_from 'training'"),
        ({"test_share": 0.3}, "test_share 0.3 has no effect with dataset 'digits'"),
        ({"test_from": "validation"}, "test_from"),
    ],
)
def test_divisions_without_held_out_images_are_refused(flags, said):
    """With the way out."""
    layer = Layer(flags | {"dataset": "digits"}, dict.fromkeys([*flags, "dataset"], "a test"))
    with pytest.raises(LmsmError, match=said):
        resolve([layer])
