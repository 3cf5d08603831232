"""Results of anybody's classifier as arrays: taken in every form, scored, or refused by row."""

import subprocess
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from lmsm_cli import record_run
from lmsm_cli.commands.app import main
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.config.yaml import read_mapping
from lmsm_cli.errors import ArgumentError, DiskError
from lmsm_cli.reports.html.page import page
from lmsm_cli.runs import recording
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.runs.results import Given, checked

CLASSES = 5


def answers(seed=0, count=60):
    """Return labels and logits of a classifier that is right more often than not."""
    draw = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, CLASSES, count)
    logits = draw.normal(size=(count, CLASSES))
    logits[np.arange(count), labels] += 1.5
    return labels, logits


def record(folder, **changes):
    """Record these answers with changes, and return the run read back."""
    labels, logits = answers()
    given = {"loss": "mine", "seed": 3, "labels": labels, "logits": logits} | changes
    return read_run(record_run(folder, **given))


def test_scores_are_those_of_scikit_learn(tmp_path):
    """Of labels and logits: accuracy, balanced accuracy, F1, recall, top-k, confusion."""
    labels, logits = answers()
    predicted = logits.argmax(1)
    scores = record(tmp_path).scores
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    balanced = metrics.balanced_accuracy_score(labels, predicted)
    assert scores.balanced_accuracy == pytest.approx(balanced)
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recalls = metrics.recall_score(labels, predicted, average=None)
    assert [row.accuracy for row in scores.per_class] == pytest.approx(recalls.tolist())
    assert scores.top_k["2"] == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=2))
    confusion = metrics.confusion_matrix(labels, predicted).tolist()
    assert [list(row) for row in scores.confusion] == confusion
    assert 0 < scores.calibration_error < 1


def test_top_k_goes_by_the_order_of_logits_however_large(tmp_path):
    """Logits a thousand times as large are in the same order, whatever their softmax rounds to."""
    labels, logits = answers()
    expected = {k: metrics.top_k_accuracy_score(labels, logits, k=int(k)) for k in ("2", "3")}
    assert record(tmp_path, logits=1000 * logits).scores.top_k == pytest.approx(expected)


def test_the_calibration_error_is_that_of_its_definition(tmp_path):
    """Two images with confidence 0.8 and one right are 0.3 off: of softmax, not of the logits."""
    logits = np.log([[0.8, 0.2], [0.8, 0.2]]) + 7
    scores = record(tmp_path, labels=[0, 1], logits=logits).scores
    assert scores.calibration_error == pytest.approx(0.3)


def test_predictions_alone_give_what_they_can(tmp_path):
    """No probabilities, hence no calibration and no top-k; no counts, hence no rare classes."""
    labels, logits = answers()
    run = record(tmp_path, logits=None, predictions=logits.argmax(1))
    assert run.scores.accuracy == pytest.approx((labels == logits.argmax(1)).mean())
    assert run.scores.calibration_error is None
    assert run.scores.top_k == run.scores.groups == {}
    assert {row.train_count for row in run.scores.per_class} == {None}
    assert run.predictions.logits is run.predictions.probabilities is None


def test_counts_give_the_groups_of_classes(tmp_path):
    """Of five classes the rarest third is one class, by hand."""
    run = record(tmp_path, class_counts=[50, 40, 30, 20, 10])
    assert run.scores.groups["few"] == run.scores.per_class[4].accuracy
    assert run.scores.groups["many"] == run.scores.per_class[0].accuracy
    assert [row.train_count for row in run.scores.per_class] == [50, 40, 30, 20, 10]


def test_whole_numbers_of_half_precision_are_class_numbers(tmp_path):
    """Labels, predictions, counts and logits are taken without a warning, which is an error in
    tests; what is not whole is refused as in any precision.
    """
    labels, logits = answers()
    half = {"labels": labels.astype(np.float16), "logits": None, "class_counts": None}
    half |= {"predictions": logits.argmax(1).astype(np.float16)}
    for counts in (None, np.array([50, 40, 30, 20, 10], np.float16)):
        run = record(tmp_path, **half | {"class_counts": counts})
        assert run.predictions.labels.tolist() == labels.tolist()
        assert run.predictions.predicted.tolist() == logits.argmax(1).tolist()
    assert [row.train_count for row in run.scores.per_class] == [50, 40, 30, 20, 10]
    assert record(tmp_path, logits=logits.astype(np.float16)).scores.top_k
    for value in (0.5, np.nan, np.inf):
        wrong = half["labels"].copy()
        wrong[7] = value
        with pytest.raises(ArgumentError, match=rf"labels\[7\] is {value}: the 5 classes are"):
            record(tmp_path, **half | {"labels": wrong})
    with pytest.raises(ArgumentError, match=r"class_counts\[1\] is 0.5"):
        record(tmp_path, **half | {"class_counts": np.array([5, 0.5, 3, 2, 1], np.float16)})


@pytest.mark.parametrize("form", ["numbers", "names", "classes", "logits"])
def test_counts_may_be_given_for_each_image(tmp_path, form):
    """That of its class, as a CSV file has it: as many classes as there are, not as images."""
    labels, logits = answers()
    counts = np.array([50, 40, 30, 20, 10])[labels]
    given = {"logits": None, "predictions": logits.argmax(1)}
    if form == "names":
        names = np.array(list("abcde"))
        given = {"logits": None, "labels": names[labels], "predictions": names[logits.argmax(1)]}
    elif form == "classes":
        given |= {"classes": list("abcde")}
    elif form == "logits":
        given = {"logits": logits}
    run = record(tmp_path, class_counts=counts, **given)
    assert [row.train_count for row in run.scores.per_class] == [50, 40, 30, 20, 10]
    assert run.scores.groups["few"] == run.scores.per_class[4].accuracy
    counts[labels == 4] = [10] * 5 + [11] * ((labels == 4).sum() - 5)
    row = np.flatnonzero(labels == 4)[5]
    with pytest.raises(ArgumentError, match=rf"class_counts\[{row}\] is 11, where an earlier row"):
        record(tmp_path, class_counts=counts, **given)


def test_counts_of_classes_without_images_are_none_of_images(tmp_path):
    """As many counts as images are those of classes where one class would have two of them, and
    where so many classes are told; None is a count that is not known.
    """
    labels = np.array([0, 1, 1, 2, 3, 3])
    given = {"labels": labels, "predictions": labels, "logits": None}
    for counts in ([9, 8, 7, 6, 5, 4], [9, 8, None, 6, 5, 4], [9, 8, 7, 6, 5]):
        run = record(tmp_path, class_counts=counts, **given)
        assert [row.train_count for row in run.scores.per_class] == counts
    told = given | {"predictions": np.array([0, 1, 1, 2, 3, 5])}
    run = record(tmp_path, class_counts=[9, 8, 8, 6, 5, 5], **told)
    assert [row.train_count for row in run.scores.per_class] == [9, 8, 8, 6, 5, 5]
    run = record(tmp_path, class_counts=[9, 8, None, None, 5, 5], **given)
    assert [row.train_count for row in run.scores.per_class] == [9, 8, None, 5]


def test_the_folder_is_read_back_as_given(tmp_path):
    """Answers to the last digit of float32, ids as names, choices, classes, and a finished run."""
    labels, logits = answers()
    ids = [f"photo {number}" for number in range(len(labels))]
    names = ["ant", "bee", "cat", "dog", "emu"]
    run = record(tmp_path, ids=ids, classes=names, settings={"lr": 0.1, "model": "my net"})
    assert run.path.name.endswith("-my-net-mine-s3")
    assert run.problem == "no metrics.jsonl"
    assert run.state == "completed"
    config = {key: entry.value for key, entry in read_mapping(run.path / "config.yaml").items()}
    expected = {"loss": "mine", "seed": 3, "source": "outside", "lr": 0.1, "model": "my net"}
    assert config == expected
    assert [row.name for row in run.scores.per_class] == names
    assert run.predictions.labels.tolist() == labels.tolist()
    assert run.predictions.predicted.tolist() == logits.argmax(1).tolist()
    assert (run.predictions.logits == logits.astype(np.float32)).all()
    assert run.images.classes == tuple(names)
    assert [place.decode() for place in run.images.places] == ids


class Colour(str, Enum):  # noqa: UP042  # str() of it is no value, other than of a StrEnum
    """A choice as programs hold it."""

    RED = "red"


def test_scalars_of_numpy_and_torch_are_plain_values(tmp_path):
    """As a script has them at hand: config.yaml holds the same as of Python's own."""
    run = record(
        tmp_path,
        loss=np.str_("mine"),
        seed=torch.tensor(3),
        settings={
            np.str_("dataset"): np.str_("own"),
            "lr": np.float64(0.1),
            "epochs": np.int64(3),
            "momentum": np.float32(0.9),
            "decay": torch.tensor(0.0005, requires_grad=True),
            "nesterov": np.True_,
            "colour": Colour.RED,
            "model": None,
        },
    )
    assert run.path.name.endswith("-own-mine-s3")
    config = {key: entry.value for key, entry in read_mapping(run.path / "config.yaml").items()}
    assert config == {
        "loss": "mine",
        "seed": 3,
        "source": "outside",
        "dataset": "own",
        "lr": 0.1,
        "epochs": 3,
        "momentum": 0.9,
        "decay": 0.0005,
        "nesterov": True,
        "colour": "red",
        "model": None,
    }


def test_a_long_loss_is_cut_in_the_name_of_the_folder_alone(tmp_path):
    """File systems take names of 255 bytes; two losses that begin alike get two folders."""
    settings = {"dataset": "d" * 900, "model": "\N{GREEK SMALL LETTER MU}m" * 400}
    losses = ["x" * 999 + "1", "x" * 999 + "2"]
    runs = [record(tmp_path, loss=loss, settings=settings) for loss in losses]
    assert [run.config["loss"] for run in runs] == losses
    assert len({run.path for run in runs}) == 2


def test_a_folder_that_cannot_be_made_is_told_in_words_of_python(tmp_path):
    """A flag of the command line would be no way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"cannot make a run folder in .*; give another folder$"):
        record(tmp_path / "file" / "runs")


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """Half a run would be listed by each comparison, as one that runs for ever."""
    (tmp_path / "before").mkdir()

    def full(*_):
        raise DiskError("no space left")

    monkeypatch.setattr(recording, "write_predictions", full)
    with pytest.raises(DiskError, match="no space left"):
        record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    "form",
    [
        lambda values: values.tolist(),
        torch.tensor,
        lambda values: torch.tensor(values, requires_grad=values.dtype.kind == "f"),
        lambda values: values.astype(np.float32) if values.dtype.kind == "f" else values,
    ],
    ids=["lists", "tensors", "tensors with gradients", "float32"],
)
def test_every_form_gives_the_same(tmp_path, form):
    """Arrays, tensors and lists are one to it."""
    labels, logits = answers()
    plain = record(tmp_path / "a")
    other = record(tmp_path / "b", labels=form(labels), logits=form(logits))
    assert other.scores.per_class == plain.scores.per_class
    assert other.scores.images == plain.scores.images
    assert other.scores.calibration_error == pytest.approx(plain.scores.calibration_error)


def test_half_precision_tensors_are_taken(tmp_path):
    """NumPy has no bfloat16, and nets often give it."""
    labels, logits = answers()
    half = torch.tensor(logits).bfloat16()
    run = record(tmp_path, labels=torch.tensor(labels), logits=half)
    assert run.predictions.predicted.tolist() == half.float().argmax(1).tolist()


def test_names_and_numerals_are_classes(tmp_path):
    """Names in the order given, or sorted; texts of numbers are numbers, so that 10 is after 9."""
    named = {"labels": ["dog", "cat", "dog"], "predictions": ["dog", "dog", "cat"], "logits": None}
    run = record(tmp_path, **named)
    assert [row.name for row in run.scores.per_class] == ["cat", "dog"]
    assert run.predictions.labels.tolist() == [1, 0, 1]
    run = record(tmp_path, **named, classes=["dog", "emu", "cat"])
    assert run.predictions.predicted.tolist() == [0, 0, 2]
    numerals = [str(number) for number in range(11)]
    run = record(tmp_path, labels=numerals, predictions=numerals, logits=None)
    assert run.predictions.labels.tolist() == list(range(11))


def test_class_numbers_may_lack_nine_in_ten(tmp_path):
    """As of 1,000 classes of which 100 were tested; years go as names, with `classes`."""
    labels = np.arange(9, 1000, 10)
    run = record(tmp_path, labels=labels, predictions=labels, logits=None)
    assert len(run.scores.per_class) == 1000
    years = ["2018", "2020", "2019"]
    run = record(tmp_path, labels=years, predictions=years, logits=None, classes=sorted(years))
    assert [(row.name, row.accuracy) for row in run.scores.per_class] == [
        ("2018", 1),
        ("2019", 1),
        ("2020", 1),
    ]
    assert run.predictions.labels.tolist() == [0, 2, 1]


def test_ids_in_another_order_are_the_same_images(tmp_path):
    """The digest is that of ids and labels; another id, or another label of one, is another."""
    labels, logits = answers()
    ids, order = np.arange(len(labels)) + 500, np.random.default_rng(5).permutation(len(labels))
    digests = [
        record(tmp_path, **given).scores.images.test
        for given in (
            {"ids": ids},
            {"ids": ids[order], "labels": labels[order], "logits": logits[order]},
            {"ids": ids + 1},
            {"ids": ids, "labels": np.roll(labels, 1)},
            {},
            {"labels": np.roll(labels, 1)},
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 5


BAD = [
    ({"loss": " "}, "loss is ' '"),
    ({"loss": 3}, "loss is 3"),
    ({"seed": -1}, "seed is -1: give a whole number"),
    ({"seed": 0.5}, "seed is 0.5"),
    ({"seed": True}, "seed is True"),
    ({"labels": []}, "labels are empty"),
    ({"labels": np.full(60, 5)}, r"labels\[0\] is 5: the 5 classes are 0 to 4"),
    ({"labels": np.arange(60) - 1}, r"labels\[0\] is -1: the 5 classes"),
    ({"labels": np.r_[np.zeros(59), 0.5]}, r"labels\[59\] is 0.5: the 5 classes"),
    ({"labels": ["0"] * 30 + ["x"] * 30}, "classes must be given, in the order of the logits"),
    (
        {"labels": ["2018", "2019", "2020"] * 20},
        r"labels\[0\] is '2018': the 5 classes are 0 to 4; where they are names, give them as",
    ),
    (
        {"labels": [0, 2018, 2021] * 20, "predictions": [0] * 60, "logits": None},
        r"labels\[2\] is 2021, and of the class numbers 0 to 2021 only 3 occur: .* classes; else",
    ),
    (
        {"labels": [0, 1, 2] * 20, "predictions": ["0"] * 59 + ["x"], "logits": None},
        r"predictions\[59\] is 'x', where labels are class numbers",
    ),
    ({"labels": np.zeros((60, 1), int)}, r"labels has the shape \(60, 1\)"),
    ({"labels": np.zeros(60, bool)}, "labels holds neither numbers nor texts"),
    ({"labels": [[1], [1, 2]]}, "labels has rows of unequal length"),
    ({"labels": ["ant"] * 60}, "classes must be given, in the order of the logits"),
    ({"labels": ["ant"] * 60, "classes": list("abcde")}, r"labels\[0\] is 'ant', which is none of"),
    (
        {"logits": None, "predictions": [10**9, *[0] * 59]},
        r"predictions\[0\] is 1000000000: where neither .* are below 100,000",
    ),
    ({"logits": None}, "predictions or logits must be given"),
    ({"logits": np.zeros((59, 5))}, "logits are of 59 images, for 60 labels"),
    ({"logits": np.zeros((60, 1))}, r"logits has the shape \(60, 1\)"),
    ({"logits": np.full((60, 5), 0.2)}, "logits are probabilities.*give their logarithms"),
    ({"predictions": np.zeros(59, int)}, "predictions are 59 for 60 labels"),
    ({"predictions": np.full(60, 7)}, r"predictions\[0\] is 7: the 5 classes are 0 to 4"),
    ({"ids": range(59)}, "ids are 59, for 60 labels"),
    ({"ids": [*range(59), 7]}, r"ids\[59\] is '7', as an earlier row is \(number 8\)"),
    ({"ids": [*map(str, range(59)), ""]}, r"ids\[59\] is empty"),
    ({"ids": np.linspace(0, 1, 60)}, "ids must be a text or whole number"),
    ({"class_counts": [1, 2, 3]}, "class_counts are of 3 classes, and there are 5"),
    ({"class_counts": [1, 2, 3, 4, -5]}, r"class_counts\[4\] is -5"),
    ({"class_counts": [1, 2, 3, 4, 0.5]}, r"class_counts\[4\] is 0.5"),
    ({"classes": ["a", "b", "c", "d"]}, "logits are of 5 classes, and there are 4: a, b, c, d"),
    ({"classes": ["a", "b", "c", "d", "a"]}, "classes name 'a' twice"),
    ({"settings": {"seed": 4}}, "settings cannot have a key 'seed'"),
    ({"settings": {"lr": [1]}}, "settings has no text or number as its lr"),
    ({"settings": {"lr": np.ones(2)}}, "settings has no text or number as its lr"),
    ({"settings": {"lr": np.float64("inf")}}, "settings has no text or number as its lr: inf"),
    ({"settings": {"lr": 10**400}}, "settings has no text or number as its lr"),
    ({"settings": {"lr": "a\ud800"}}, "settings has no text or number as its lr"),
    ({"settings": {"on": np.datetime64("2026-01-01")}}, "settings has no text or number as its on"),
    ({"settings": [1]}, r"settings is \[1\]: give names with their values"),
    ({"loss": "a\ud800"}, r"loss is 'a\\ud800'"),
    ({"seed": np.True_}, "seed is True"),
    ({"seed": torch.tensor(0.5)}, "seed is 0.5"),
    ({"ids": [*range(59), "a\ud800"]}, r"ids\[59\] is 'a\\ud800', and half a character"),
    ({"classes": "horse"}, r"classes has the shape \(\)"),
    ({"classes": [["a", "b"]]}, r"classes has the shape \(1, 2\)"),
    ({"classes": ["a", "b", "c", "d", ""]}, r"classes\[4\] is empty"),
    ({"classes": ["a", "b", "c", "d", "a\ud800"]}, r"classes\[4\] is 'a\\ud800', and half"),
    ({"labels": ["a", "b", *"c" * 57, ""]}, r"labels\[59\] is empty"),
    ({"labels": ["a", "b", *"c" * 57, "d" * 1001]}, r"labels\[59\] is longer than 1,000"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_results_are_refused_by_argument_and_row(tmp_path, changes, message):
    """As a mistake that the caller can mend, before anything is written."""
    with pytest.raises(ArgumentError, match=message):
        record(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


ROUNDED = {
    "as they are": lambda p: p,
    "three decimals": lambda p: p.round(3),
    "two decimals": lambda p: p.round(2),
    "float16": lambda p: p.astype(np.float16),
    "bfloat16": lambda p: torch.tensor(p).bfloat16(),
    "percent": lambda p: 100 * p,
    "percent with one decimal": lambda p: (100 * p).round(1),
    "three digits": lambda p: np.vectorize(lambda one: float(f"{one:.3g}"))(p),
}


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("form", ROUNDED.values(), ids=ROUNDED.keys())
def test_rounded_probabilities_are_no_logits(tmp_path, form, classes):
    """Softmax of them would be almost even, and the calibration error that of another classifier.

    Their rounded sums are off by up to a third, and each row's must be one that rounding explains.
    """
    draw = np.random.default_rng(0)
    probabilities = torch.tensor(3 * draw.normal(size=(60, classes))).softmax(1).numpy()
    with pytest.raises(ArgumentError, match=r"are probabilities, which add up to 1(00)? for each"):
        record(tmp_path, labels=np.arange(60) % classes, logits=form(probabilities))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_true_logits_are_never_taken_for_probabilities(tmp_path, classes):
    """Small or large, non-negative or sparse, rounded or not, of one image (unrounded) or more."""
    draw = np.random.default_rng(classes)
    for _ in range(100):
        normal = draw.normal(size=(30, classes)) * 10 ** draw.uniform(-3, 2)
        forms = [normal, abs(normal), normal.clip(0), (normal - normal.std()).clip(0)]
        for logits in [*forms, *(one.round(2) for one in forms), *(one[:1] for one in forms)]:
            checked(Given("mine", 0, np.zeros(len(logits), int), logits))
    checked(Given("a constant answer", 0, np.zeros(30, int), np.zeros((30, 1000))))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_by_row(tmp_path, value):
    """One such number among thousands says where it stands."""
    _, logits = answers()
    logits[17, 2] = value
    with pytest.raises(ArgumentError, match=rf"logits\[17\] hold {value}"):
        record(tmp_path, logits=logits)


def test_logits_beyond_float32_are_recorded_as_its_largest(tmp_path):
    """Not as infinite ones, which no reader takes, and without a warning."""
    labels, logits = answers()
    logits[:, 4] = np.finfo(np.float64).min
    logits[5, 2] = 1e308
    run = record(tmp_path, labels=labels, logits=logits)
    kept = run.predictions.logits
    assert kept[5, 2] == -kept[0, 4] == np.finfo(np.float32).max
    assert kept[0, :4] == pytest.approx(logits[0, :4])
    assert run.predictions.predicted.tolist() == logits.argmax(1).tolist()


def test_predictions_beside_other_logits_are_refused(tmp_path):
    """Accuracy would be of the one and calibration of the other; among equal logits any may be."""
    _, logits = answers()
    logits[7, :2] = logits.max() + 1
    predicted = logits.argmax(1)
    predicted[7] = 1
    assert record(tmp_path, logits=logits, predictions=predicted).predictions.predicted[7] == 1
    predicted[8] = logits[8].argmin()
    with pytest.raises(
        ArgumentError, match=r"predictions\[8\] is \d, where the logits are highest"
    ):
        record(tmp_path, logits=logits, predictions=predicted)


def test_torch_is_not_imported(tmp_path):
    """A script with another framework does not wait for it."""
    code = (
        "import sys, numpy as np, lmsm_cli\n"
        f"lmsm_cli.record_run({str(tmp_path)!r}, loss='mine', seed=0, labels=[0, 1],"
        " logits=np.eye(2) * 3)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd())
    assert done.returncode == 0


def test_a_repetition_is_a_newer_run(tmp_path):
    """Of two records of one loss and seed the newer counts, and the older is told."""
    record(tmp_path, labels=answers()[0])
    record(tmp_path, labels=answers()[0])
    records = [read_run(path) for path in find_runs([tmp_path])]
    comparison = compare_runs(records)
    assert [group.seeds for group in comparison.groups] == [(3,)]
    assert "repeated by the newer" in comparison.unscored[0].reason


@pytest.mark.parametrize(
    "command", [["eval"], ["resume"], ["export"], ["predict"]], ids=lambda c: c[0]
)
def test_commands_that_need_a_net_say_that_there_is_none(tmp_path, capsys, command):
    """A checkpoint was never there, and the message says why."""
    run = record(tmp_path / "runs").path
    (tmp_path / "x.png").write_bytes(b"")
    more = [str(tmp_path / "x.png")] if command == ["predict"] else []
    assert main([*command, str(run), *more]) == 4
    assert "holds no net: it has the results of another program" in capsys.readouterr().err


def test_the_page_of_a_recorded_run_shows_what_is_known(tmp_path):
    """Its loss and seed, and no `None` in place of a data set or a model."""
    run = record(tmp_path, class_counts=None)
    text = page(compare_runs([run]), [run])
    assert "mine" in text
    assert ">None<" not in text
    assert main(["report", str(run.path)]) == 0
    assert (run.path / "report.html").is_file()
