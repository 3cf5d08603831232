"""What a config says in words, and that page, plot and dry run say it."""

import pytest

from lmsm_cli.config import Config, dump
from lmsm_cli.config.in_words import augmentation_text, history_title


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({}, "none"),
        ({"augment": "trivial"}, "trivial"),
        ({"mixup": 0.2}, "mixup 0.2"),
        ({"augment": "photo", "mixup": 1, "cutmix": 0.5}, "photo, mixup 1, cutmix 0.5"),
    ],
)
def test_an_augmentation_is_named_with_its_strengths(choices, text):
    """All changes in a line; of a run from before mixup too."""
    assert augmentation_text(dump(Config.model_validate(choices))) == text
    assert augmentation_text({"augment": "flip"}) == "flip"


def test_curves_say_what_their_accuracy_counts():
    """Without augmentation nothing needs to be said; of mixed images, which label counts."""
    assert history_title(dump(Config())) == ""
    assert history_title({"augment": "flip"}) == "training images: flip"
    mixed = history_title({"augment": "flip", "cutmix": 1.0})
    assert mixed == (
        "training images: flip, cutmix 1; of two labels, that of the larger share counts"
    )
