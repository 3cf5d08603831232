"""What data_findings.py promises: what is too little is told, by numbers worked by hand."""

import pytest

from lmsm_cli.config import Config
from lmsm_cli.data.check import ClassImages, DataCheck, FolderFacts
from lmsm_cli.data.headers import Shapes, Spread
from lmsm_cli.data.identity import PARTS, Copies
from lmsm_cli.reports.data_findings import (
    can_start,
    conclusion_of,
    copies_by_kind,
    findings_of,
)
from lmsm_cli.reports.tables_data import data_tables
from tests.conftest import words

LONG = {"dataset": "folder", "epochs": 500}


def folder(**facts):
    """Return the facts of a folder without a fault."""
    known = {"unreadable": {}, "left_out": {}, "empty": [], "lonely": [], "strange": []}
    known |= {"shapes": None, "look_alikes": [], "is_shared_out": False}
    return FolderFacts(**known | facts)


def check_of(rows, *, facts=None, **more):
    """Return a check of classes: name -> (group, training, validation, test)."""
    classes = tuple(
        ClassImages(name, group, dict(zip(PARTS, counts, strict=True)))
        for name, (group, *counts) in rows.items()
    )
    known = {"copies": [], "alike": [], "faults": []} | more
    return DataCheck("folder", None, classes, folder=facts or folder(), **known)


ENOUGH = {"ant": ("many", 90, 9, 30), "bee": ("medium", 40, 4, 30), "cat": ("few", 9, 1, 30)}
FEW = ENOUGH | {"cat": ("few", 9, 1, 7)}


def told(check, **choices):
    """Return the findings as one text, a line for each."""
    findings = findings_of(check, Config.model_validate(LONG | choices))
    return "\n".join(f"{one.level} {one.text}" for one in findings)


def test_data_that_is_enough_gives_no_finding():
    """Twenty test images of every group and one of every class say nothing but that it is fit."""
    check = check_of(ENOUGH)
    config = Config.model_validate(LONG)
    assert findings_of(check, config) == []
    assert conclusion_of(check, []) == (
        "Fit for training: 139 training images, 14 validation and 90 test images of 3 classes."
    )
    assert can_start([])


@pytest.mark.parametrize(
    ("shared_out", "choices", "advice"),
    [
        (
            True,
            {},
            "add about 65 images of cat: a fifth becomes the test; "
            "`lmsm train --folds 5` or a study tests all images",
        ),
        (False, {}, "add 13 test images of cat"),
        (False, {"test_images_per_class": 7}, "allow more of each class: --test-images-per-class"),
    ],
)
def test_a_group_below_twenty_test_images_is_told_how_to_get_them(shared_out, choices, advice):
    """It has 7 of 20: 13 more, or five times as many where a fifth becomes the test."""
    check = check_of(FEW, facts=folder(is_shared_out=shared_out))
    wanted = f"weak 20 test images are needed for a verdict: few has 7; {advice}"
    assert wanted in told(check, **choices).splitlines()


def test_folds_are_named_as_many_as_there_can_be():
    """No more than the largest class has images; a class of one is tested in none of them."""
    shared = folder(is_shared_out=True)
    rows = {"ant": ("many", 1, 0, 1), "bee": ("few", 1, 0, 0)}
    text = told(check_of(rows, facts=shared))
    assert "add images, or test all of them by `lmsm train --folds 2` or a study" in text
    assert "few has 0; add about 100 images of bee: a fifth becomes the test\n" in f"{text}\n"
    assert "--folds" not in told(check_of({"bee": ("few", 1, 0, 0)}, facts=shared))


def test_classes_with_one_test_image_or_none_are_named():
    """Of one nothing can be said, of none no score is made; one without validation is noted."""
    rows = ENOUGH | {"dog": ("few", 4, 0, 1), "eel": ("few", 4, 1, 0)}
    text = told(check_of(rows))
    assert "weak dog has 5 images: 1 is tested, so nothing can be said of dog; add images" in text
    assert "weak no image of eel is tested; add test images" in text
    assert "note no image of dog is held out for validation" in text


def test_equal_classes_are_judged_as_a_whole():
    """Without groups all test images together are too few or enough."""
    rows = {"ant": (None, 40, 0, 9), "bee": (None, 40, 0, 10)}
    assert "the whole test has 19" in told(check_of(rows))
    assert told(check_of(rows | {"bee": (None, 40, 0, 11)})) == ""


def test_a_short_training_is_told_with_the_epochs_that_are_enough():
    """139 images in batches of 32 are 5 steps: 100 epochs make 500, and 99 are too few."""
    text = told(check_of(ENOUGH), epochs=99, batch_size=32)
    assert text == (
        "note 99 epochs of 5 steps are few for a comparison; --epochs 100 makes 500 steps"
    )
    assert told(check_of(ENOUGH), epochs=100, batch_size=32) == ""


def test_pictures_that_lose_much_are_told_with_a_larger_size():
    """Of 800 x 600 pictures 32 pixels keep little; 400 pixels would be no reason to speak."""
    shapes = Shapes(
        Spread(20, 800, 900), Spread(20, 600, 700), Spread(20, 600, 700), 3, 5, {"RGB": 9}, {}
    )
    check = check_of(ENOUGH, facts=folder(shapes=shapes))
    text = told(check)
    assert "images of 800 x 600 (the medians) are brought to 32 x 32; --image-size 224" in text
    assert "3 images smaller than 32 x 32 are enlarged" in text
    assert "5 images not square: the edges are cut off; --resize pad keeps them" in text
    assert told(check, image_size=400, resize="pad") == (
        "note 3 images smaller than 400 x 400 are enlarged"
    )


def test_unreadable_files_forbid_a_training_unless_they_are_skipped():
    """Without --skip-unreadable nothing can start, and the sentence says what to mend first."""
    check = check_of(ENOUGH, facts=folder(unreadable={"a.png": "is empty", "b.png": "is cut"}))
    config = Config.model_validate(LONG)
    findings = findings_of(check, config)
    assert not can_start(findings)
    assert conclusion_of(check, findings) == (
        "No training can start yet. Mend first: 2 image files cannot be read."
    )
    skipped = findings_of(check, config.model_copy(update={"skip_unreadable": True}))
    assert can_start(skipped)
    assert "Better mend first: 2 image files cannot be read." in conclusion_of(check, skipped)


def test_copies_are_told_by_what_is_wrong_with_them():
    """A picture of two labels is no leak by itself; a copy in its class is only noted."""
    labels = Copies(("a", "b"), (0, 1), ("training", "training"))
    leak = Copies(("c", "d"), (0, 0), ("training", "test"))
    twice = Copies(("e", "f"), (1, 1), ("test", "test"))
    check = check_of(ENOUGH, copies=[labels, leak, twice], alike=None)
    kinds = copies_by_kind(check)
    assert kinds["two_classes"] == [labels]
    assert kinds["two_parts"] == [leak]
    assert kinds["same_class"] == [leak, twice]
    text = told(check)
    assert "weak 1 picture stands in two classes" in text
    assert "weak 1 picture stands on two sides of the split, which flatters scores" in text
    assert "note 2 pictures stand in a class more than once" in text
    assert "not looked for: more than 20,000" in text


def test_of_many_classes_the_table_shows_both_ends():
    """Of 100 classes the 20 commonest and 20 rarest are rows, with the sum of all below."""
    rows = {f"c{number:03}": ("many", 200 - number, 0, 1) for number in range(100)}
    table = next(iter(data_tables(check_of(rows))))
    names = [str(cell) for cell in table.columns[0].cells]
    assert names == [f"c{n:03}" for n in (*range(20), *range(80, 100))] + words("all")
    assert str(list(table.columns[2].cells)[-1]) == f"{sum(range(101, 201)):,}"
