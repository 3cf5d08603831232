"""The tables of a comparison, and its other forms."""

import csv
import io
from dataclasses import replace

import pytest

from lmsm_cli.comparison.intervals import Difference
from lmsm_cli.comparison.records import ClassStatistic, Comparison, Group, Statistic, Unscored
from lmsm_cli.metrics import METRICS
from lmsm_cli.reports.comparison_tables import comparison_notes, comparison_tables
from lmsm_cli.reports.exports import to_csv, to_markdown
from lmsm_cli.reports.verdicts import need_text
from tests.test_tables import drawn, rows

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "many", "medium", "few")


def group(label, mean, test_set=0, per_class=(0.5, 0.5), train=(30, 3), **more):
    """Return a group of two runs whose metrics are all `mean`, sd 0.01."""
    metrics = dict.fromkeys(METRICS) | {name: Statistic(mean, 0.01, 2) for name in SHARES}
    classes = zip(("cat", "dog"), train, per_class, strict=True)
    statistics = tuple(ClassStatistic(name, n, 7, Statistic(a, None, 1)) for name, n, a in classes)
    return Group(
        label, {"loss": label}, test_set, (1, 2), ("r1", "r2"), metrics, statistics, **more
    )


def test_a_best_that_is_told_from_all_others_is_marked():
    """It has a `*` where the comparison says so, and in no other column or row."""
    groups = (group("softmax", 0.6), group("lsoftmax", 0.7, best=("few", "accuracy")))
    overall, classes = comparison_tables(Comparison(("loss",), groups, ()))
    assert ["1", "softmax", "2", *["60.0±1.0"] * 6] in rows(overall)
    plain = ["70.0±1.0"] * 4
    assert ["2", "lsoftmax", "2", "70.0±1.0*", *plain, "70.0±1.0*"] in rows(overall)
    assert "*" not in drawn(classes)


def test_nothing_is_best_among_equals_or_across_test_sets():
    """No mark where all are equal, and none between runs that saw different test images."""
    alike = Comparison(("loss",), (group("a", 0.6), group("b", 0.6)), ())
    apart = Comparison(("loss",), (group("a", 0.6), group("b", 0.7, test_set=1)), ())
    for comparison in (alike, apart):
        for table in comparison_tables(comparison):
            assert not any(word.endswith("*") for line in rows(table)[2:] for word in line)
    assert len(comparison_tables(apart)) == 3


def test_classes_with_other_training_counts_show_them_in_each_cell():
    """Where groups had different training images, a count stands with each accuracy."""
    groups = (group("a", 0.6), group("b", 0.7, train=(30, 30), per_class=(0.5, 0.9)))
    _, classes = comparison_tables(Comparison(("loss",), groups, ()))
    assert ["dog", "7", "3:", "50.0", "30:", "90.0"] in rows(classes)


def test_run_without_scores_has_a_row_that_says_why():
    """A run in no group is named with its reason, in a table that makes no other one wider."""
    why = "no scores.json; status failed" * 3
    run = Unscored("runs/x", why)
    alone = Comparison((), (), (run,))
    beside = Comparison(("loss",), (group("softmax", 0.6), group("focal", 0.7)), (run,))
    for comparison, width in ((alone, None), (alone, 20), (beside, None), (beside, 80)):
        tables = comparison_tables(comparison, width=width)
        (left_out,) = [table for table in tables if table.title == "Left out"]
        assert ["x:", *why.split()] in rows(left_out)
        assert not any("no scores" in drawn(table) for table in tables if table is not left_out)
    plain = replace(beside, unscored=())
    assert [table.title for table in comparison_tables(plain, width=80)] == [
        table.title for table in comparison_tables(beside, width=80) if table.title != "Left out"
    ]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_no_number_is_broken_on_a_narrow_terminal(width):
    """Text folds and is never cut; scores, intervals and headings stay on one line."""
    label = "lsoftmax:margin=4,lambda_min=5 neck=relu"
    change = Difference(-0.338, -0.595, -0.081, 5, True, "worse")
    differing = group(
        label + "x",
        0.7,
        differences=dict.fromkeys(("few", "balanced_accuracy", "accuracy"), change),
        verdict="can't tell on rare classes, better overall",
        best=SHARES,
    )
    differing.differences["accuracy"] = replace(change, mean=-0.339)
    tables = comparison_tables(
        Comparison((), (group(label, 0.6, is_baseline=True), differing), ()), width=width
    )
    text = "".join(drawn(table, width) for table in tables)
    assert "…" not in text
    assert text.count("70.0±1.0*") == 6
    assert text.count(" [-59.5, -8.1]") == 2
    assert text.count("5 paired") == 1
    assert max(map(len, text.splitlines())) <= width
    words = [word for line in text.splitlines() for word in line.split()]
    for heading in ("accuracy", "balanced", "many", "medium", "verdict", "seeds"):
        assert heading in words


def held():
    """Return a comparison of a baseline with a group that is 3.1 points better on rare classes."""
    few = Difference(0.031, 0.005, 0.057, 5, True, "better")
    overall = Difference(-0.01, None, None, 5, True, "can't tell")
    better = group(
        "lso|ftmax",
        0.7,
        differences={"few": few, "balanced_accuracy": overall, "accuracy": overall},
        verdict="better on rare classes, can't tell overall",
        best=("few",),
    )
    return Comparison(("loss",), (group("softmax", 0.6, is_baseline=True), better), (), ("unlike",))


def test_differences_have_interval_and_verdict_in_points():
    """Difference, bounds, pairs and verdict stand in one row; the baseline has none."""
    *_, against = comparison_tables(held())
    assert against.title.startswith("Against softmax, in points: difference [95% interval over see")
    (row,) = [line for line in rows(against) if line[:1] == ["2"]]
    verdict = "better on rare classes, no clear difference overall"
    assert " ".join(row) == f"2 lso|ftmax +3.1 [+0.5, +5.7] -1.0 5 paired {verdict}"
    assert comparison_notes(held())[0] == "unlike"


def test_a_margin_of_each_class_is_said_to_be_the_rarests():
    """With margins by rarity a note says whose margin the column has; else none does."""
    notes = {
        loss: " ".join(comparison_notes(Comparison(("loss",), (group(loss, 0.6),), ())))
        for loss in (
            *("lsoftmax:margin=auto", "lsoftmax:tau=0,margin=tail", "lsoftmax:margin_max=3"),
            *("lsoftmax:margin=2", "my_losses:Mine:margin=auto", "mine:margin=automatic"),
        )
    }
    told = [loss for loss, note in notes.items() if "that of the rarest class" in note]
    assert told == list(notes)[:3]


def test_a_difference_that_repeats_another_is_shown_once():
    """On balanced test images accuracy is balanced accuracy: one column is enough."""
    *_, against = comparison_tables(held())
    headers = " ".join(str(column.header) for column in against.columns)
    assert headers == "# run few balanced seeds verdict"


@pytest.mark.parametrize(("noise", "columns"), [(-2e-17, 1), (-2e-4, 2)])
def test_a_score_that_repeats_another_but_for_rounding_is_no_column(noise, columns):
    """0 and -2e-17 are one difference; -0.02 points are another, on the other side of 0."""
    known = {
        key: Difference(mean, None, None, 5, True, "can't tell")
        for key, mean in (("balanced_accuracy", 0.0), ("accuracy", noise))
    }
    groups = (group("softmax", 0.6, is_baseline=True), group("b", 0.6, differences=known))
    *_, against = comparison_tables(Comparison(("loss",), groups, ()))
    names = {str(column.header) for column in against.columns}
    assert len(names & {"balanced", "overall", "accuracy"}) == columns
    assert "+0.0" in drawn(against)


def test_only_changed_leaves_out_what_is_alike():
    """Scores and classes that all rows share are gone, others stay."""
    groups = (group("a", 0.6, per_class=(0.5, 0.5)), group("b", 0.6, per_class=(0.5, 0.9)))
    scores, classes = comparison_tables(Comparison(("loss",), groups, ()), only_changed=True)
    assert [str(column.header) for column in scores.columns] == ["#", "run", "n"]
    assert [line[0] for line in rows(classes)[3:] if line][1:] == ["dog"]


def test_many_groups_have_no_class_table_but_a_note():
    """A table of 21 columns of accuracies is left to other forms, and said so."""
    many = Comparison(("loss",), tuple(group(f"loss{i}", i / 100) for i in range(21)), ())
    assert len(comparison_tables(many)) == 1
    assert "21 groups: with --html, --csv or --json" in comparison_notes(many)[-1]


def test_narrow_class_tables_come_in_blocks():
    """Seven groups make two tables at 60 columns; many and few name their classes."""
    groups = tuple(group(f"loss{i}", 0.5, per_class=(i / 10, 0.5)) for i in range(7))
    tables = comparison_tables(Comparison(("loss",), groups, ()), width=60)
    first, second = (one for one in tables if "per class" in one.title)
    (cat,) = [line for line in rows(first) if line[:1] == ["cat"]]
    assert cat[:4] == ["cat", "many", "30", "7"]
    assert [line[-1] for line in rows(second) if line[:1] == ["cat"]] == ["60.0"]


def test_what_could_be_told_stands_beside_the_verdict():
    """Seeds for the size asked for, the reason for no verdict, and what weakens it."""
    few = Difference(
        *(0.02, -0.03, 0.07, 3, True, "can't tell"),
        over="seeds and test images",
        seeds_needed=(8, 14),
        reason="",
    )
    alike = group(
        "b",
        0.6,
        differences={"few": few, "balanced_accuracy": replace(few, reason="two seeds")},
        verdict="can't tell",
        remarks=("fewer than 500 training steps",),  # of this group alone
    )
    comparison = Comparison((), (group("a", 0.6, is_baseline=True), alike), (), size=0.03)
    *_, against = comparison_tables(comparison)
    assert against.title.endswith("over seeds and test images]")
    assert "3 points need" in [str(column.header) for column in against.columns]
    text = " ".join(" ".join(line) for line in rows(against))
    assert "8 to 14 seeds in all" in text
    assert "no clear difference (two seeds; fewer than 500 training steps)" in text


def test_what_is_no_verdict_among_several_is_explained_below_the_table():
    """A row whose interval excludes 0 says what it is one of, and one line why that counts."""
    close = Difference(
        *(0.03, 0.01, 0.05, 5, True, "can't tell"), p_holm=0.08, family=4, reason="not after Holm"
    )
    open_one = replace(close, low=-0.01, p_holm=0.2, reason="")
    baseline = group("a", 0.6, is_baseline=True)
    for few, overall, said in (
        (close, close, "better by itself, but not as one of 4 comparisons"),
        (close, open_one, "better on rare classes by itself, but not as one of 4 comparisons"),
        (open_one, replace(close, mean=-0.03), "worse overall by itself, but not as one of 4"),
        (open_one, open_one, ""),
    ):
        changes = {"few": few, "balanced_accuracy": overall}
        row = group("b", 0.6, differences=changes, verdict="can't tell")
        comparison = Comparison((), (baseline, row), ())
        text = " ".join(" ".join(line) for line in rows(comparison_tables(comparison)[-1]))
        markdown = to_markdown(comparison_tables(comparison)[-1])
        assert f"no clear difference{' (' if said else ''}{said}" in text
        assert f"no clear difference{' (' if said else ''}{said}" in markdown
        notes = [one for one in comparison_notes(comparison) if "not as one of 4" in one]
        assert len(notes) == bool(said)
        for note in notes:
            assert "of 4 intervals one excludes 0 by chance in up to 20 % of all studies" in note


def test_of_many_comparisons_one_is_expected_to_exclude_0():
    """From 20 on a share of all studies would be above 100 percent."""
    close = Difference(*(0.03, 0.01, 0.05, 5, True, "can't tell"), family=20)
    close = replace(close, reason="not after Holm")
    row = group("b", 0.6, differences={"few": close}, verdict="can't tell")
    (note,) = [one for one in comparison_notes(Comparison((), (row,), ())) if "Holm's" in one][1:]
    assert "of 20 intervals one or more can be expected to exclude 0 by chance" in note


@pytest.mark.parametrize(
    ("needed", "at_chance", "text"),
    [
        ((3, 3), False, "no more seeds"),
        ((3, 5), False, "no more seeds"),
        ((3, 6), False, "3 to 6 seeds in all"),
        ((7, 7), False, "7 seeds in all"),
        ((9, None), False, "9 or many more seeds in all"),
        ((None, None), False, "more test images"),
        ((3, 3), True, "longer training"),
        (None, True, ""),
    ],
)
def test_the_need_says_whether_the_seeds_at_hand_count(needed, at_chance, text):
    """A number of seeds is of all, not of those to add, and no seeds help who has not learned."""
    few = Difference(
        *(0.02, -0.03, 0.07, 5, True, "can't tell"), seeds_needed=needed, at_chance=at_chance
    )
    assert need_text(group("b", 0.6, differences={"few": few}), "few") == text


def test_the_star_is_explained_where_there_is_one():
    """A title speaks of `*` only above a table that has one."""
    plain, starred = (group("a", 0.6), group("b", 0.7, best=("few",)))
    for groups, is_told in (((plain,), False), ((plain, starred), True)):
        title = comparison_tables(Comparison((), groups, ()))[0].title
        assert ("* clearly better than all others" in title) == is_told


def test_csv_has_a_row_for_each_group_with_fractions():
    """A spreadsheet gets what the tables show, unrounded."""
    baseline, better = csv.DictReader(io.StringIO(to_csv(held())))
    assert (baseline["group"], baseline["is_baseline"], baseline["few difference"]) == (
        "softmax",
        "True",
        "",
    )
    assert (better["few"], better["few sd"], better["few low"], better["class dog"]) == (
        "0.7",
        "0.01",
        "0.005",
        "0.5",
    )
    assert better["loss"] == "lso|ftmax"
    assert (better["class cat training images"], better["class cat test images"]) == ("30", "7")


def test_csv_has_what_a_difference_rests_on():
    """Each difference has what it is over, both p-values, the reason, and what would tell."""
    told = Difference(
        *(0.031, 0.005, 0.057, 5, True, "can't tell"),
        over="seeds and test images",
        p_value=0.02,
        p_holm=0.06,
        family=3,
        reason="not after Holm",
        seeds_needed=(8, 14),
        floor=0.01,
    )
    bare = Difference(-0.01, None, None, 1, True, "can't tell", reason="one seed")
    one = group("vs", 0.7, differences={"few": told, "accuracy": bare})
    groups = (group("softmax", 0.6, is_baseline=True), one)
    baseline, row = csv.DictReader(io.StringIO(to_csv(Comparison(("loss",), groups, ()))))
    titles = ("over", "p", "p after Holm", "comparisons", "verdict", "reason", "seeds needed from")
    titles += ("seeds needed to", "floor")
    assert [row[f"few {title}"] for title in titles] == [
        *("seeds and test images", "0.02", "0.06", "3", "can't tell", "not after Holm", "8", "14"),
        "0.01",
    ]
    assert [row[f"accuracy {title}"] for title in titles] == [
        *("seeds", "", "", "", "can't tell", "one seed", "", "", "")
    ]
    assert {baseline[f"few {title}"] for title in titles} == {""}


CLASSES_OF_ODD_NAMES = (
    *("a sd", "a", "a training images", "a test images", "a sd (2)", "a\n", "a\\n"),
    *("n", "difference", "b sd", "b test images sd"),
)
CHOICES_LIKE_COLUMNS = ("group", "n", "test_set", "few", "minutes", "verdict", "same_as", "lr")
# Only a folder that was written by hand can hold them.
ODD_CHOICES = (
    *("setting n", "setting n (2)", "few sd", "few difference", "class a", "class a sd"),
    *("=n", "'=n"),
)


def csv_of(classes, choices):
    """Return the header and the second row of two groups, one with these classes and choices."""
    change = Difference(0.1, 0.05, 0.15, 2, True, "better")
    per_class = tuple(
        ClassStatistic(name, 100 + number, 200 + number, Statistic(number / 100, number / 1000, 2))
        for number, name in enumerate(classes)
    )
    plain = group("softmax", 0.6, is_baseline=True)
    odd = replace(group("odd", 0.7, differences={"few": change}), per_class=per_class)
    told = {name: f"choice {name!r}" for name in choices}
    plain = replace(plain, differs=plain.differs | dict.fromkeys(choices))
    odd = replace(odd, differs=odd.differs | told)
    text = to_csv(Comparison(("loss", *choices), (plain, odd), ()))
    header, _, row = csv.reader(io.StringIO(text))
    return header, row


@pytest.mark.parametrize("choices", [CHOICES_LIKE_COLUMNS, CHOICES_LIKE_COLUMNS + ODD_CHOICES])
@pytest.mark.parametrize("classes", [("a",), CLASSES_OF_ODD_NAMES, CLASSES_OF_ODD_NAMES[::-1]])
def test_no_column_of_the_csv_takes_the_place_of_another(choices, classes):
    """Whatever choices and classes are called, each has columns of its own, and lmsm's stay."""
    header, row = csv_of(classes, choices)
    assert len(set(header)) == len(header)
    for number in range(len(classes)):
        for value in (100 + number, 200 + number, number / 100, number / 1000):
            assert str(value) in row
    for name in choices:
        assert f"choice {name!r}" in row
    # of runs without such names every column is where and what it was, also behind theirs
    own, values = csv_of(["a"], [])
    assert [name for name in header if name in own] == own
    assert len(header) == len(own) + len(choices) + 4 * (len(classes) - 1)
    found = dict(zip(header, row, strict=True))
    for name, value in zip(own, values, strict=True):
        assert found[name] == value or name.startswith("class ")


def test_what_is_called_as_a_column_is_has_another_title():
    """A choice is a setting, and of class a and class a sd the second is numbered."""
    header, row = csv_of(["a sd", "a"], ["n", "few", "lr"])
    found = dict(zip(header, row, strict=True))
    assert (found["n"], found["few"], found["few difference"]) == ("2", "0.7", "0.1")
    assert (found["setting n"], found["setting few"]) == ("choice 'n'", "choice 'few'")
    assert (found["lr"], "setting lr" in found) == ("choice 'lr'", False)
    assert (found["class a training images"], found["class a"]) == ("101", "0.01")
    assert (found["class a sd"], found["class a sd (2)"]) == ("0.001", "0.0")
    assert header[:8] == [
        "group",
        "n",
        "seeds",
        "test_set",
        "loss",
        *("setting n", "setting few", "lr"),
    ]
    header, row = csv_of(["a sd", "a", "a sd (2)"], [])
    found = dict(zip(header, row, strict=True))
    assert (found["class a sd (3)"], found["class a sd (2)"]) == ("0.0", "0.02")


def test_markdown_escapes_what_it_would_take_for_markup():
    """A bar or star in a name stays one; numbers are right-aligned."""
    lines = to_markdown(comparison_tables(held())[0]).splitlines()
    assert lines[0].startswith("**Test scores in percent")
    assert lines[3] == "| --- | --- | ---: |" + " ---: |" * 6
    assert "lso\\|ftmax" in lines[5]
    assert "70.0±1.0\\*" in lines[5]
    assert len({line.replace("\\|", "").count("|") for line in lines[2:]}) == 1


def test_the_nets_are_told_with_their_sizes():
    """Each once, in the order of the runs; of many the rest is counted, and --json has all."""
    nets = tuple(f"net{n}, {n} weights, 2 features for the last layer" for n in range(8))
    one, many = (
        comparison_notes(Comparison((), (), (), nets=some))[0] for some in (nets[:1], nets)
    )
    assert one == "net: net0, 0 weights, 2 features for the last layer"
    assert many.startswith("nets: net0, 0 weights, 2 features for the last layer; net1")
    assert many.endswith("net5, 5 weights, 2 features for the last layer; and 2 more")
