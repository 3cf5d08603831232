"""Tables, and the consoles that they are printed on."""

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from lmsm_cli.commands import console as consoles
from lmsm_cli.reports.tables import (
    absent_line,
    config_table,
    confusion_table,
    evaluated_line,
    per_class_table,
    reliability_table,
    summary_table,
)
from lmsm_cli.reports.tables_corrections import (
    adjustment_table,
    better_tau,
    correction_lines,
    coverage_line,
    effect_line,
    effect_table,
    worse_words,
)
from lmsm_cli.runs.documents import (
    Adjustment,
    CorrectionFacts,
    Coverage,
    Effect,
    EvaluationDocument,
    MainScores,
    PairedDifference,
    build,
)
from tests.synthetic_runs import document, scores_json

SCORES = scores_json(
    (0.75, 0.5, None),
    train=(30, 20, 10),
    test=(4, 2, 0),
    names=("cat", "dog", "bat"),
    accuracy=0.8,
    balanced_accuracy=0.75,
    macro_f1=0.7494,
    confusion=[[3, 1, 0], [1, 1, 0], [0, 0, 0]],
    groups={"many": 0.75, "medium": 0.5, "few": None},
    effective_margin=1.702,
)
SCORES["per_class"][0] |= {"precision": 1.0, "f1": 6 / 7}


def scores(**changes):
    """Return the scores of three classes, the last of them without images."""
    return document(SCORES | changes)


def evaluated(split, **changes):
    """Return the same scores as `lmsm eval` gives them for some images."""
    own = {"checkpoint": "r/best.pt", "epoch": 3, "split": split, "adjustment": None}
    return document(SCORES | own | changes, EvaluationDocument)


def drawn(table, width=200):
    """Return the table as text on a plain console of that width."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table)
    return file.getvalue()


def rows(table, width=200):
    """Return the words of each line of the drawn table."""
    return [line.split() for line in drawn(table, width).splitlines()]


def test_per_class_table_has_counts_and_percents():
    """Each class shows its images and scores in percent, and `-` where nothing can be said."""
    lines = rows(per_class_table(scores()))
    assert ["cat", "30", "4", "75.0", "100.0", "85.7"] in lines
    assert ["bat", "10", "0", "-", "-", "-"] in lines


def test_a_title_may_be_wider_than_its_table():
    """It stands on one line where the page is wide enough, and its words wrap where it is not."""
    title = "Images by true class (rows) and predicted class (columns)"
    assert drawn(confusion_table(scores())).splitlines()[0] == title
    narrow = drawn(confusion_table(scores()), 30).splitlines()
    assert " ".join(line.strip() for line in narrow[:2]) == title
    assert confusion_table(scores()).title == title


def test_the_images_of_scores_are_named():
    """Validation images are not called test images; class folders have the name of their place."""
    assert evaluated_line(evaluated("test")) == "r/best.pt (epoch 3), on 6 test images"
    assert (
        evaluated_line(evaluated("a[b]/\x1bc")) == "r/best.pt (epoch 3), on 6 images of a[b]/\\x1bc"
    )
    for split, title in (
        ("test", "test images"),
        ("validation", "validation images"),
        ("folder", "  images"),
    ):
        assert f"{title}  accuracy" in drawn(per_class_table(evaluated(split)))


def test_classes_without_images_are_named_beside_the_means():
    """Means run over the classes that have images: which have none is said, else nothing."""
    means = "balanced accuracy and macro F1 are over the other 2 classes"
    assert absent_line(scores()) == f"bat has none of these images: {means}"
    assert absent_line(scores(per_class=SCORES["per_class"][:2])) is None


def test_summary_table_has_groups_and_the_margin_where_there_is_one():
    """Overall scores, groups and effective margin; a loss without a margin has no such row."""
    lines = rows(summary_table(scores()))
    assert ["balanced", "accuracy", "75.0"] in lines
    assert ["accuracy,", "few", "-"] in lines
    assert ["effective", "margin", "1.70"] in lines
    assert "margin" not in drawn(summary_table(scores(effective_margin=None)))


def test_summary_table_has_top_k_and_calibration_where_they_are_known():
    """Scores from probabilities are rows too; a scores.json from before them has none."""
    lines = rows(summary_table(scores(top_k={"2": 0.912, "5": 1.0}, calibration_error=0.0731)))
    assert ["accuracy,", "top", "2", "91.2"] in lines
    assert ["accuracy,", "top", "5", "100.0"] in lines
    assert ["calibration", "error", "7.3"] in lines
    assert "calibration" not in drawn(summary_table(scores()))


def test_reliability_table_has_a_row_for_each_bin():
    """The fifteenth that the mean confidence lies in, with its images, confidence and accuracy."""
    bins = [
        {"count": 3, "confidence": 0.5, "accuracy": 1 / 3},
        {"count": 120, "confidence": 1.0, "accuracy": 0.9},
    ]
    lines = rows(reliability_table(scores(reliability=bins)))
    assert ["46.7", "to", "53.3", "3", "50.0", "33.3"] in lines
    assert ["93.3", "to", "100.0", "120", "100.0", "90.0"] in lines


def test_confusion_table_is_the_matrix():
    """For few classes every count stands in its row and column."""
    lines = rows(confusion_table(scores()))
    assert ["true", "class", "0", "1", "2"] in lines
    assert ["0", "cat", "3", "1", "0"] in lines


def test_confusion_table_lists_the_commonest_errors_of_many_classes():
    """100 classes fit no screen: the errors are listed, most images first, with their share."""
    confusion = [[8 if row == column else 0 for column in range(100)] for row in range(100)]
    confusion[7][3] = 2
    confusion[5][1] = 8
    names = [f"c{number}" for number in range(100)]
    many = scores_json([0.5] * 100, names=names, train=[1] * 100, test=[8] * 100)
    lines = rows(confusion_table(document(many | {"confusion": confusion})))
    first = lines.index(["c5", "c1", "8", "50.0"])
    assert lines[first + 1] == ["c7", "c3", "2", "20.0"]
    assert len(lines) < 10


@pytest.mark.parametrize("table", [per_class_table, confusion_table])
def test_class_names_cannot_style_the_terminal(table):
    """Markup stays text; escape codes and other control characters are spelled out."""
    names = ("[bold red]x[/]", "a\x1b[31m\nb", ":smile:\u202e\udc80")
    rows = zip(SCORES["per_class"], names, strict=True)
    text = drawn(table(scores(per_class=[row | {"name": name} for row, name in rows])))
    assert "[bold red]x[/]" in text
    assert r"a\x1b[31m\nb" in text
    assert r":smile:\u202e\udc80" in text
    assert "\x1b" not in text


def test_what_an_adjustment_did_stands_in_one_look():
    """Scores as trained stand above the adjusted ones, and the line tells tau and its source."""
    unadjusted = {"accuracy": 0.7, "balanced_accuracy": 0.65, "macro_f1": 0.6}
    unadjusted["groups"] = {"many": 0.8, "medium": 0.4, "few": None}
    unadjusted["calibration_error"] = 0.123
    corrected = scores(calibration_error=0.0731)
    chosen_on = {
        "split": "validation",
        "num_images": 58,
        "classes_without_images": [],
        "balanced_accuracy": 0.912,
        "balanced_accuracy_unadjusted": 0.871,
    }
    values = {"method": "adjust", "tau": 1.15, "chosen_on": chosen_on, "unadjusted": unadjusted}
    adjustment = build(Adjustment, values)
    lines = rows(adjustment_table(adjustment, corrected))
    assert ["as", "trained", "70.0", "65.0", "60.0", "80.0", "40.0", "-", "12.3"] in lines
    assert ["tau", "1.15", "80.0", "75.0", "74.9", "75.0", "50.0", "-", "7.3"] in lines
    assert correction_lines(adjustment) == [
        "logit adjustment with tau 1.15, chosen on 58 validation images of the run "
        "(balanced accuracy 0.912, at tau 0: 0.871)"
    ]
    scaled = build(Adjustment, values | {"tau": 0.05, "scale": 18.2749})
    assert correction_lines(scaled)[0].startswith(
        "logit adjustment with tau 0.05 in units of the logits' scale 18.3, chosen on 58"
    )
    words = ["tau", "0.05", "in", "units", "of", "18.3", "80.0", "75.0", "74.9", "75.0", "50.0"]
    assert [*words, "-", "7.3"] in rows(adjustment_table(scaled, corrected))
    given = build(Adjustment, values | {"method": "tau-norm", "tau": 0.5, "chosen_on": None})
    assert correction_lines(given) == ["tau-normalisation with tau 0.5, as given"]


def test_every_part_of_a_correction_has_its_line():
    """Tau, class shares and temperature stand in the order of their use; names are made visible."""
    fitted_on = {
        "split": "validation",
        "num_images": 58,
        "classes_without_images": [],
        "cross_entropy": 0.4567,
        "cross_entropy_at_1": 0.6,
    }
    values = {
        "method": "adjust",
        "tau": 1.0,
        "prior": {"c\x1bat": 0.7, "dog": 0.3},
        "temperature": 1.8345,
        "fitted_on": fitted_on,
        "unadjusted": {"accuracy": 1.0, "balanced_accuracy": 1.0, "macro_f1": 1.0, "groups": {}},
    }
    adjustment = build(Adjustment, values)
    assert correction_lines(adjustment) == [
        "logit adjustment with tau 1, as given",
        r"for these class shares, in percent: c\x1bat 70.0, dog 30.0",
        "logits divided by the temperature 1.83, fitted on 58 validation images of the run "
        "(cross-entropy 0.457, at 1: 0.600)",
    ]
    text = drawn(adjustment_table(adjustment, scores()))
    assert "What logit adjustment, other class shares and the temperature did" in text
    assert "tau 1, class shares, temperature 1.83" in text
    shares = build(Adjustment, {key: values[key] for key in ("prior", "unadjusted")})
    assert correction_lines(shares) == [
        "for these class shares in place of those of the training images, in percent: "
        r"c\x1bat 70.0, dog 30.0"
    ]
    alone = build(Adjustment, {"temperature": 2.0, "unadjusted": values["unadjusted"]})
    assert correction_lines(alone) == ["logits divided by the temperature 2, as given"]
    assert "What the temperature did, in percent" in drawn(adjustment_table(alone, scores()))


def paired(**changes):
    """Return the difference that a correction makes on 49 images."""
    values = {"score": "balanced_accuracy", "images": 49, "before": 0.619, "after": 0.133}
    values |= {"classes_of_one_image": (), "mean": -0.486, "low": -0.7, "high": -0.272}
    return PairedDifference.model_validate(values | {"verdict": "worse"} | changes)


def test_what_a_correction_does_on_validation_images_is_a_table_and_a_line():
    """Both rows, the images, the interval, without which classes it is, and what flatters."""
    values = {"accuracy": 0.7, "balanced_accuracy": 0.619, "macro_f1": 0.6}
    values["groups"] = {"many": 0.8, "medium": 0.4, "few": None}
    before = MainScores.model_validate(values)
    after = before.model_copy(update={"balanced_accuracy": 0.133})
    facts = build(CorrectionFacts, {"method": "adjust", "tau": 1.0})

    def line(chooses=None, **changes):
        parts = {"split": "validation", "num_images": 49, "chooses": chooses}
        parts |= {"unadjusted": before, "adjusted": after, "difference": paired(**changes)}
        return Effect.model_validate(parts), effect_line(Effect.model_validate(parts))

    effect, text = line()
    assert text == "balanced accuracy: -48.6 points, 95% interval -70.0 to -27.2: worse"
    table = effect_table(facts, effect)
    assert "What logit adjustment did on 49 validation images, in percent" in drawn(table)
    assert ["as", "trained", "70.0", "61.9", "60.0", "80.0", "40.0", "-", "-"] in rows(table)
    assert ["tau", "1", "70.0", "13.3", "60.0", "80.0", "40.0", "-", "-"] in rows(table)
    _, text = line("tau", verdict="can't tell", classes_of_one_image=("8", "9"), mean=-0.5)
    assert text == (
        "balanced accuracy: -48.6 points; without the classes of one image (8, 9) -50.0, 95% "
        "interval -70.0 to -27.2: no clear difference; tau was chosen on these images, which "
        "flatters it"
    )
    same = {"after": 0.619, "mean": 0.0, "low": None, "high": None, "verdict": "can't tell"}
    assert line(**same)[1] == "balanced accuracy: the same as before"
    unknown = dict.fromkeys(("mean", "low", "high"))
    _, text = line(verdict="can't tell", score="accuracy_at_prior", **unknown)
    assert text == (
        "accuracy at these class shares: -48.6 points: no clear difference (too few images)"
    )


def test_a_warning_of_a_worse_classifier_names_the_nearest_right_thing():
    """The best tau where the images may choose one; else the flag that does; else none."""
    assert worse_words(paired(), "49 images") == (
        "corrected, the classifier is worse: on 49 images its balanced accuracy is 13.3 % in place "
        "of 61.9 %, more than chance explains (-48.6 points, 95% interval -70.0 to -27.2)"
    )
    given = build(CorrectionFacts, {"method": "adjust", "tau": 1.0})
    scaled = build(CorrectionFacts, {"method": "adjust", "tau": 1.0, "scale": 4.0})
    norms = build(CorrectionFacts, {"method": "tau-norm", "tau": 1.0})
    shares = build(CorrectionFacts, {"prior": {"cat": 1.0}})
    for words, begin in (
        (better_tau(given, (0.05, 0.641)), "take --adjust auto, which finds tau 0.05 here (64.1 %"),
        (better_tau(given, (0.0, 0.6)), "--adjust auto would find no tau that does better"),
        (better_tau(scaled), "take --adjust scaled:auto, which chooses tau on the validation"),
        (better_tau(norms), "take --tau-norm auto, which"),
        (better_tau(shares), "leave the correction out, or train longer"),
    ):
        assert words.startswith(begin)
        assert "train longer" in words


def test_what_is_right_of_sure_answers_is_one_sentence():
    """It names the confidence, where that is from, and of no answers that there are none."""
    values = {"wanted": 0.9, "confidence": 0.6543, "chosen_on": "validation", "answered": 0.875}
    found = build(Coverage, values | {"accuracy": 0.95, "balanced_accuracy": 0.91})
    assert coverage_line(found) == (
        "sure enough at a confidence of 65.4 %, chosen on validation images to answer 90.0 %: "
        "87.5 % of these images are answered, 95.0 % of the answers are right (balanced 91.0 %)"
    )
    sure = values | {"confidence": 0.99999, "log_odds": 11.513}
    told = coverage_line(build(Coverage, sure | {"accuracy": 0.95, "balanced_accuracy": 0.91}))
    assert "enough at a confidence of 100.0 % (log odds 11.51), chosen on validation" in told
    values |= {"answered": 0.0, "chosen_on": "these images"}
    none = build(Coverage, values | {"accuracy": None, "balanced_accuracy": None})
    assert coverage_line(none).endswith(
        "on these images to answer 90.0 %: none of them is answered"
    )


def test_config_table_shows_values_and_origins():
    """Each key has its value and where that came from, as text."""
    assert ["loss", "[x]", "--loss"] in rows(config_table({"loss": "[x]"}, {"loss": "--loss"}))


def terminal(monkeypatch, **environment):
    """Return a stream that is a terminal, in an environment without wishes but the given."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    _, slave = pty.openpty()
    return os.fdopen(slave, "w", encoding=environment.get("encoding", "utf-8"))


@pytest.mark.parametrize(
    ("environment", "plain"),
    [
        ({}, False),
        ({"NO_COLOR": "1"}, True),
        ({"NO_COLOR": ""}, False),
        ({"CI": "true"}, True),
        ({"TERM": "dumb"}, True),
        ({"encoding": "latin-1"}, True),
    ],
)
def test_terminal_is_plain_when_asked(monkeypatch, environment, plain):
    """NO_COLOR, CI, TERM=dumb and other encodings turn drawing off on a terminal."""
    with terminal(monkeypatch, **environment) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        made = consoles.stderr_console()
        assert consoles.is_plain(stream) is plain
        assert made.is_terminal is not plain
        assert (made.color_system is None) is plain


def test_pipe_neither_wraps_nor_colours(capsys, monkeypatch):
    """Piped, a line of 1000 letters stays one line, even where colour is forced elsewhere."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    consoles.stdout_console().print("x" * 1000, style="red")
    assert capsys.readouterr().out == "x" * 1000 + "\n"


def test_ascii_stream_spells_what_it_can():
    """Without UTF-8 nothing raises: ± is +-, and a letter that cannot be shown is a `?`."""
    code = "from lmsm_cli.commands.console import stderr_console as c; c().print('1±2 ä…')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    assert done.stderr == b"1+-2 ?...\n"


def test_json_is_strict_and_whole(capsys):
    """One document, parseable, ASCII, not wrapped; NaN is refused."""
    document = {"name": "ü\udc80[red]", "long": "x" * 5000}
    consoles.print_json(document)
    out = capsys.readouterr().out
    assert json.loads(out) == document
    assert out.isascii()
    with pytest.raises(ValueError, match="not JSON compliant"):
        consoles.print_json(float("nan"))
