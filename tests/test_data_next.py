"""The data check names the command that fits what it found; each can be typed as it stands."""

import shlex

import pytest

from lmsm_cli.reports.data_findings import Finding
from lmsm_cli.reports.data_next import Commands, next_steps
from tests.test_data_findings import ENOUGH, check_of, folder

PHOTOS = Commands(
    ["lmsm", "data", "my photos"],
    ["lmsm", "train", "--dataset", "my photos"],
    ["lmsm", "study", "my photos"],
)


def after(rows, *findings, commands=PHOTOS, **facts):
    """Return what comes next for classes in folders, a line each."""
    return list(map(str, next_steps(check_of(rows, facts=folder(**facts)), findings, commands)))


def test_where_nothing_is_missing_a_study_or_one_training_follows():
    """The commonest class has ten times the images of the rarest: a loss for rare ones."""
    assert after(ENOUGH) == [
        "Next, to find the loss and train the model: lmsm study 'my photos'",
        "Next, to train one net: lmsm train --dataset 'my photos' --loss balanced-softmax",
    ]
    even = {"ant": (None, 40, 4, 30), "bee": (None, 30, 4, 30)}
    assert after(even)[1] == "Next, to train one net: lmsm train --dataset 'my photos'"


def test_classes_with_few_images_are_named_first_and_a_study_gets_no_folds():
    """Folds are for a training; a class of one image makes a study impossible."""
    first, study, train = after(ENOUGH | {"dog": ("few", 3, 0, 1)}, is_shared_out=True)
    assert first == "Next, if you can: add images of dog"
    assert study.endswith("lmsm study 'my photos'")
    assert train.endswith("lmsm train --dataset 'my photos' --loss balanced-softmax --folds 5")
    first, train = after(ENOUGH | {"dog": ("few", 1, 0, 0)}, is_shared_out=True)
    assert train.startswith("Next, without a study, which needs 2 images of dog: lmsm train ")


@pytest.mark.parametrize(
    ("faults", "command"),
    [
        (["x; go on without: --skip-unreadable"], [*PHOTOS.train, "--skip-unreadable"]),
        (["x; go on without: --skip-unreadable", "there is no test/"], PHOTOS.check),
    ],
)
def test_what_forbids_a_training_is_mended_or_skipped(faults, command):
    """The flag is named where it is enough."""
    (text,) = after(ENOUGH, *(Finding("mend", fault) for fault in faults))
    assert text.startswith("Next, mend that, ")
    assert text.endswith(f": {shlex.join(command)}")


def test_a_check_with_flags_that_no_study_has_is_followed_by_a_training():
    """As with --folds: who gives them means a training."""
    no_study = Commands(PHOTOS.check, [*PHOTOS.train, "--folds", "5"], None)
    words = "--dataset 'my photos' --folds 5 --loss balanced-softmax"
    assert after(ENOUGH, commands=no_study) == [f"Next, to train one net: lmsm train {words}"]
