"""What the data of a study allows, before its first training."""

import numpy as np
import pytest

from lmsm_cli.config import Config, dump
from lmsm_cli.shot_groups import shot_groups
from lmsm_cli.sweeps.study_plan import StudyPlan, StudyState
from lmsm_cli.sweeps.study_start import trained_counts
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
