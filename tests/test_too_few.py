"""A run says in a line which classes have too few images to be learned or to be judged."""

from pathlib import Path

import pytest

from lmsm_cli.config import Config
from lmsm_cli.data.splits import load_data
from lmsm_cli.data.too_few import too_few_text
from tests.conftest import SilentDisplay
from tests.test_layout import fill


def test_the_rarest_classes_are_named_with_their_counts():
    """The first three, and how many more; a class with enough of both is none of them."""
    counts = {"ant": (3, 1), "bee": (90, 30), "cat": (4, 1), "dog": (9, 4), "eel": (4, 9)}
    text = too_few_text(Path("my photos"), counts, (5, 5))
    assert text == (
        "few images to train and to test on: ant (3 and 1), cat (4 and 1), eel (4 and 9) and "
        "1 more; little is sure of them, and `lmsm data 'my photos'` says what is missing"
    )
    assert too_few_text(Path("p"), {"ant": (5, 5), "bee": (5, 0)}, (5, 5)) is None
    assert "dog" not in too_few_text(Path("p"), counts, (500, 2))


@pytest.mark.parametrize(
    ("choices", "is_told"),
    [
        ({}, True),
        ({"folds": 2, "fold": 0}, True),
        ({"images_per_class": 30}, True),
        ({"imbalance": "exp", "factor": 0.1, "test_images_per_class": 1}, False),
        ({"images_per_class": 4, "test_images_per_class": 1, "validation": 0}, False),
    ],
)
def test_a_training_says_so_before_it_starts(tmp_path, choices, is_told):
    """Not where somebody has made the classes rare."""
    fill(tmp_path, {"ant": 40, "bee": 6})
    given = {"dataset": "folder", "data_dir": tmp_path, "image_size": 8, "batch_size": 4}
    display = SilentDisplay()
    load_data(Config.model_validate(given | choices), display)
    (text,) = display.warned if is_told else ("few images",)
    assert text.startswith("few images")
    assert len(display.warned) == is_told
