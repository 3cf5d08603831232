"""What the data of a study allows, before its first training."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmsm_cli.config import Config, dump
from lmsm_cli.data.splits import load_data
from lmsm_cli.errors import DataError
from lmsm_cli.runs.images import write_images
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.shot_groups import shot_groups
from lmsm_cli.sweeps.study_plan import Rounds, StudyPlan, StudyState, plan_by_rounds
from lmsm_cli.sweeps.study_start import Wanted, _base, begin, checked_images, trained_counts
from tests.conftest import noise, save


@pytest.mark.parametrize(
    ("most", "test", "folds", "counts"),
    [
        # By hand: five folds train on 72, 40 and 32, and a tenth of these is for validation.
        (90, 0, 5, [65, 36, 29]),
        # 27, 22.5 and 18 by halves, but the model is trained on 43, 36 and 29: 1.48 times
        (60, 0, 2, None),
        (60, 0, 5, None),
        # 54, 45 and 36 train the model; the rounds have 43, 36 and 29, as above
        (60, 9, 5, None),
        (90, 9, 5, [81, 45, 36]),
    ],
)
def test_classes_are_rare_by_what_trainings_have(tmp_path, most, test, folds, counts):
    """60 images are 1.5 times 40, but by the training images that runs have no class is rare."""
    for part, images in (("train", (most, 50, 40)), ("test", (test,) * 3)):
        for label, number in enumerate(images):
            for place in range(number):
                file = tmp_path / (part if test else "") / f"{label}" / f"{part}-{place}.png"
                save(file, noise(1000 * label + place + 500 * (part == "test"), (4, 4)))
    config = Config(dataset="folder", data_dir=tmp_path, image_size=8, batch_size=8)
    state = StudyState(dump(config), [], StudyPlan(folds, 1, (), 2, None, None))
    found = trained_counts(state, has_test=bool(test))
    assert bool(shot_groups(found)) == bool(counts)
    assert counts is None or np.array_equal(found, counts)


@pytest.mark.parametrize("is_renamed", [True, False])
def test_images_divided_anew_by_their_names_are_told_from_others(tmp_path, is_renamed):
    """A file with another name changes the parts of the same images; one that is gone is others."""
    photos, out = tmp_path / "photos", tmp_path / "study"
    for label, name in enumerate(("ant", "bee")):
        for place in range(10):
            save(photos / name / f"{place}.png", noise(100 * label + place, (8, 8)))
    given = {"image_size": 8, "batch_size": 4, "validation": 0.0}
    config = Config(dataset="folder", data_dir=photos, out=out, **given)
    wanted = Wanted(config, rounds=Rounds.of("1"))
    counts, images = checked_images(config, has_test=False)
    plan = plan_by_rounds(counts, wanted.rounds, 2, has_test=False)
    out.mkdir()
    StudyState(dump(config), [], plan, images).note(out)
    (out / "20261130-study-run").mkdir()
    fold = config.model_copy(update={"folds": 5, "fold": 1})
    write_images(out / "20261130-study-run", load_data(fold, SILENT).record())
    moved = photos / "ant" / "zzz.png" if is_renamed else tmp_path / "0.png"
    (photos / "ant" / "0.png").rename(moved)
    with pytest.raises(DataError) as told:
        begin(wanted, SILENT)
    assert ("some were renamed or moved" in str(told.value)) is is_renamed
    assert ("give the files their names back to continue it" in str(told.value)) is is_renamed
    assert ("a study of other images than there are now" in str(told.value)) is not is_renamed
    moved.rename(photos / "ant" / "0.png")
    assert begin(wanted, SILENT)[1] == {}  # it goes on, and nothing is tried out


@pytest.mark.parametrize(("may_shorten", "epochs"), [(True, 20), (False, 40)])
def test_epochs_that_somebody_asks_for_stay(may_shorten, epochs):
    """A plan with fewer is for whoever asked for none; with all of them it is another study."""
    wanted = Wanted(Config(epochs=40), may_shorten=may_shorten)
    assert _base(wanted, SimpleNamespace(epochs=20, usual_epochs=40))["epochs"] == epochs
