"""The report page: everything in one file, true, harmless and small, whatever the runs hold."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.records import Unscored
from lmsm_cli.errors import DiskError
from lmsm_cli.reports.html.page import page, write_page
from lmsm_cli.runs.folder import RunFolder, check_place
from lmsm_cli.scoring import score
from tests.synthetic_runs import metrics_of, records_in, scores_of, write_run, write_runs

VOID = {"meta", "link", "img", "wbr", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onload=alert(1) x='",
    "{{7*7}}",
    "🐈‍⬛",
    "שלום עולם",
    "a\u202eb\x00",
    "</style><b>",
    "${1+1}",
]


class Document(HTMLParser):
    """The elements and texts of a page; complains where tags don't match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self._open = [], "", []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        """Keep an element."""
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} comes twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Keep an element without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Check that what ends is what was begun."""
        assert self._open.pop() == tag

    def handle_data(self, data):
        """Keep the words that a reader sees."""
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*folders, **choices):
    """Return the page of the runs in the folders, as HTML and read."""
    records = records_in(*folders)
    html = page(compare_runs(records, **choices), records)
    return html, Document(html)


def words(document):
    """Return what a reader sees, with single spaces."""
    return " ".join(document.text.split())


@pytest.fixture
def runs(tmp_path):
    """Make a folder with three seeds of two losses."""
    write_runs(tmp_path / "runs", ["softmax", "lsoftmax:margin=4"], 3)
    return tmp_path / "runs"


def test_page_needs_nothing_but_itself(runs):
    """No address of the network or of a file is in the page, and its policy allows none."""
    html, document = page_of(runs)
    assert "http:" not in html
    assert "https:" not in html
    keys = ("src", "href", "action", "xlink:href")
    addresses = [a[key] for _, a in document.elements for key in keys if key in a]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in html
    assert "url(" not in html
    (policy,) = [a["content"] for a in document.all("meta") if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_numbers_are_those_of_the_runs(runs):
    """Mean ± sd in the table are worked out here from the scores.json on disk."""
    import statistics

    _, document = page_of(runs)
    for place in (0, 1):
        shares = [
            100 * json.loads((runs / f"{place}-{seed}" / "scores.json").read_text())["macro_f1"]
            for seed in range(3)
        ]
        assert f"{statistics.mean(shares):.1f} ± {statistics.stdev(shares):.1f}" in words(document)
    # of one class: accuracy of class 3 in group 2
    rows = [
        json.loads((runs / f"1-{seed}" / "scores.json").read_text())["per_class"][3]
        for seed in range(3)
    ]
    mean = statistics.mean(100 * row["accuracy"] for row in rows)
    assert f'style="--m:{mean:.1f};--d:' in page_of(runs)[0]


def test_a_best_is_marked_where_it_is_told(runs):
    """A `*` stands where the comparison says so, the highest or not, and nowhere else."""
    records = records_in(runs)
    found = compare_runs(records)
    for best in ((), ("macro_f1",)):
        groups = tuple(replace(one, best=best if one.is_baseline else ()) for one in found.groups)
        html = page(replace(found, groups=groups), records)
        assert html.count("*</abbr>") == len(best)
        score = groups[0].metrics["macro_f1"]
        text = f"{100 * score.mean:.1f} ± {100 * score.sd:.1f}"
        assert (f"{text} *" in spaced(html)) == bool(best)


def test_one_group_shows_precision_and_f1_of_each_class(tmp_path):
    """A run's report has what `lmsm train` prints of a class: precision and F1 beside accuracy."""
    scores = scores_of(["cat", "dog"])
    write_run(tmp_path, "a", scores=scores)
    cells = [f"{100 * scores['per_class'][1][key]:.1f}" for key in ("accuracy", "precision", "f1")]
    assert f"dog 405 {cells[0]} 20 {cells[1]} {cells[2]}" in spaced(page_of(tmp_path)[0])


def spaced(html):
    """Return the words of a page with a space between elements."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_differences_and_verdicts_stand_below_the_scores(runs):
    """The better loss is called so, with the interval of the comparison and the number of pairs."""
    records = records_in(runs)
    comparison = compare_runs(records)
    change = comparison.groups[1].differences["accuracy"]
    assert change.verdict == "better"
    text = words(Document(page(comparison, records)))
    interval = f"[+{100 * change.low:.1f}, +{100 * change.high:.1f}]"
    assert f"✓ +{100 * change.mean:.1f} better {interval}" in text
    assert "3 paired seeds" in text
    assert "softmax baseline" in text


def test_the_first_chart_answers_the_question(runs):
    """Accuracy by training images stands before all tables, a line a group, with its intervals."""
    html, document = page_of(runs)
    assert html.index("Accuracy by training images") < html.index("<table")
    assert "Bars are 95% intervals over seeds." in words(document)
    picture = html[html.index('class="rarity"') : html.index("<h3>Scores")]
    assert picture.count("<svg") == 2
    for number, label in ((1, "softmax"), (2, "lsoftmax:margin=4")):
        spoken = f"{number}: {label}, class 9, 72 training images: "
        assert picture.count(spoken) == 2
    # commonest first in the tables, and the rarest third named with its counts
    assert "few: ≤109" in picture


def test_equal_classes_have_no_chart_by_training_images(tmp_path):
    """Where no class is rarer than another there is no such question."""
    write_run(tmp_path, "a", scores=scores_of(["cat", "dog"], train_counts=[50, 50]))
    assert "Accuracy by training images" not in page_of(tmp_path)[0]


def test_schedules_are_folded_and_results_are_not(runs):
    """Learning rate, lambda and margin stand in a closed part; loss and accuracy in the open."""
    html, document = page_of(runs)
    folded = html[html.index('<details class="schedule">') :].partition("</details>")[0]
    for title in ("Learning rate", "Lambda", "Effective margin"):
        assert f"<bdi>{title}</bdi>" in folded
    assert "Training loss" not in folded
    assert "Training loss" in html
    assert all("open" not in a for a in document.all("details") if a.get("class") == "schedule")


def test_heat_maps_are_in_order_of_rarity_with_counts(tmp_path):
    """The commonest class is the first row and column; a class never predicted shows its zeros."""
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    predictions = [0, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    scores = score(["frog", "cat", "dog"], *map(np.array, (labels, predictions)), [5, 900, 40])
    write_run(tmp_path, "a", scores=scores.to_json() | {"checkpoint": "checkpoint.pt"})
    html, _ = page_of(tmp_path)
    heat = html[html.index('<table class="heat">') :].partition("</table>")[0]
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in heat.split("<tr>")[1:]]
    assert rows == [
        ["cat", "dog", "frog"],
        ["cat", "900", "75", "3", "0", "25", "1"],
        ["dog", "40", "100", "2", "0"],
        ["frog", "5", "75", "3", "0", "25", "1"],
    ]
    assert heat.count("dog was never predicted") == 3


def test_a_label_may_break_between_its_parts(tmp_path):
    """A narrow column gets places to break a line at: after each comma and colon, nowhere else."""
    write_run(tmp_path, "a", loss="lsoftmax:margin=4,lambda_min=5", scores=scores_of(["x", "y"]))
    label = "lsoftmax:<wbr>margin=4,<wbr>lambda_min=5"
    assert f'<bdi class="label">{label}</bdi>' in page_of(tmp_path)[0]


def test_page_is_read_in_order_and_aloud(runs):
    """One h1, no level of heading left out, unique ids, a language, and names of pictures."""
    html, document = page_of(runs)
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a.get("aria-labelledby") for a in document.all("section")} <= set(ids)
    assert document.all("html") == [{"lang": "en"}]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in document.all("svg"))
    assert all("scope" in a for a in document.all("th"))
    assert all(a.get("alt") for a in document.all("img"))
    assert html.lstrip().startswith("<!doctype html>")


def test_hostile_names_are_only_text(tmp_path):
    """Names of classes and folders, values of a config, a command and a reason only show."""
    names = HOSTILE
    environment = {"device": HOSTILE[0], "command": ["lmsm", *HOSTILE], "odd": {"a": [None, True]}}
    files = {"scores": scores_of(names), "metrics": metrics_of(3), "environment": environment}
    choices = {"dataset": HOSTILE[0], "model": HOSTILE[2]}
    for seed, loss in enumerate(["softmax", f"lsoftmax:x={HOSTILE[1]}"]):
        name = f"x{seed}<b>'\""
        write_run(tmp_path / "runs", name, loss=loss, seed=seed, **files, **choices)
    records = records_in(tmp_path / "runs")
    found = compare_runs(records)
    odd = replace(found, unscored=(Unscored("<i>", HOSTILE[0]),), notes=(HOSTILE[2],))
    html = page(odd, records)
    document = Document(html)
    assert len(document.all("script")) == 1
    assert not {"b", "i"} & {tag for tag, _ in document.elements}
    assert not [a for _, a in document.elements if "onload" in a]
    text = words(document)
    for name in ("<script>alert(1)</script>", "{{7*7}}", "שלום עולם", "a\\u202eb\\x00", "${1+1}"):
        assert name in text
    assert "\u202e" not in html
    assert "\x00" not in html


def test_runs_without_scores_still_have_a_page(tmp_path):
    """A run that still trains shows its curves; one that failed before that, its reason."""
    write_run(tmp_path, "a", metrics=metrics_of(5), state="running")
    RunFolder.create(tmp_path, "b").write_status("failed", "the loss is not finite", 5)
    text = words(page_of(tmp_path)[1])
    assert "None of these runs has scores yet" in text
    assert "Training curves of runs without scores" in text
    assert "the loss is not finite" in text


def test_older_runs_say_what_they_lack(tmp_path):
    """A scores.json without calibration, and a run without metrics, leave a sentence, no crash."""
    scores = scores_of(["cat", "dog"])
    for key in ("reliability", "calibration_error", "top_k", "training"):
        del scores[key]
    write_run(tmp_path, "a", scores=scores)
    text = words(page_of(tmp_path)[1])
    assert "scored by an older lmsm, without reliability bins" in text
    assert "no curves" in text


def test_gaps_and_odd_numbers_are_left_out(tmp_path):
    """Null, text, huge and missing values of epochs, and classes without images, leave gaps."""
    rows = [
        {"epoch": 1, "train_loss": None, "val_loss": 1e300, "lr": 0.0, "lambda": 0},
        {"epoch": 2, "train_loss": "x", "val_loss": 1.0, "lr": 10**400, "lambda": 3},
        {"train_loss": 1.0},
        {"epoch": 3, "train_loss": -5.0, "val_loss": 1.0, "lr": True, "lambda": 500},
    ]
    scores = scores_of(["cat", "dog", "emu"])
    scores["per_class"][1] |= {"test_count": 0, "accuracy": None, "precision": None, "f1": None}
    scores["confusion"][1] = [0, 0, 0]
    write_run(tmp_path, "a", scores=scores, metrics=rows)
    write_run(tmp_path, "b", scores=scores | {"confusion": [[1]]}, loss="focal")
    html, document = page_of(tmp_path)
    assert "nan" not in re.sub("[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", html.lower())
    assert "no test image" in words(document)
    assert "inf" not in {value for _, a in document.elements for value in a.values()}


def test_several_test_sets_have_a_section_each(tmp_path):
    """Runs on other images are shown apart, with an answer of their own."""
    write_run(tmp_path, "a", scores=scores_of(["cat", "dog"]), metrics=metrics_of(3))
    write_run(tmp_path, "b", scores=scores_of(["red", "green", "blue"]), dataset="folder")
    text = words(page_of(tmp_path)[1])
    for title in (
        "scikit-learn digits: 2 classes, 40 test",
        "own class folders: 3 classes, 60 test",
    ):
        assert text.count(f"{title} images") == 2  # over its answer, and over its section


def test_many_classes_show_their_commonest_confusions(tmp_path):
    """Of 100 classes the largest errors are listed, and every class has its accuracy."""
    write_runs(tmp_path, ["softmax"], 1, num_classes=100)
    html, document = page_of(tmp_path)
    scores = json.loads((tmp_path / "0-0" / "scores.json").read_text())
    rows = enumerate(scores["confusion"])
    largest = max(n for i, row in rows for k, n in enumerate(row) if i != k)
    assert f'<td class="n">{largest}</td>' in html
    assert not [a for a in document.all("table") if a.get("class") == "heat"]
    assert html.count("<bdi>class 57</bdi></th>") >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "num_losses"), [(10, 10), (10, 30), (100, 30)])
def test_thirty_runs_stay_below_2_mb(tmp_path, num_classes, num_losses):
    """30 runs of 200 epochs with a picture each, in 10 groups or in 30, are a file to be sent."""
    losses = [f"lsoftmax:margin={number}" for number in range(1, num_losses + 1)]
    sizes = {"num_classes": num_classes, "epochs": 200, "pictures": True}
    write_runs(tmp_path / "runs", losses, 30 // num_losses, **sizes)
    html, document = page_of(tmp_path / "runs")
    assert len(html.encode()) < 2_000_000
    assert len(document.all("img")) == 30


def test_damaged_feature_picture_is_noted(tmp_path):
    """A features.png that is no picture is left out, and a note says so."""
    path = write_run(tmp_path, "a", scores=scores_of(["cat", "dog"]), picture=True)
    (path / "plots" / "features.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    _, document = page_of(tmp_path)
    assert document.all("img") == []
    assert "features.png is no picture that can be read" in words(document)


def test_environment_says_what_the_runs_ran_on(runs):
    """Runs on one machine share an environment; the commands are those to type again."""
    text = words(page_of(runs)[1])
    assert "6 runs" in text
    assert "lmsm train --loss 'soft max'" in text
    assert "cccccccccccc, with changes that are not committed" in text


def test_grouping_by_a_key_gives_a_page_too(runs):
    """Groups that are not of one loss each, as of compare --by, are shown like others."""
    html, _ = page_of(runs, by=["model"])
    assert "Runs 6 scored Written" in spaced(html)


def test_page_is_written_whole_or_not_at_all(runs):
    """A page replaces what stood there in one move and leaves no other file."""
    records = records_in(runs)
    target = runs / "page.html"
    target.write_text("before")
    write_page(target, compare_runs(records), records)
    assert target.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in runs.iterdir() if path.is_file()] == ["page.html"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/page.html", "there is no folder"),
        ("runs", "it is a folder"),
        ("file/page.html", "there is no folder"),
    ],
)
def test_place_that_takes_no_file_is_refused_before_work(tmp_path, place, message):
    """A missing folder, or a folder in the file's place, is a DiskError that names it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=message):
        check_place(tmp_path / place)


def test_report_writes_into_the_run_folder(runs, capsys):
    """`lmsm report RUN` writes report.html there and prints its path; --out puts it elsewhere."""
    assert main(["report", str(runs / "0-1")]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "0-1" / "report.html")
    document = Document((runs / "0-1" / "report.html").read_text(encoding="utf-8"))
    assert "0-1" in words(document)
    assert main(["report", str(runs / "0-1"), "--out", str(runs / "x.html")]) == 0
    assert (runs / "x.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([""], 2, "holds 6 runs: give one of them, such as"),
        ([""], 2, "a page of all of them: lmsm compare "),
        (["0-0", "--out", "none/x.html"], 6, "there is no folder"),
        (["nothing"], 2, "there is no"),
    ],
)
def test_report_refuses_what_it_cannot_do(runs, capsys, arguments, code, message):
    """Several runs, a missing folder and a missing run are told in one sentence."""
    name, *more = arguments
    more = [str(runs / one) if "/" in one else one for one in more]
    assert main(["report", str(runs / name), *more]) == code
    assert message in capsys.readouterr().err


def test_report_needs_no_torch(runs):
    """A report is there at once: neither torch nor matplotlib is loaded."""
    code = (
        "import sys; sys.modules.update(torch=None, matplotlib=None); "
        "from lmsm_cli.commands.app import main; sys.exit(main(sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", code, "report", str(runs / "0-0")], check=True)
