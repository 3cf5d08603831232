"""What pooling.py promises: the folds of a repeat are one run, or are left out by name."""

from dataclasses import replace

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.two_way import two_way
from lmsm_cli.data.identity import split_digest
from lmsm_cli.runs.images import Predictions, write_predictions
from lmsm_cli.scoring import score
from tests.synthetic_runs import images_of, records_in, write_run

CLASSES = ("cat", "dog")


def write_fold(
    out, fold, tested, right, *, whole, folds=2, seed=0, split_seed=None, held=(), **config
):
    """Write the run of a fold; images are numbers, cats the even ones. Return its path.

    Args:
        out: The folder for runs.
        fold, folds: Which of how many.
        tested: The images of the fold, in its order.
        right: Those that the net tells rightly.
        whole: All images.
        held: The validation images.
        seed, split_seed: Of the run, and of its division; the seed's own for None.
        config: Further choices.
    """
    others = [number for number in whole if number not in {*tested, *held}]
    record = images_of(CLASSES, training=others, validation=held, test=tested)
    every = images_of(CLASSES, test=whole)
    record = replace(record, divided=split_digest(CLASSES, every.labels, every.digests))
    labels = record.of("test").labels
    predicted = np.where(np.isin(tested, list(right)), labels, 1 - labels)
    counts = np.bincount(record.of("training").labels, minlength=2).tolist()
    scores = score(CLASSES, labels, predicted, counts).to_json()
    config |= {"dataset": "folder", "imbalance": "none", "folds": folds, "fold": fold}
    config["split_seed"] = seed if split_seed is None else split_seed
    loss = config.setdefault("loss", "softmax")
    path = write_run(
        out,
        f"{loss}-s{seed}-{config['split_seed']}-f{fold}",
        scores=scores | {"checkpoint": "checkpoint.pt"},
        images=record,
        seed=seed,
        **config,
    )
    write_predictions(path, Predictions(labels, predicted, None, None))
    return path


def write_repeat(out, rights, *, seed=0, folds=2, number=60, **more):
    """Write a repeat with a division drawn from its seed; return it, (N,): the fold of each."""
    draws = np.random.default_rng(more.get("split_seed", seed))
    fold_of = draws.permutation(np.arange(number) % folds)
    for fold in range(folds):
        tested = draws.permutation(np.flatnonzero(fold_of == fold)).tolist()
        found = write_fold(
            out, fold, tested, rights, whole=range(number), folds=folds, seed=seed, **more
        )
        assert found.is_dir()
    return fold_of


def test_two_folds_give_one_prediction_for_each_image(tmp_path):
    """By hand: 2 of 2 and 1 of 4 right are 3 of 6, not the mean of 1 and 0.25.

    Cats 0, 2, 4, 6: fold 0 has 0 right, fold 1 has 2 right and 4, 6 wrong: 2 of 4. Dogs 1 and 3:
    1 right, 3 wrong: 1 of 2. Cats trained on are 3 and 1, so 2; dogs 1 and 1.
    """
    whole = (0, 1, 2, 3, 4, 6)
    write_fold(tmp_path, 0, [0, 1], {0, 1}, whole=whole)
    write_fold(tmp_path, 1, [2, 4, 3, 6], {2}, whole=whole)
    (group,) = compare_runs(records_in(tmp_path)).groups
    assert (group.seeds, len(group.runs), len(group.folds[0])) == ((0,), 1, 2)
    assert group.metrics["accuracy"].mean == pytest.approx(0.5)
    assert [one.accuracy.mean for one in group.per_class] == [0.5, 0.5]
    assert [one.test_count for one in group.per_class] == [4, 2]
    assert [one.train_count for one in group.per_class] == [2, 1]


def test_the_interval_is_that_of_the_stacked_answers(tmp_path):
    """Three repeats, each with a division of its own, are three rows of one matrix of answers."""
    draws = np.random.default_rng(5)
    right = {
        loss: draws.random((3, 60)) < share for loss, share in (("softmax", 0.6), ("ldam", 0.8))
    }
    for loss, rows in right.items():
        divisions = [
            write_repeat(tmp_path, set(np.flatnonzero(row)), seed=seed, loss=loss)
            for seed, row in enumerate(rows)
        ]
        assert not np.array_equal(divisions[0], divisions[1])
    comparison = compare_runs(records_in(tmp_path))
    (ldam,) = [group for group in comparison.groups if group.differences]
    labels = np.arange(60) % 2
    strata = Strata.of(labels, 2)
    wanted = two_way(paired(right["ldam"], right["softmax"], strata), strata.class_weights([0, 1]))
    found = ldam.differences["balanced_accuracy"]
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(
        (wanted.mean, wanted.low, wanted.high, wanted.p_value)
    )
    assert found.over == "seeds and test images"
    assert (found.n, found.paired) == (3, True)
    (note,) = [note for note in comparison.notes if "share training images" in note]
    assert "pooled over 2 folds" in note


def test_one_repeat_is_compared_over_images_alone(tmp_path):
    """A single seed tells nothing of others."""
    for loss, right in (("softmax", range(0, 60, 2)), ("ldam", range(50))):
        write_repeat(tmp_path, set(right), loss=loss)
    *_, group = compare_runs(records_in(tmp_path)).groups
    assert group.differences["accuracy"].over == "test images"


def test_a_repeat_without_one_of_its_folds_is_left_out_and_told(tmp_path):
    """Both folds that are there say which is missing; the other repeats are pooled."""
    for seed in range(2):
        write_repeat(tmp_path, set(range(30)), seed=seed, folds=3)
    (gone,) = tmp_path.glob("*-s1-1-f2")
    gone.rename(tmp_path.parent / "gone")
    comparison = compare_runs(records_in(tmp_path))
    assert [group.seeds for group in comparison.groups] == [(0,)]
    reasons = [(one.run[-2:], one.reason) for one in comparison.unscored]
    assert reasons == [
        (f"f{fold}", f"fold {fold} of 3: its repeat, seed 1, lacks fold 2") for fold in range(2)
    ]


def test_folds_of_other_images_make_no_whole(tmp_path):
    """A fold from before an image was added, or drawn in another way, is not pooled with others."""
    write_fold(tmp_path, 0, [0, 1, 2, 3], {0}, whole=range(8))
    write_fold(tmp_path, 1, [4, 5, 6, 7, 8], {4}, whole=range(9))
    write_fold(tmp_path, 0, [0, 1, 2, 3], {0}, whole=range(8), seed=1)
    write_fold(tmp_path, 1, [3, 4, 5, 6], {4}, whole=range(8), seed=1)
    comparison = compare_runs(records_in(tmp_path))
    assert comparison.groups == ()
    assert len(comparison.unscored) == 4
    assert all("are not of the same images" in one.reason for one in comparison.unscored)


def test_repeats_of_other_images_stand_apart(tmp_path):
    """Pooled over one image more, it is another test set."""
    write_repeat(tmp_path, set(range(30)), seed=0, number=60)
    write_repeat(tmp_path, set(range(30)), seed=1, number=61)
    comparison = compare_runs(records_in(tmp_path))
    assert sorted(group.seeds for group in comparison.groups) == [(0,), (1,)]
    assert len({group.test_set for group in comparison.groups}) == 2


def test_one_fold_alone_is_a_run_like_any_other(tmp_path):
    """So that its page can be made, and two losses be compared on it."""
    for loss in ("softmax", "ldam"):
        path = write_fold(tmp_path, 1, [4, 5, 6, 7], {4, 5}, whole=range(8), loss=loss)
    comparison = compare_runs(records_in(tmp_path))
    assert [len(group.runs) for group in comparison.groups] == [1, 1]
    assert comparison.unscored == ()
    assert main(["report", str(path)]) == 0


def test_folds_may_have_seeds_of_their_own(tmp_path):
    """As in a study: a division is then a repeat, with the seed of its first fold."""
    whole = range(40)
    for division in (0, 1):
        for fold in (0, 1):
            tested = [number for number in whole if (number // (division + 1)) % 2 == fold]
            seed = 2 * division + fold
            for loss in ("softmax", "ldam"):
                write_fold(
                    tmp_path, fold, tested, set(range(30)), whole=whole, seed=seed,
                    split_seed=division, loss=loss,
                )  # fmt: skip
    comparison = compare_runs(records_in(tmp_path))
    assert sorted((group.label, group.seeds) for group in comparison.groups) == [
        ("ldam", (0, 2)),
        ("softmax", (0, 2)),
    ]
    assert not comparison.unscored


def test_seeds_on_one_division_are_not_averaged_with_seeds_on_their_own(tmp_path):
    """They answer another question; each seed's own division is what --folds does by itself."""
    for seed in (1, 2):
        write_repeat(tmp_path / "own", set(range(30)), seed=seed, loss="ldam")
        write_repeat(tmp_path / "own", set(range(30)), seed=seed)
        write_repeat(tmp_path / "one", set(range(30)), seed=seed, split_seed=0)
    groups = compare_runs(records_in(tmp_path / "own", tmp_path / "one")).groups
    assert sorted((group.label, group.seeds) for group in groups) == [
        ("ldam split_seed=each seed's own", (1, 2)),
        ("softmax", (1, 2)),
        ("softmax split_seed=each seed's own", (1, 2)),
    ]


def test_the_newest_of_two_runs_of_a_fold_counts(tmp_path):
    """As of two runs with one seed; the older one says why it is left out."""
    write_fold(tmp_path / "a", 0, [0, 1], {0, 1}, whole=range(4))
    write_fold(tmp_path / "a", 1, [2, 3], {2, 3}, whole=range(4))
    path = write_fold(tmp_path / "b", 1, [2, 3], set(), whole=range(4))
    path.rename(tmp_path / "a" / "softmax-s0-0-f1-2")
    comparison = compare_runs(records_in(tmp_path / "a"))
    assert comparison.groups[0].metrics["accuracy"].mean == 0.5
    (left_out,) = comparison.unscored
    assert left_out.reason.endswith("repeated by the newer softmax-s0-0-f1-2")


def test_repeats_whose_folds_differ_in_size_have_one_count_of_a_class(tmp_path):
    """The mean over all folds of all repeats, or they would be no samples of one thing.

    Of a class seed 0 trains on 4 and 2 images, seed 1 on 3 and 1: 2.5, rounded to an even number.
    """
    for seed, held in enumerate((((), ()), ((4, 5), (0, 1)))):
        for loss in ("softmax", "ldam"):
            more = {"whole": range(12), "seed": seed, "loss": loss}
            write_fold(tmp_path, 0, [0, 1, 2, 3], {0, 3}, held=held[0], **more)
            write_fold(tmp_path, 1, [*range(4, 12)], {4, 5}, held=held[1], **more)
    groups = compare_runs(records_in(tmp_path)).groups
    assert [group.seeds for group in groups] == [(0, 1), (0, 1)]
    assert [one.train_count for one in groups[0].per_class] == [2, 2]


def test_the_page_of_pooled_folds_says_what_they_are(tmp_path, capsys):
    """The page and the tables have the pooled scores and the sentence."""
    for loss in ("softmax", "ldam"):
        for seed in range(3):
            write_repeat(tmp_path / "runs", set(range(20, 60)), seed=seed, loss=loss)
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "runs"), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert f"\npage: {page}\n" in printed
    for text in (page.read_text(), printed):
        said = " ".join(text.split())
        assert "The folds of a repeat share training images" in said
        assert "66.7" in said
