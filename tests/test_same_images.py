"""Runs of other programs beside lmsm's own: matched by ids, by digests, or by labels in order."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lmsm_cli import record_run
from lmsm_cli.commands.app import main
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.result_files import read_results
from lmsm_cli.comparison.same_images import matched
from lmsm_cli.comparison.two_way import Over
from lmsm_cli.data.identity import ImagesRecord, as_digests
from lmsm_cli.errors import DataError
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, printed_json
from tests.synthetic_runs import records_in, write_predicting_run

NAMES = ("ant", "bee", "cat")
COUNT = 30
LABELS = np.random.default_rng(8).integers(0, 3, COUNT)
COUNTS = [50, 20, 5]


def logits_of(seed, gain=2.0):
    """Return the logits of a classifier on the test images, in lmsm's order."""
    logits = np.random.default_rng(seed).normal(size=(COUNT, 3))
    logits[np.arange(COUNT), LABELS] += gain
    return logits


def lmsm_images(by_name=False):
    """Return the images of lmsm's runs: 30 test images with digests, and names or indices."""
    digests = as_digests([bytes([number] * 16) for number in range(COUNT)])
    names = np.array([b"pics/%03d.png" % number for number in range(COUNT)])
    places = names if by_name else np.arange(COUNT) + 70
    split = np.full(COUNT, 2, np.uint8)
    return ImagesRecord(NAMES, split, LABELS, digests, places, (0.5,), (0.5,))


def lmsm_runs(out, seeds=3, by_name=False):
    """Write runs of lmsm's softmax."""
    for seed in range(seeds):
        write_predicting_run(
            out, f"lmsm-{seed}", lmsm_images(by_name), logits_of(seed), COUNTS, seed=seed
        )


def own_runs(out, seeds=3, *, loss="mine", order=None, ids=None, **more):
    """Record runs of another program, whose rows stand in an order of their own."""
    order = np.arange(COUNT) if order is None else order
    for seed in range(seeds):
        given = {"labels": LABELS[order], "logits": logits_of(seed, 3)[order]} | more
        record_run(out, loss=loss, seed=seed, ids=None if ids is None else ids[order], **given)


def compared(out):
    """Return the comparison of the runs in a folder."""
    return compare_runs([read_run(path) for path in find_runs([out])])


def group_of(comparison, label):
    """Return the group of that label."""
    (group,) = (one for one in comparison.groups if one.label.split()[0] == label)
    return group


ANSWERS = logits_of(7).argmax(axis=1)
SHUFFLED = np.random.default_rng(4).permutation(COUNT)
HEX = np.array([bytes([number] * 16).hex() for number in range(COUNT)])
FILES = np.array([f"pics/{number:03d}.png" for number in range(COUNT)])


def renamed_run(out, name, seed, order):
    """Write a run of lmsm on the same test images, whose files were renamed: in another order."""
    images = lmsm_images()
    columns = (images.labels[order], images.digests[order], images.places)
    turned = ImagesRecord(NAMES, images.split, *columns, (0.5,), (0.5,))
    logits = logits_of(seed, 3)[order]
    return write_predicting_run(out, name, turned, logits, COUNTS, loss="vs", seed=seed)


# Within each class, so that the labels are as they were: they say nothing of the order.
WITHIN = np.arange(COUNT)
for _number in range(3):
    _own = np.flatnonzero(_number == LABELS)
    WITHIN[_own] = np.roll(_own, 1)


def test_other_training_images_are_no_baseline(tmp_path):
    """What is rare to one is common to the other: a difference would be of other classes."""
    own_runs(tmp_path, loss="softmax", class_counts=COUNTS)
    own_runs(tmp_path, loss="mine", class_counts=COUNTS[::-1])
    own_runs(tmp_path, loss="untold")
    comparison = compared(tmp_path)
    held = {one.label: bool(one.differences) for one in comparison.groups}
    assert held == {"softmax": False, "mine": False, "untold": True}
    alone = compare_runs([one for one in records_in(tmp_path) if one.config["loss"] != "untold"])
    (conclusion,) = alone.conclusions
    assert "nothing is held against softmax, which was trained on other images" in conclusion.text


def test_seeds_on_other_training_images_are_told_apart(tmp_path):
    """Their counts are in the name of the row, and a note says why they are no mean."""
    many = [9] * 12
    for out, counts in (("few", (COUNTS, [49, 21, 5])), ("many", ([*many, 8, 9], [*many, 9, 8]))):
        labels = np.resize(np.arange(len(counts[0])), 28)
        for seed, known in enumerate(counts):
            record_run(
                tmp_path / out,
                loss="mine",
                seed=seed,
                labels=labels,
                predictions=labels,
                class_counts=known,
            )
        comparison = compared(tmp_path / out)
        names = [group.label for group in comparison.groups]
        assert len(set(names)) == 2
        assert any(note.startswith("not averaged over runs") for note in comparison.notes)
        if out == "few":
            assert names == ["mine class_counts=50/20/5", "mine class_counts=49/21/5"]


def test_a_setting_that_some_runs_lack_tells_them_apart(tmp_path):
    """Rows never share a name, and the baseline to name is one that only one row has."""
    own_runs(tmp_path, loss="softmax")
    own_runs(tmp_path, loss="softmax", settings={"aug": "mixup"})
    comparison = compared(tmp_path)
    assert [one.label for one in comparison.groups] == ["softmax", "softmax aug=mixup"]
    assert comparison.conclusions[0].text.endswith("such as --baseline 'softmax aug=mixup'.")
    lmsm_runs(tmp_path)  # which have no such choice
    labels = [one.label for one in compared(tmp_path).groups]
    assert len(set(labels)) == len(labels) == 3


@pytest.mark.parametrize("order", [WITHIN, SHUFFLED], ids=["within classes", "everywhere"])
@pytest.mark.parametrize("is_old", [False, True], ids=["digest", "images.npz"])
def test_runs_on_renamed_files_are_paired_by_content(tmp_path, order, is_old):
    """The intervals are those of runs that have the images in one order."""
    found = []
    for number, own in enumerate((np.arange(COUNT), order)):
        out = tmp_path / str(number)
        lmsm_runs(out)
        runs = [renamed_run(out, f"own-{seed}", seed, own) for seed in range(3)]
        for run in runs if is_old else ():
            scores = json.loads((run / "scores.json").read_text())
            del scores["images"]["test_order"]
            (run / "scores.json").write_text(json.dumps(scores))
        found.append(group_of(compared(out), "vs").differences)
    assert found[0]["accuracy"].over == Over.BOTH
    assert found[1] == found[0]


def test_a_run_in_another_order_without_its_list_has_no_part_in_the_images(tmp_path):
    """Without images.npz nobody knows which image an answer is of; the scores stay."""
    lmsm_runs(tmp_path)
    for seed in range(3):
        (renamed_run(tmp_path, f"own-{seed}", seed, WITHIN) / "images.npz").unlink()
    comparison = compared(tmp_path)
    assert group_of(comparison, "vs").differences["accuracy"].over == Over.SEEDS
    assert sum("another order than that of lmsm-0" in note for note in comparison.notes) == 3


@pytest.mark.parametrize(
    ("by_name", "order", "ids", "by_labels"),
    [
        (False, None, None, True),
        (False, SHUFFLED, HEX, False),
        (False, SHUFFLED, np.arange(COUNT) + 70, False),
        (True, SHUFFLED, FILES, False),
        (False, None, np.array([f"mine{n}" for n in range(COUNT)]), True),
    ],
    ids=["labels", "digests", "indices", "file names", "unlike ids, equal labels"],
)
def test_a_recorded_run_is_held_against_lmsm_image_by_image(
    tmp_path, by_name, order, ids, by_labels
):
    """Paired by seed, and its answers stand in lmsm's order, whatever its own was."""
    lmsm_runs(tmp_path, by_name=by_name)
    own_runs(tmp_path, order=order, ids=ids)
    comparison = compared(tmp_path)
    change = group_of(comparison, "mine").differences["accuracy"]
    means = [
        np.mean([(logits_of(seed, gain).argmax(1) == LABELS).mean() for seed in range(3)])
        for gain in (3, 2)
    ]
    assert change.mean == pytest.approx(means[0] - means[1])
    assert (change.n, change.paired) == (3, True)
    assert group_of(comparison, "softmax").is_baseline
    records, _ = matched([read_run(path) for path in find_runs([tmp_path])])
    for record in records:
        assert record.predictions.labels.tolist() == LABELS.tolist()
        gain = 3 if record.is_outside else 2
        expected = logits_of(record.config["seed"], gain).argmax(1)
        assert record.predictions.predicted.tolist() == expected.tolist()
    by_word = [note for note in comparison.notes if "taken for the same images by their" in note]
    assert len(by_word) == by_labels


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        (SHUFFLED, None),
        (None, np.array([bytes([n + 1] * 16).hex() for n in range(COUNT)])),
        (SHUFFLED, np.array([f"x{n}" for n in range(COUNT)])),
    ],
    ids=["labels in another order", "other digests", "unlike ids, unlike labels"],
)
def test_other_test_images_stand_apart(tmp_path, order, ids):
    """No difference, and a note that says so, by name."""
    lmsm_runs(tmp_path)
    own_runs(tmp_path, order=order, ids=ids)
    comparison = compared(tmp_path)
    mine = group_of(comparison, "mine")
    assert mine.differences == {}
    assert mine.test_set != group_of(comparison, "softmax").test_set
    assert any("other test images than lmsm-0" in note for note in comparison.notes)
    assert not any("by their labels as lmsm-0" in note for note in comparison.notes)


def test_two_programs_are_matched_by_their_ids(tmp_path):
    """With ids on both sides labels in order prove nothing, and the order is no matter."""
    ids = np.array([f"im{number}" for number in range(COUNT)])
    own_runs(tmp_path / "a", loss="softmax", ids=ids)
    own_runs(tmp_path / "b", loss="mine", ids=ids, order=SHUFFLED)
    own_runs(tmp_path / "c", loss="other", ids=np.char.add(ids, "b"))
    records = [
        read_run(path) for path in find_runs([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    ]
    comparison = compare_runs(records)
    change = group_of(comparison, "mine").differences["accuracy"]
    assert (change.mean, change.paired) == (0, True)
    assert group_of(comparison, "other").differences == {}
    moved, _ = matched(records)
    answers = {
        one.config["loss"]: one.predictions.predicted.tolist()
        for one in moved
        if one.config["seed"] == 0
    }
    assert answers["softmax"] == answers["mine"]


def test_one_image_of_two_classes_is_refused(tmp_path):
    """Equal ids with another label are a mistake of one of them."""
    ids = np.array([f"im{number}" for number in range(COUNT)])
    own_runs(tmp_path, 1, ids=ids)
    wrong = LABELS.copy()
    wrong[7] = (wrong[7] + 1) % 3
    own_runs(tmp_path, 1, loss="other", ids=ids, labels=wrong)
    with pytest.raises(DataError, match=rf"'im7' is of class {wrong[7]}, and of class {LABELS[7]}"):
        compared(tmp_path)


def test_names_of_classes_decide_in_whatever_order(tmp_path):
    """Nothing is taken for another class: the rows and the pairs are those of one order."""
    names = ("bee", "cat", "ant")
    numbers = np.array([names.index(name) for name in NAMES])
    counts = [COUNTS[NAMES.index(name)] for name in names]
    scores = logits_of(3, 1)
    turned = np.empty_like(scores)
    turned[:, numbers] = scores
    for folder, given in (
        (
            tmp_path / "one",
            {"labels": LABELS, "logits": scores, "classes": NAMES, "class_counts": COUNTS},
        ),
        (
            tmp_path / "other",
            {"labels": numbers[LABELS], "logits": turned, "classes": names, "class_counts": counts},
        ),
    ):
        lmsm_runs(folder)
        for seed in range(3):
            record_run(folder, loss="mine", seed=seed, **given)
    one, other = (group_of(compared(tmp_path / name), "mine") for name in ("one", "other"))
    assert [row.name for row in other.per_class] == list(NAMES)
    assert other.per_class == one.per_class
    for key, known in one.metrics.items():
        mean = other.metrics[key] and other.metrics[key].mean
        assert mean == pytest.approx(known and known.mean), key
    for key in ("few", "accuracy", "balanced_accuracy"):
        assert other.differences[key] == one.differences[key]
    assert one.differences["few"] is not None


def test_a_file_of_names_is_held_against_classes_in_an_order_of_their_own(tmp_path):
    """The names in a CSV are in order of letters, which lmsm's need not be."""
    names = ("cat", "bee", "ant")
    images = replace(lmsm_images(), classes=names)
    write_predicting_run(tmp_path, "lmsm-0", images, logits_of(0), COUNTS, seed=0)
    rows = [
        f"{names[label]},{names[answer]}" for label, answer in zip(LABELS, ANSWERS, strict=True)
    ]
    path = tmp_path / "mine-s0.csv"
    path.write_text("\n".join(["label,predicted", *rows]))
    group = group_of(
        compare_runs([read_run(tmp_path / "lmsm-0"), *read_results([path])[0]]), "mine"
    )
    assert [row.name for row in group.per_class] == list(names)
    right = [float((ANSWERS == LABELS)[number == LABELS].mean()) for number in range(3)]
    assert [row.accuracy.mean for row in group.per_class] == pytest.approx(right)
    assert group.differences["accuracy"] is not None


def test_another_number_of_classes_is_refused(tmp_path):
    """Logits of four classes on the images of three are of another question."""
    lmsm_runs(tmp_path, 1)
    own_runs(tmp_path, 1, logits=np.pad(logits_of(0), ((0, 0), (0, 1))))
    with pytest.raises(DataError, match=r"has 4 classes, and .*lmsm-0 has 3 for the same test"):
        compared(tmp_path)


def test_numbers_take_the_names_and_lacking_classes(tmp_path):
    """Predictions alone may never name a class: it is there all the same, with its name."""
    images = lmsm_images()
    few = np.minimum(LABELS, 1)
    images = ImagesRecord(NAMES, images.split, few, images.digests, images.places, (0.5,), (0.5,))
    write_predicting_run(tmp_path, "lmsm-0", images, logits_of(0), COUNTS, seed=0)
    guesses = np.roll(few, 1)
    own_runs(tmp_path, 1, labels=few, logits=None, predictions=guesses)
    own_runs(
        tmp_path,
        1,
        loss="named",
        labels=[NAMES[n] for n in few],
        logits=None,
        predictions=[NAMES[n] for n in guesses],
    )
    comparison = compared(tmp_path)
    for label in ("mine", "named"):
        group = group_of(comparison, label)
        assert [one.name for one in group.per_class] == list(NAMES)
        assert [one.test_count for one in group.per_class] == [*np.bincount(few), 0]
        assert group.metrics["accuracy"].mean == pytest.approx((few == guesses).mean())
        assert group.differences["accuracy"] is not None


def test_sorted_labels_say_that_they_prove_little(tmp_path):
    """Any other images of as many in each class would have them too."""
    for loss in ("softmax", "mine"):
        own_runs(tmp_path, 1, loss=loss, labels=np.sort(LABELS))
    notes = compared(tmp_path).notes
    assert any("these are sorted" in note and "give ids" in note for note in notes)


def test_labels_that_fit_two_test_sets_fit_none(tmp_path):
    """Which of them it would be is not for lmsm to guess."""
    for number, loss in enumerate(("softmax", "other")):
        own_runs(tmp_path, 1, loss=loss, ids=np.arange(COUNT) + 100 * number)
    own_runs(tmp_path, 1, loss="mine")
    comparison = compared(tmp_path)
    assert group_of(comparison, "mine").differences == {}
    assert any("labels as on more than one set" in note for note in comparison.notes)


def test_a_program_s_own_choices_make_rows(tmp_path):
    """Two learning rates are two rows; what lmsm's runs have besides is not asked of them."""
    lmsm_runs(tmp_path)
    for lr in (0.1, 0.2):
        own_runs(tmp_path, settings={"lr": lr})
    labels = {group.label for group in compared(tmp_path).groups}
    assert labels == {"softmax", "mine source=outside lr=0.1", "mine source=outside lr=0.2"}


def test_the_softmax_of_another_program_is_held_against_lmsm_s(tmp_path):
    """They are two rows, and the one by lmsm is the baseline; another can be named."""
    lmsm_runs(tmp_path)
    own_runs(tmp_path, loss="softmax")
    records = [read_run(path) for path in find_runs([tmp_path])]
    first, second = compare_runs(records).groups
    assert (first.label, first.is_baseline) == ("softmax", True)
    assert second.label == "softmax source=outside"
    assert second.differences["accuracy"].paired
    assert second.metrics["few"] is None, "how many images it was trained on is not known"
    rare = [
        np.mean([(logits_of(seed, gain).argmax(1) == 2)[LABELS == 2] for seed in range(3)])
        for gain in (3, 2)
    ]
    assert second.differences["few"].mean == pytest.approx(rare[0] - rare[1])
    assert second.differences["few"].over == "seeds and test images"
    first, second = compare_runs(records, baseline="softmax source=outside").groups
    assert (first.label, first.is_baseline) == ("softmax source=outside", True)
    assert second.differences["accuracy"].paired


def test_damaged_predictions_are_told(tmp_path):
    """The run counts by its scores, over seeds alone, and the note names the file."""
    lmsm_runs(tmp_path)
    own_runs(tmp_path)
    run = next(path for path in find_runs([tmp_path]) if path.name.endswith("mine-s1"))
    (run / "predictions.npz").write_bytes(b"PK")
    comparison = compared(tmp_path)
    assert group_of(comparison, "mine").differences["accuracy"].over == Over.SEEDS
    assert any(
        f"{run / 'predictions.npz'} is damaged" in note and note.endswith("; left out")
        for note in comparison.notes
    )


def digits_apart(run):
    """Train a softmax on a run's digits in a plain loop; return its images, and logits by seed."""
    data = load_digits()
    images = read_run(run).images
    parts = {part: images.of(part) for part in ("training", "test")}
    pixels = torch.tensor(data.images[..., None] / 16, dtype=torch.float32).flatten(1)
    found = {}
    for seed in range(2):
        torch.manual_seed(seed)
        net = torch.nn.Linear(64, 10)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        chosen = parts["training"].places
        for _ in range(60):
            loss = torch.nn.functional.cross_entropy(
                net(pixels[chosen]), torch.tensor(parts["training"].labels)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[seed] = net(pixels[parts["test"].places])
    return parts, found


def test_a_softmax_of_a_plain_loop_and_one_by_lmsm(tmp_path, capsys):
    """From `record_run` and from CSV: one comparison, paired by seed, on paper and on the page."""
    runs = tmp_path / "runs"
    for seed in range(2):
        config = digits_config(runs, loss="softmax", epochs=1, seed=seed)
        start_run(config, SilentDisplay())
    parts, logits = digits_apart(find_runs([runs])[0])
    test = parts["test"]
    counts = np.bincount(parts["training"].labels)
    for seed, scores in logits.items():
        record_run(
            runs,
            loss="softmax",
            seed=seed,
            labels=test.labels,
            logits=scores,
            ids=test.digests,
            class_counts=counts,
        )
        with (tmp_path / f"plain-s{seed}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", *(f"logit_{n}" for n in range(10))])
            table.writerows(
                [label, *row] for label, row in zip(test.labels, scores.tolist(), strict=True)
            )
    files = [str(tmp_path / f"plain-s{seed}.csv") for seed in range(2)]
    target = tmp_path / "page.html"
    document = printed_json(capsys, "compare", runs, *files, "--html", target)
    groups = {group["label"]: group for group in document["groups"]}
    assert set(groups) == {"softmax", "softmax source=outside", "plain source=outside"}
    right = [(scores.argmax(1).numpy() == test.labels).mean() for scores in logits.values()]
    for label in ("softmax source=outside", "plain source=outside"):
        change = groups[label]["differences"]["accuracy"]
        assert (change["n"], change["paired"]) == (2, True)
        assert groups[label]["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(right))
        assert groups[label]["test_set"] == groups["softmax"]["test_set"]
    note = "taken for the same images by their labels"
    assert sum(note in one for one in document["notes"]) == 1
    assert note in target.read_text(encoding="utf-8")
    assert main(["compare", str(runs), *files]) == 0
    assert note in " ".join(capsys.readouterr().out.split())
