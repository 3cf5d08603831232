"""CSV and .npz files of results: read as runs, or refused by file and line."""

import csv
import itertools
import sys

import numpy as np
import pytest
from sklearn import metrics

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.result_files import read_results
from lmsm_cli.errors import DataError
from tests.conftest import printed_json

LABELS = [0, 1, 2, 0, 1, 2]
PREDICTED = [0, 1, 2, 0, 0, 2]


def write(path, header, rows):
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_one(path):
    """Return the only run of a file."""
    (record,), _ = read_results([path])
    return record


def test_labels_and_predictions_in_a_file_named_by_loss_and_seed(tmp_path):
    """The scores are scikit-learn's; what nobody can know is not there."""
    path = write(
        tmp_path / "my-loss-s12.csv",
        ["label", "predicted"],
        zip(LABELS, PREDICTED, strict=True),
    )
    record = read_one(path)
    assert record.config == {"loss": "my-loss", "seed": 12, "source": "outside"}
    assert record.scores.accuracy == pytest.approx(5 / 6)
    macro = metrics.f1_score(LABELS, PREDICTED, average="macro")
    assert record.scores.macro_f1 == pytest.approx(macro)
    assert record.scores.calibration_error is None
    assert record.predictions.predicted.tolist() == PREDICTED
    assert record.state == "completed"
    assert list(tmp_path.iterdir()) == [path], "nothing is written beside it"


def test_logits_ids_and_counts_of_a_file_that_names_its_run(tmp_path):
    """Columns of logits by their numbers, in whatever order; training images by class."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(6, 3)).round(3)
    rows = [
        (f"im{n}", label, *logits[n, [2, 0, 1]], [9, 5, 1][label], "mine", 4)
        for n, label in enumerate(LABELS)
    ]
    header = ["id", "label", "logit_2", "logit_0", "logit_1", "train_count", "name", "seed"]
    record = read_one(write(tmp_path / "x.csv", header, rows))
    assert record.config == {"loss": "mine", "seed": 4, "source": "outside"}
    assert record.predictions.predicted.tolist() == logits.argmax(1).tolist()
    assert [row.train_count for row in record.scores.per_class] == [9, 5, 1]
    assert record.scores.groups["few"] == record.scores.per_class[2].accuracy
    assert record.scores.top_k["2"] == metrics.top_k_accuracy_score(LABELS, logits, k=2)
    assert [place.decode() for place in record.images.places] == [f"im{n}" for n in range(6)]


def test_no_class_of_a_file_is_rare_where_counts_differ_a_little(tmp_path):
    """50 training images are 1.25 times 40, so there are no groups; 60 are 1.5 times as many."""
    header = ["label", "predicted", "train_count"]
    for most, groups in ((50, set()), (60, {"many", "medium", "few"})):
        counts = [(label, label, (most, 45, 40)[label]) for label in LABELS]
        assert set(read_one(write(tmp_path / "a-s0.csv", header, counts)).scores.groups) == groups


def test_names_of_classes(tmp_path):
    """Labels may be names; columns of logits then tell the classes and their order."""
    path = write(tmp_path / "a-s0.csv", ["label", "predicted"], [("b", "a"), ("a", "a")])
    assert [row.name for row in read_one(path).scores.per_class] == ["a", "b"]
    path = write(tmp_path / "c-s0.csv", ["label", "logit_b", "logit_a"], [("b", 2, 1), ("a", 3, 1)])
    record = read_one(path)
    assert [row.name for row in record.scores.per_class] == ["b", "a"]
    assert record.predictions.predicted.tolist() == [0, 0]


@pytest.mark.parametrize("form", ["{}.0", "{}.", "{:.18e}"])
def test_whole_numbers_may_be_written_as_floats(tmp_path, form):
    """As pandas writes a column that had a gap once, and numpy.savetxt every one: the same run.

    Of twelve classes, whose numbers as texts would be in another order.
    """
    labels = list(range(12)) * 2
    rows = [(label, place % 5, 40 - label, 3) for place, label in enumerate(labels)]
    header = ["label", "predicted", "train_count", "seed"]
    plain = read_one(write(tmp_path / "a-s0.csv", header, rows))
    floats = [[form.format(value) for value in row] for row in rows]
    other = read_one(write(tmp_path / "b-s0.csv", header, floats))
    assert [row.name for row in other.scores.per_class] == [str(label) for label in range(12)]
    assert other.predictions.labels.tolist() == labels
    assert other.config["seed"] == 3
    assert other.scores == plain.scores


def test_numbers_with_a_fraction_are_names_and_a_gap_is_none(tmp_path):
    """Versions such as 1.5 are classes; where one label is a whole number all must be."""
    path = write(tmp_path / "a-s0.csv", ["label", "predicted"], [("1.5", "2.5"), ("2.5", "2.5")])
    assert [row.name for row in read_one(path).scores.per_class] == ["1.5", "2.5"]
    path = write(tmp_path / "b-s0.csv", ["label", "predicted"], [("0.0", "1.0"), ("1.0", "nan")])
    with pytest.raises(DataError, match=r"line 3: predicted is 'nan'"):
        read_results([path])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_may_be_parted_by_semicolons_or_tabs(tmp_path, delimiter):
    """As programs write them where the comma is a decimal one; a name may hold a comma."""
    rows = [("label", "predicted", "id", '"my, very, long note"')]
    rows += [("a, b", "c", "1", ""), ("c", "c", "2", "")]
    path = tmp_path / "a-s0.csv"
    path.write_text("\n" + "\n".join(delimiter.join(row) for row in rows) + "\n")
    scores = read_one(path).scores
    assert [(row.name, row.accuracy) for row in scores.per_class] == [("a, b", 0), ("c", 1)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_one_class_may_be_called_by_a_numeral(tmp_path, order):
    """Whichever row comes first: a column is of numbers only where all of its labels are."""
    rows = [("cat", "cat", "a"), ("7", "cat", "b"), ("7", "7", "c")]
    path = tmp_path / "a-s0.csv"
    write(path, ["label", "predicted", "id"], [rows[place] for place in order])
    scores = read_one(path).scores
    assert [(row.name, row.accuracy) for row in scores.per_class] == [("7", 0.5), ("cat", 1)]


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_logits_as_large_as_numbers_can_be_are_scored(tmp_path, suffix):
    """Without a warning, which is an error in tests; a class that is ruled out has no share."""
    logits = np.array([[1e308, -1e308, -1e308], [-1.7e308, 2.0, 1.0], [1e308, 1e308, 1e308]])
    path = tmp_path / f"a-s0{suffix}"
    if suffix == ".csv":
        rows = [(label, *row) for label, row in enumerate(logits.tolist())]
        write(path, ["label", "logit_0", "logit_1", "logit_2"], rows)
    else:
        np.savez(path, label=np.arange(3), logits=logits)
    surest, wrong = 1 / (1 + np.exp(-1)), 1 / 3  # beside a share of 1; the last row is wrong
    error = ((1 - surest) + wrong) / 3
    assert read_one(path).scores.calibration_error == pytest.approx(error)


def test_an_npz_takes_the_counts_of_rows_as_a_csv_does(tmp_path):
    """60 images of three classes are no 60 classes: both files give one run."""
    labels = np.arange(60) % 3
    guesses, counts = (labels + (labels > 1)) % 3, np.array([300, 90, 20])[labels]
    np.savez(tmp_path / "a-s0.npz", label=labels, predicted=guesses, train_count=counts)
    rows = zip(labels.tolist(), guesses.tolist(), counts.tolist(), strict=True)
    write(tmp_path / "b-s0.csv", ["label", "predicted", "train_count"], rows)
    of_npz, of_csv = (read_one(tmp_path / name).scores for name in ("a-s0.npz", "b-s0.csv"))
    assert of_npz.per_class == of_csv.per_class
    assert [row.train_count for row in of_npz.per_class] == [300, 90, 20]


def test_a_long_file_holds_several_runs(tmp_path):
    """Rows of several losses and seeds, mixed where they have ids."""
    rows = [
        (seed, loss, image, label, label if loss == "a" else 0)
        for image, label in enumerate(LABELS)
        for loss in ("a", "b")
        for seed in (0, 1)
    ]
    path = write(tmp_path / "all.csv", ["seed", "loss", "id", "label", "predicted"], rows)
    records, _ = read_results([path])
    found = {(one.config["loss"], one.config["seed"]): one.scores.accuracy for one in records}
    assert found == {("a", 0): 1, ("a", 1): 1, ("b", 0): 1 / 3, ("b", 1): 1 / 3}
    assert len({one.path for one in records}) == 4
    assert records[0].path.name == "all.csv:a-s0"


@pytest.mark.parametrize(
    "losses",
    [("ce+mixup", "ce mixup", "ce/mixup", "ce%2fmixup"), ("фокал", "маржа"), ("a" * 300, "b\0")],
)
def test_runs_of_one_file_keep_their_own_answers(tmp_path, losses, capsys):
    """Whatever letters tell the losses apart: each run is found by a path of its own."""
    known = [(loss, seed) for loss in ("softmax", *losses) for seed in (0, 1, 2)]
    rows = [
        # in the n-th loss, n of seven images are right
        (*known[run], image, image % 2, (image % 2) ^ (image % 7 >= run // 3 + 1))
        for run in range(len(known))
        for image in range(70)
    ]
    path = write(tmp_path / "all.csv", ["loss", "seed", "id", "label", "predicted"], rows)
    assert len({one.path for one in read_results([path])[0]}) == len(known)
    groups = printed_json(capsys, "compare", path, "--html", tmp_path / "page.html")["groups"]
    found = {row["differs"]["loss"]: row["differences"].get("accuracy") for row in groups}
    right = {loss: found[loss]["mean"] for loss in losses}
    assert right == pytest.approx({loss: n / 7 for n, loss in enumerate(losses, 1)})


def test_what_is_only_predicted_may_be_a_class_without_images(tmp_path):
    """Other names, numerals where a label is one, and numbers of columns that have names."""
    for rows in (
        [("cat", "emu"), ("dog", "fox")],
        [("cat", "7"), ("8", "7")],
        [("cat", "cat"), ("dog", "7")],
    ):
        found = read_one(write(tmp_path / "a-s0.csv", ["label", "predicted"], rows)).scores
        assert {row.name for row in found.per_class} == {one for row in rows for one in row}
    header = ["label", "predicted", "logit_cat", "logit_dog"]
    path = write(tmp_path / "a-s0.csv", header, [("cat", 0, 2, 1), ("dog", 0, 4, 3)])
    assert read_one(path).scores.accuracy == 1 / 2


def test_numbers_for_names_are_refused_as_texts_in_an_npz_file_too(tmp_path):
    """As in a CSV file, where classes do not tell which name a number stands for."""
    arrays = {"label": np.array(["cat", "dog"]), "predicted": np.array(["0", "1"])}
    np.savez(tmp_path / "a-s0.npz", **arrays)
    with pytest.raises(DataError, match=r"predicted\[0\] is '0', where labels are names"):
        read_one(tmp_path / "a-s0.npz")
    np.savez(tmp_path / "a-s0.npz", **arrays, classes=["cat", "dog"])
    assert read_one(tmp_path / "a-s0.npz").scores.accuracy == 1


def test_arrays_in_an_npz_file(tmp_path):
    """Plain or compressed, with single values for loss and seed, or these in its name."""
    logits = np.eye(3)[PREDICTED] * 4
    arrays = {"labels": LABELS, "logits": logits, "class_counts": [9, 5, 1], "ids": np.arange(6)}
    np.savez_compressed(tmp_path / "x.npz", **arrays, loss="mine", seed=2, classes=list("abc"))
    np.savez(tmp_path / "theirs-s7.npz", label=LABELS, predicted=np.array(PREDICTED, np.uint8))
    (one, other), unused = read_results([tmp_path / "x.npz", tmp_path / "theirs-s7.npz"])
    assert one.config == {"loss": "mine", "seed": 2, "source": "outside"}
    assert [row.name for row in one.scores.per_class] == ["a", "b", "c"]
    assert other.config == {"loss": "theirs", "seed": 7, "source": "outside"}
    assert one.predictions.predicted.tolist() == other.predictions.predicted.tolist() == PREDICTED
    assert unused == []


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".TSV", ".txt"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_text_parted_by_tabs_may_end_as_such_lists_do(tmp_path, suffix, delimiter, capsys):
    """Whatever parts the columns, a table is known by its ending, as a list of images is."""
    rows = [("label", "predicted"), ("0", "0"), ("1", "0"), ("2", "2")]
    for seed in (0, 1):
        text = "".join(delimiter.join(row) + "\n" for row in rows)
        (tmp_path / f"softmax-s{seed}{suffix}").write_text(text)
    files = [tmp_path / f"softmax-s{seed}{suffix}" for seed in (0, 1)]
    (found,) = printed_json(capsys, "compare", *files)["groups"]
    assert found["metrics"]["accuracy"] == {"mean": pytest.approx(2 / 3), "sd": 0, "n": 2}


def test_a_file_of_another_ending_is_told_which_there_are(tmp_path, capsys):
    """As a wrong call; a text in a folder without runs makes no files of results of it."""
    (tmp_path / "softmax-s0.dat").write_text("label,predicted\n0,0\n1,1\n")
    assert main(["compare", str(tmp_path / "softmax-s0.dat")]) == 2
    assert "a file of results, which ends in .csv, .tsv, .txt or .npz" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    assert main(["compare", str(tmp_path / "empty")]) == 2
    assert "but files of results" not in capsys.readouterr().err
    (tmp_path / "empty" / "softmax-s0.tsv").write_text("label\tpredicted\n0\t0\n1\t1\n")
    assert main(["compare", str(tmp_path / "empty")]) == 2
    assert "but files of results" in capsys.readouterr().err


def test_a_file_given_twice_is_one_and_other_columns_are_told(tmp_path):
    """What is not used is said, as a misspelt name of a column would be."""
    path = write(tmp_path / "a-s0.csv", ["label", "predicted", "weight"], [(0, 0, 3), (1, 0, 3)])
    records, notes = read_results([path, tmp_path / "." / "a-s0.csv"])
    assert len(records) == 1
    assert notes == [f"{path}: not used: weight"]


USUAL = "label,predicted\n0,0\n1,1\n"
BAD_CSV = [
    ("", "a-s0.csv is empty"),
    ("\n\n", "a-s0.csv is empty"),
    ("label,predicted\n", "has a header and no rows"),
    ("0,1\n1,1\n", "has no column label"),
    ("lable,predicted\n0,0\n", "has no column label.*did you mean 'lable'"),
    ("label;logit_0;logit_1\n0;0,5;2\n", "line 2: logit_0 is '0,5': write a decimal point"),
    ("label;predicted\n0,0;0,0\n1,0;1,0\n", "line 2: label is '0,0': write a decimal point"),
    ("label\n0\n1\n", "predictions or logits must be given"),
    (USUAL + "1\n", "a-s0.csv, line 4: 1 fields, and the header has 2"),
    (USUAL + "\n1,1,1\n", "a-s0.csv, line 5: 3 fields, and the header has 2"),
    (USUAL + "-1,1\n", "a-s0.csv, line 4: label is '-1': the 2 classes are 0 to 1"),
    (USUAL + "1,x\n", "a-s0.csv, line 4: predicted is 'x', where labels are class numbers"),
    (USUAL + "nan,1\n", "a-s0.csv, line 4: label is 'nan', where labels are class numbers"),
    ("label,predicted\nnan,1\n1,1\n", "a-s0.csv, line 2: label is 'nan', where labels are"),
    (
        "label,predicted\n2018,2018\n2021,2018\n",
        "line 3: label is 2021, and .* only 2 occur: where they are names, write each with a",
    ),
    (
        "label,logit_2018,logit_2021\n2018,1,2\n",
        "no column logit_0; where .* are names, write each",
    ),
    ("label,logit_0,logit_1\n2018,1,2\n", "line 2: label is '2018': .* write each with a letter"),
    (
        "label,predicted\ncat,0\ndog,1\n",
        "line 2: predicted is '0', where labels are names, as 'cat' is: give both as names, or",
    ),
    ("label,predicted\ncat,0.93\ndog,0.41\n", "line 2: predicted is '0.93', where labels are"),
    (  # of two runs the second alone is bad
        "seed,label,predicted\n0,cat,dog\n0,dog,dog\n1,cat,0\n1,dog,1\n",
        "line 4: predicted is '0', where labels are names",
    ),
    (USUAL + "1,\n", "a-s0.csv, line 4: predicted is empty"),
    (USUAL + ",1\n", "a-s0.csv, line 4: label is empty"),
    ("label,predicted\ncat,dog\ndog,\n", "a-s0.csv, line 3: predicted is empty"),
    ("label,predicted\ncat,dog\n ,dog\n", "a-s0.csv, line 3: label is empty"),
    (USUAL + "1,1.5\n", "a-s0.csv, line 4: predicted is '1.5'"),
    (USUAL + "1,nan\n", "a-s0.csv, line 4: predicted is 'nan'"),
    (USUAL + '1,"1\n', "a-s0.csv, line 4: unexpected end of data"),
    ("label,label,predicted\n0,0,0\n", "line 1: two columns are called 'label'"),
    ("label,labels,predicted\n0,0,0\n", "label and labels are both labels"),
    ("label,logit_0,logit_2\n0,1,2\n", "line 1: there is no column logit_1"),
    ("label,logit_0,logit_1\n0,1,2\n1,nan,2\n", "line 3: logits hold nan"),
    ("label,logit_0,logit_1\n0,1,2\n1,2,-inf\n", "line 3: logits hold -inf"),
    ("label,logit_0,logit_1\n0,1,2\n\n1,2,x\n", "line 4: logit_1 is 'x': no number"),
    ("label,logit_0,logit_1\n0,1,2\n2,2,1\n", "line 3: label is '2': the 2 classes are 0 to 1"),
    ("label,logit_0,logit_1\n0,0.1,0.9\n1,0.4,0.6\n", "logits are probabilities"),
    ("label,logits\n0,0.1\n", "give logits as logit_0, logit_1"),
    ("id,label,predicted\nq,0,0\nr,1,1\nq,1,1\n", "line 4: id is 'q', as an earlier row"),
    ("id,label,predicted\nq,0,0\n,1,1\n", "line 3: id is empty"),
    ("label,predicted,train_count\n0,0,5\n1,1,4\n0,1,6\n", "line 4: train_count is 6, where"),
    ("label,predicted,train_count\n0,0,5\n1,1,x\n", "line 3: train_count is 'x'"),
    ("label,predicted,seed\n0,0,1\n1,1,-3\n", "line 3: seed is '-3'"),
    ("label,predicted,seed\n0,0,1\n1,1,2\n1,0,1\n", "line 4: a with seed 1 begins again"),
    ("label,predicted\n0,0\n0,0\n", "classes are fewer than two"),
    ("label,predicted\n0,0\n1,999999999\n", "line 3: predicted is 999999999.*below 100,000"),
    ("name,label,predicted\na,0,0\n,1,1\n", "line 3: name is empty"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CSV, ids=[message for _, message in BAD_CSV])
def test_bad_csv_is_refused_by_line(tmp_path, text, message):
    """As bad data, whole: no row is dropped."""
    path = tmp_path / "a-s0.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_results([path])


@pytest.mark.parametrize("together", [True, False])
def test_rows_of_several_settings_are_no_run(tmp_path, together):
    """They would be more test images than there are, in blocks or in turns."""
    header = ["loss", "seed", "lr", "label", "predicted"]
    rows = [
        ("softmax", 0, lr, label, label) for lr, label in itertools.product(("0.1", "0.01"), LABELS)
    ]
    if not together:
        rows = [rows[place + half] for place in range(len(LABELS)) for half in (0, len(LABELS))]
    path = write(tmp_path / "runs.csv", header, rows)
    told = (
        "the rows of softmax with seed 0 have lr 0.1, lr 0.01, each with the same labels: give "
        "each a loss name of its own, such as 'softmax lr=0.1', or a column id"
    )
    with pytest.raises(DataError, match=told):
        read_results([path])
    ids = [(*row, number) for number, row in enumerate(rows)]
    assert len(read_one(write(path, [*header, "id"], ids)).predictions.labels) == 12
    other = [
        (*row[:2], "0.1" if number < 5 else "0.01", *row[3:]) for number, row in enumerate(rows)
    ]
    assert len(read_one(write(path, header, other)).predictions.labels) == 12


@pytest.mark.parametrize("decimals", [2, 3])
def test_rounded_probabilities_in_a_file_are_refused(tmp_path, decimals):
    """As tables hold them; rows of three classes then add up to 0.99 or 1.01 now and then."""
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 40).round(decimals)
    assert not np.allclose(shares.sum(axis=1), 1, atol=1e-4)
    rows = [(place % 3, *row) for place, row in enumerate(shares.tolist())]
    path = write(tmp_path / "a-s0.csv", ["label", "logit_0", "logit_1", "logit_2"], rows)
    with pytest.raises(DataError, match=r"a-s0.csv: logits are probabilities"):
        read_results([path])


def test_text_that_is_not_utf8_is_refused_and_a_mark_is_not(tmp_path):
    """Spreadsheets write a byte order mark, and Windows' line ends."""
    path = tmp_path / "a-s0.csv"
    path.write_bytes(b"\xef\xbb\xbf" + USUAL.replace("\n", "\r\n").encode())
    assert read_one(path).scores.accuracy == 1
    path.write_bytes(b"label,predicted\n\xff,0\n")
    with pytest.raises(DataError, match=r"a-s0.csv is no text in UTF-8"):
        read_results([path])


class Trap:
    """What a pickle would run."""

    def __reduce__(self):
        """Leave the process."""
        return sys.exit, ("a pickle was executed",)


BAD_NPZ = [
    ({"label": np.array([Trap()], object)}, "holds objects that are no plain arrays"),
    ({"predicted": LABELS}, "has no column label"),
    ({"label": LABELS}, "predictions or logits must be given"),
    ({"label": LABELS, "predicted": [0]}, "predicted are 1 for 6 labels"),
    ({"label": LABELS, "logits": np.full((6, 3), np.nan)}, r"a-s0.npz: logits\[0\] hold nan"),
    ({"label": LABELS, "predicted": np.arange(6) - 1}, r"a-s0.npz: predicted\[0\] is -1"),
    ({"label": LABELS, "predicted": LABELS, "ids": [1] * 6}, r"a-s0.npz: ids\[1\] is '1'"),
    ({"label": LABELS, "predicted": LABELS, "seed": [1, 2]}, "seed has 2 values"),
    ({"label": LABELS, "predicted": LABELS, "seed": 0.5}, "seed is 0.5"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_NPZ, ids=[message for _, message in BAD_NPZ])
def test_bad_npz_is_refused(tmp_path, arrays, message):
    """By file and row; a pickle is never executed."""
    np.savez(tmp_path / "a-s0.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_results([tmp_path / "a-s0.npz"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"label,predicted\n0,0\n"])
def test_what_is_no_npz_file_is_refused(tmp_path, content):
    """Empty, half, or another kind of file."""
    (tmp_path / "a-s0.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a-s0\.npz is no \.npz file"):
        read_results([tmp_path / "a-s0.npz"])


@pytest.mark.parametrize("name", ["results.csv", "results.npz", "a-sx.csv", "-s3.csv"])
def test_a_file_that_does_not_tell_its_run_is_refused(tmp_path, name):
    """Neither in a column nor in its name: the message says what a name looks like."""
    if name.endswith("csv"):
        (tmp_path / name).write_text(USUAL)
    else:
        np.savez(tmp_path / name, label=LABELS, predicted=PREDICTED)
    with pytest.raises(DataError, match=r"does not say its loss.*NAME-sSEED"):
        read_results([tmp_path / name])


def test_one_loss_and_seed_in_two_files_is_refused(tmp_path):
    """Which of them counts, nobody can say."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x-s0.csv").write_text(USUAL)
    with pytest.raises(DataError, match=r"b/x-s0.csv: x with seed 0 is in .*a/x-s0.csv too"):
        read_results([tmp_path / "a" / "x-s0.csv", tmp_path / "b" / "x-s0.csv"])


def test_a_folder_of_files_says_how_to_give_them(tmp_path, capsys):
    """Only runs are looked for in folders: a table that lies beside them is no result."""
    (tmp_path / "a-s0.csv").write_text(USUAL)
    assert main(["compare", str(tmp_path)]) == 2
    assert f"give these by name, such as {tmp_path}/*.csv" in capsys.readouterr().err


def test_the_command_reads_files_and_ends_with_3_for_bad_ones(tmp_path, capsys):
    """Mixed with nothing, as JSON; a missing file and a bad row are told in one line."""
    for seed in range(3):
        rows = zip(LABELS, np.roll(PREDICTED, seed), strict=True)
        write(tmp_path / f"softmax-s{seed}.csv", ["label", "predicted"], rows)
    files = [str(tmp_path / f"softmax-s{seed}.csv") for seed in range(3)]
    document = printed_json(capsys, "compare", *files)
    (group,) = document["groups"]
    assert (group["label"], group["seeds"]) == ("softmax", [0, 1, 2])
    (tmp_path / "bad-s0.csv").write_text(USUAL + "0\n")
    assert main(["compare", *files, str(tmp_path / "bad-s0.csv")]) == 3
    assert "bad-s0.csv, line 4: 1 fields" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none-s0.csv")]) == 3
    assert "none-s0.csv: No such file" in capsys.readouterr().err
