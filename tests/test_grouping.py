"""Which runs are put together, and what `lmsm compare` says of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.records import Statistic
from lmsm_cli.errors import LmsmError
from lmsm_cli.runs.documents import Status
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.record import RunRecord, read_run
from tests.conftest import children_seconds, seconds_to_import_torch
from tests.synthetic_runs import document, records_in, scores_json

CONFIG = {
    "dataset": "digits",
    "loss": "softmax",
    "neck": "bn",
    "seed": 1,
    "out": "runs",
    "device": "cpu",
}


def run(name, accuracies=(0.5, 0.5), *, scores=None, state="completed", **config):
    """Return the record of a run as `read_run` would."""
    found = document(scores or scores_json(accuracies))
    return RunRecord(Path("runs") / name, CONFIG | config, Status(state=state), [], found, None)


def write(record):
    """Write the record as a run folder below the current folder."""
    folder = RunFolder.create(record.path.parent, record.path.name)
    folder.write_config(
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in record.config.items())
    )
    folder.write_status(record.state, exit_code=0)
    folder.append_metrics({"epoch": 1})
    if record.scores:
        folder.write_scores(record.scores)


def test_a_count_of_images_takes_the_place_of_no_choice():
    """A choice called train_images stays, with the count beside it, so that all three runs are told
    apart.
    """
    records = [
        run(name, scores=scores_json((1, 1), train=counts), train_images=choice)
        for name, counts, choice in (
            ("a", (30, 4), "all"),
            ("b", (30, 5), "all"),
            ("c", (30, 4), "half"),
        )
    ]
    found = {one.label: one.differs for one in compare_runs(records).groups}
    told = {
        label: (one["train_images"], one["counted_train_images"]) for label, one in found.items()
    }
    assert told == {
        "softmax train_images=all counted_train_images=34": ("all", 34),
        "softmax train_images=all counted_train_images=35": ("all", 35),
        "softmax train_images=half counted_train_images=34": ("half", 34),
    }


def test_runs_that_differ_in_the_seed_are_one_group_with_mean_and_sd():
    """Three seeds of one config give one row; sd is the sample's, worked by hand."""
    comparison = compare_runs(
        [
            run("a", (0.9, 0.1), seed=1),
            run("b", (0.8, 0.2), seed=2, out="elsewhere", device="cuda"),
            run("c", (0.7, 0.6), seed=3, data_dir="there"),
        ]
    )
    (group,) = comparison.groups
    assert group.seeds == (1, 2, 3)
    assert group.metrics["many"] == Statistic(pytest.approx(0.8), pytest.approx(0.1), 3)
    # (0.1, 0.2, 0.6): mean 0.3, squares 0.04 + 0.01 + 0.09 = 0.14, sd sqrt(0.07)
    assert group.metrics["few"] == Statistic(pytest.approx(0.3), pytest.approx(0.07**0.5), 3)
    assert group.metrics["medium"] is None
    assert [one.accuracy.mean for one in group.per_class] == pytest.approx([0.8, 0.3])


def test_each_score_is_the_one_of_its_name():
    """No two scores share a value here, so that none can stand in for another."""
    shares = {
        name: (i + 1) / 10
        for i, name in enumerate(("accuracy", "balanced_accuracy", "macro_f1", "calibration_error"))
    }
    training = {"seconds": 90.0, "images_per_second": 321.0}
    document = scores_json((0.55, 0.05)) | shares | {"effective_margin": 1.5, "training": training}
    (group,) = compare_runs([run("a", scores=document)]).groups
    wanted = shares | {"many": 0.55, "medium": None, "few": 0.05}
    wanted |= {"effective_margin": 1.5, "minutes": 1.5, "images_per_second": 321.0}
    found = {name: group.metrics[name] for name in wanted}
    assert {name: value and value.mean for name, value in found.items()} == wanted


def test_one_run_has_no_standard_deviation():
    """A single seed shows n = 1 and no sd, instead of a zero that looks like certainty."""
    (group,) = compare_runs([run("a", (0.9, 0.1))]).groups
    assert group.metrics["accuracy"] == Statistic(0.5, None, 1)


def test_a_repeated_seed_counts_once():
    """Of two runs with one config and seed the newest counts, and the other's row says so."""
    comparison = compare_runs([run("20260102", (0.9, 0.9)), run("20260101", (0.1, 0.1))])
    assert comparison.groups[0].metrics["accuracy"] == Statistic(0.9, None, 1)
    (left_out,) = comparison.unscored
    assert left_out.run.endswith("20260101")
    assert "20260102" in left_out.reason


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"loss": "lsoftmax:margin=4"}, "lsoftmax:margin=4"),
        ({"neck": "relu"}, "softmax neck=relu"),
        ({"epochs": 3}, "softmax epochs=3"),
        ({"state": "interrupted"}, "softmax state=interrupted"),
        ({"scores": scores_json((1, 1), checkpoint="best.pt")}, "softmax checkpoint=best.pt"),
        ({"scores": scores_json((1, 1), test=(10, 11))}, "softmax test_images=21"),
        ({"scores": scores_json((1, 1), train=(30, 4))}, "softmax train_images=34"),
    ],
)
def test_runs_that_differ_in_anything_else_are_never_averaged(change, label):
    """Another choice, an unfinished run, another checkpoint or other images make another group."""
    comparison = compare_runs([run("a", seed=1), run("b", seed=2, **change)])
    assert len(comparison.groups) == 2
    assert comparison.groups[1].label == label


LSOFTMAX = "lsoftmax:margin=2"


def seeds(loss, few, **config):
    """Return a run for each value of `few`, with seeds 0, 1, ..."""
    return [
        run(f"{loss}{config}{i}", (0.9, value), loss=loss, seed=i, **config)
        for i, value in enumerate(few)
    ]


def test_groups_are_held_against_softmax_pair_by_pair():
    """By hand: changes 0.1, 0.2, 0.3 have mean 0.2 and a half-width of 4.3027 x 0.1 / sqrt 3."""
    comparison = compare_runs(
        [*seeds("softmax", (0.1, 0.3, 0.2)), *seeds(LSOFTMAX, (0.2, 0.5, 0.5))]
    )
    softmax, lsoftmax = comparison.groups
    assert softmax.is_baseline
    assert softmax.differences == {}
    found = lsoftmax.differences["few"]
    assert (found.n, found.paired) == (3, True)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 4.30265 * 0.1 / 3**0.5, abs=1e-5)
    assert found.verdict == "can't tell"
    assert lsoftmax.differences["medium"] is None
    assert lsoftmax.verdict == "can't tell"


@pytest.mark.parametrize("old", [(0, 1, 2), (0,)])
def test_runs_of_an_older_rule_have_no_answer_on_rare_classes(tmp_path, monkeypatch, capsys, old):
    """With 1.25 times the images no class is rare, also where all or some scores.json have few."""
    monkeypatch.chdir(tmp_path)
    for loss, few in (("softmax", 0.1), (LSOFTMAX, 0.6)):
        for seed in range(3):
            groups = {"many": 0.9, "medium": None, "few": few} if seed in old else {}
            one = scores_json((0.9, few), train=(50, 40), test=(30, 30), groups=groups)
            write(run(f"{loss[0]}{seed}", scores=one, loss=loss, seed=seed))
    comparison = compare_runs(records_in(Path("runs")))
    assert [group.metrics["few"] for group in comparison.groups] == [None, None]
    assert comparison.groups[1].differences["few"] is None
    assert comparison.conclusions[0].text.startswith("Over all classes ")
    assert main(["compare", "runs", "--html", "page.html"]) == 0
    for shown in (capsys.readouterr().out, Path("page.html").read_text()):
        assert "rare classes" not in shown
        assert "rarest classes" not in shown


def test_verdict_tells_rare_classes_from_all():
    """Better on rare classes alone is said as that."""
    runs = [
        run(f"{loss}{i}", scores=scores_json(one, test=(30, 30)), loss=loss, seed=i)
        for loss, accuracies in (
            ("softmax", [(0.9, 0.5)] * 3),
            (LSOFTMAX, [(0.9 - d, 0.5 + d) for d in (0.2, 0.21, 0.22)]),
        )
        for i, one in enumerate(accuracies)
    ]
    comparison = compare_runs(runs)
    assert comparison.groups[1].verdict == "better on rare classes, can't tell overall"
    single = compare_runs([run("a"), run("b", loss=LSOFTMAX)])
    assert single.groups[1].verdict == "can't tell"
    assert single.groups[1].differences["few"].reason.endswith("one seed")


def test_the_baseline_shares_the_other_choices():
    """Of softmax with two learning rates, each L-Softmax run is held against the one of its own."""
    runs = [
        run("a", (0.9, 0.1), lr=0.1),
        run("b", (0.9, 0.4), lr=0.2),
        run("c", (0.9, 0.2), lr=0.1, loss=LSOFTMAX),
        run("d", (0.9, 0.6), lr=0.2, loss=LSOFTMAX),
        run("e", (0.9, 0.6), lr=0.3, loss=LSOFTMAX),
    ]
    *_, c, d, e = (comparison := compare_runs(runs)).groups
    assert [one.differences["few"].mean for one in (c, d)] == pytest.approx([0.1, 0.2])
    assert e.differences == {}
    assert "no baseline for lsoftmax:margin=2 lr=0.3" in comparison.notes[-1]


@pytest.mark.parametrize("name", [None, "softmax"])
def test_a_loss_as_it_is_named_is_nearer_than_one_with_options(name):
    """Plain softmax is the baseline beside softmax with label smoothing."""
    losses = ("softmax", "softmax:label_smoothing=0.1", LSOFTMAX)
    groups = compare_runs([run(loss, loss=loss) for loss in losses], baseline=name).groups
    found = {group.label: (group.is_baseline, bool(group.differences)) for group in groups}
    assert found == {"softmax": (True, False), losses[1]: (False, True), LSOFTMAX: (False, True)}


def test_a_loss_is_the_same_however_it_is_spelled():
    """The order of its options and 4 or 4.0 make no other loss; another value does."""
    specs = (
        "lsoftmax:margin=4,lambda_min=5",
        "lsoftmax:lambda_min=5,margin=4",
        "lsoftmax:margin=4.0,lambda_min=5",
        "lsoftmax:margin=4,lambda_min=6",
    )
    groups = compare_runs(
        [run(str(seed), loss=loss, seed=seed) for seed, loss in enumerate(specs)]
    ).groups
    assert [(group.label, len(group.runs)) for group in groups] == [(specs[0], 3), (specs[3], 1)]


def test_by_a_choice_that_an_older_lmsm_had_not():
    """A run without the key has its default, with --by too."""
    runs = [run("a", seed=1), run("b", seed=2, sampling="shuffle")]
    (group,) = compare_runs(runs, by=["loss", "sampling"]).groups
    assert len(group.runs) == 2


def test_a_baseline_has_the_same_test_images():
    """A softmax run on other images is no baseline."""
    other = scores_json((1, 1), names=("red", "green"))
    comparison = compare_runs([run("a"), run("b", loss=LSOFTMAX, scores=other)])
    assert comparison.groups[1].differences == {}


@pytest.mark.parametrize("name", ["lsoftmax", LSOFTMAX])
def test_baseline_is_named_by_loss_or_label(name):
    """--baseline takes the name of a loss, or a whole loss."""
    comparison = compare_runs([run("a"), run("b", (0.9, 0.3), loss=LSOFTMAX)], baseline=name)
    assert [(group.label, group.is_baseline) for group in comparison.groups] == [
        (LSOFTMAX, True),
        ("softmax", False),
    ]
    assert comparison.groups[1].differences["few"].mean == pytest.approx(0.2)


def test_by_averages_over_the_other_choices_and_says_so():
    """--by loss puts learning rates together, pairs by seed and lr, and names what it averaged."""
    runs = [
        run(f"{loss}{lr}{seed}", (0.9, 0.2 + lr + gain), loss=loss, lr=lr, seed=seed)
        for loss, gain in (("softmax", 0), (LSOFTMAX, 0.1))
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    comparison = compare_runs(runs, by=["loss"])
    assert [(group.label, len(group.runs)) for group in comparison.groups] == [
        ("softmax", 4),
        (LSOFTMAX, 4),
    ]
    found = comparison.groups[1].differences["few"]
    assert (found.mean, found.n, found.paired) == (pytest.approx(0.1), 2, True)  # two seeds
    assert "averaged over lr: 0.1, 0.2" in comparison.notes


def test_by_compares_only_choices_that_both_have():
    """A learning rate that one loss alone was tried with moves its mean, but no difference."""
    runs = [
        run(f"{loss}{lr}{seed}", (0.9, value), loss=loss, lr=lr, seed=seed)
        for loss, lr, value in (("softmax", 0.1, 0.4), (LSOFTMAX, 0.1, 0.5), (LSOFTMAX, 0.2, 0.9))
        for seed in (0, 1, 2)
    ]
    _, lsoftmax = compare_runs(runs, by=["loss"]).groups
    assert lsoftmax.metrics["few"].mean == pytest.approx(0.7)
    assert lsoftmax.differences["few"].mean == pytest.approx(0.1)
    assert lsoftmax.differences["few"].n == 3


def test_a_difference_that_is_not_that_of_the_means_is_told():
    """Where the baseline lacks a seed, the table's mean is over more runs than the difference."""
    runs = [*seeds("softmax", (0.1, 0.2)), *seeds(LSOFTMAX, (0.3, 0.4, 0.9))]
    comparison = compare_runs(runs)
    assert comparison.groups[1].differences["few"].mean == pytest.approx(0.2)
    note = f"the difference of {LSOFTMAX} is over the seeds and choices that its baseline has too"
    assert note in comparison.notes[-1]
    assert not any("is over the seeds" in note for note in compare_runs(runs[:4]).notes)


def test_classes_without_test_images_are_told():
    """The means that they have no part in are named once."""
    absent = scores_json((1, None), test=(10, 0))
    notes = compare_runs([run("a", scores=absent), run("b", seed=2, scores=absent)]).notes
    start = "dog has no test image: balanced accuracy and macro F1"
    assert sum(note.startswith(start) for note in notes) == 1


def test_two_seeds_cannot_tell():
    """With two seeds there is a difference, but neither interval nor verdict."""
    comparison = compare_runs([*seeds("softmax", (0.1, 0.2)), *seeds(LSOFTMAX, (0.5, 0.61))])
    found = comparison.groups[1].differences["few"]
    assert (found.mean, found.low, found.verdict) == (pytest.approx(0.405), None, "can't tell")
    assert (comparison.groups[1].verdict, found.reason) == ("can't tell", "two seeds")


def test_by_never_averages_over_splits_or_images():
    """Other validation splits or test images stay apart under --by, and the field is named."""
    runs = [
        run("a", split_seed=0),
        run("b", seed=2, split_seed=1),
        run("c", seed=3, split_seed=0, scores=scores_json((1, 1), test=(10, 11))),
    ]
    comparison = compare_runs(runs, by=["loss"])
    assert len(comparison.groups) == 3
    (note, *_) = comparison.notes
    assert note.startswith("not averaged over runs that are unlike in split_seed: 0, 1; ")
    assert "test_images: 20, 21" in note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": ["los"]}, "--by: there is no 'los' (did you mean 'loss'?)"),
        ({"sort": "fewer"}, "--sort: there is no 'fewer' (did you mean 'few'?)"),
        (
            {"baseline": "softmx"},
            "--baseline: no group of runs is called 'softmx' (did you mean 'softmax'?)",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments, message):
    """A mistyped key, score or baseline is an error, not another table."""
    with pytest.raises(LmsmError) as error:
        compare_runs([run("a")], **arguments)
    assert str(error.value) == message


def test_sort_puts_the_best_first_and_the_unknown_last():
    """More is better but for calibration error and minutes."""
    runs = []
    for loss, few, training in (
        ("a", 0.2, None),
        ("b", 0.4, {"seconds": 60.0}),
        ("c", 0.3, {"seconds": 30.0}),
    ):
        scores = scores_json((0.9, few), calibration_error=few, training=training)
        runs.append(run(loss, loss=loss, scores=scores))
    for metric, order in (("few", "bca"), ("calibration_error", "acb"), ("minutes", "cba")):
        assert "".join(group.label for group in compare_runs(runs, sort=metric).groups) == order
    assert [group.label for group in compare_runs(runs, baseline="b").groups] == ["b", "a", "c"]


@pytest.mark.parametrize("change", [{"test": (10, 11)}, {"names": ("red", "green")}])
def test_more_test_images_and_other_classes_are_another_test_set(change):
    """Such runs are told apart even where their configs are equal."""
    comparison = compare_runs([run("a"), run("b", seed=2, scores=scores_json((1, 1), **change))])
    assert [group.test_set for group in comparison.groups] == [0, 1]


def test_defaults_go_without_saying():
    """A label names only what is not as usual, also of a run from before a choice was born."""
    (usual,) = compare_runs([run("a", seed=1), run("b", seed=2, reweight="none")]).groups
    assert (usual.label, len(usual.runs)) == ("softmax", 2)
    first, second = compare_runs([run("a", reweight="none"), run("b", reweight="inverse")]).groups
    assert (first.label, second.label) == ("softmax", "softmax reweight=inverse")
    assert first.differs == {"loss": "softmax", "reweight": "none"}


def test_run_without_scores_is_listed_with_its_reason():
    """A run folder without scores does not stop the comparison of the others."""
    broken = RunRecord(Path("runs/x"), None, None, [], None, "no config.yaml; no scores.json")
    comparison = compare_runs([broken, run("a")])
    assert len(comparison.groups) == 1
    assert comparison.unscored[0].reason == "no config.yaml; no scores.json"
    assert compare_runs([broken]).groups == ()


def test_json_is_plain_and_strict():
    """The document of --json survives a strict round trip, None for what there is not."""
    document = compare_runs([run("a"), run("b", seed=2)]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["groups"][0]["metrics"]["medium"] is None
    assert document["groups"][0]["per_class"][1] == {
        "name": "dog",
        "train_count": 3,
        "test_count": 10,
        "accuracy": {"mean": 0.5, "sd": 0.0, "n": 2},
    }


def test_records_from_disk_are_grouped_like_those_in_memory(tmp_path, monkeypatch):
    """What a run folder holds is enough: nothing that decides a group is lost on disk."""
    monkeypatch.chdir(tmp_path)
    records = [run("a"), run("b", seed=2), run("c", loss="lsoftmax:margin=2")]
    for record in records:
        write(record)
    assert compare_runs(records_in(Path("runs"))) == compare_runs(records)


COMMAND = """
import sys
sys.modules["torch"] = None  # importing it would raise
import typer
from lmsm_cli.commands.compare import compare
typer.run(compare)
"""


def compare_in_a_process(folder, *arguments, encoding="utf-8"):
    """Run the command without torch, piped, and return what it wrote to stdout."""
    own = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, *arguments, str(folder)],
        capture_output=True,
        env=os.environ | own,
        check=True,
    )
    assert done.stderr == b""
    return done.stdout.decode(encoding)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Make a folder with two seeds of softmax, one L-Softmax and a run that failed."""
    working = Path.cwd()
    monkeypatch.chdir(tmp_path)
    names = ("[red]cät", "a\x1b[31mb")
    for name, seed, loss, accuracies in (
        ("a", 1, "softmax", (0.9, 0.2)),
        ("b", 2, "softmax", (0.8, 0.4)),
        ("c", 1, "lsoftmax:margin=4,lambda_min=5", (0.7, 0.6)),
    ):
        write(run(name, seed=seed, loss=loss, scores=scores_json(accuracies, names=names)))
    RunFolder.create(Path("runs"), "d").write_status("failed", "the loss is not finite", 5)
    monkeypatch.chdir(working)
    return tmp_path / "runs"


def test_compare_prints_whole_lines_into_an_ascii_pipe(runs):
    """Piped without UTF-8 and without torch, every cell is there, uncut and harmless."""
    text = compare_in_a_process(runs, encoding="ascii")
    assert "..." not in text
    assert "\x1b" not in text
    line = next(line for line in text.splitlines() if "|softmax" in line)
    cells = [cell.strip(" |") for cell in line.split("|")]
    assert cells[1:7] == ["1", "softmax", "2", *["57.5+-3.5"] * 3]
    assert "lsoftmax:margin=4,lambda_min=5" in text
    assert "65.0" in text
    reason = "no config.yaml; no scores.json; no metrics.jsonl; status failed: the loss is not"
    assert f"d: {reason} finite" in text
    assert "[red]c?t" in text
    assert "a\\x1b[31mb" in text


def test_metrics_of_scored_runs_are_read_only_where_they_are_wanted(runs):
    """Rows of epochs stay unread where a run has scores, which makes a thousand runs quick."""
    scored, *_, unscored = sorted(runs.iterdir())
    assert read_run(scored, with_metrics=False).metrics == []
    assert read_run(scored).metrics == [{"epoch": 1}]
    assert "no metrics.jsonl" in read_run(unscored, with_metrics=False).problem


def test_a_length_of_training_that_is_none_is_damage(runs):
    """A scores.json whose minutes are a text is reported, and no crash."""
    file = runs / "a" / "scores.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"training": {"seconds": "long"}}))
    assert "scores.json is damaged" in read_run(runs / "a").problem


def test_a_csv_that_cannot_be_written_is_an_error(runs, capsys):
    """--csv into a folder that is not there: exit code 6, and the folder is named."""
    assert main(["compare", str(runs), "--csv", str(runs / "nowhere" / "all.csv")]) == 6
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--csv", "-"]])
def test_every_form_names_every_group(runs, form):
    """Tables, Markdown and CSV all hold the groups, on stdout alone."""
    text = compare_in_a_process(runs, *form)
    assert "softmax" in text
    assert "lsoftmax:margin=4,lambda" in text.replace("\\", "")


def test_runs_further_down_are_named(runs):
    """A folder of runs inside the one that is given is not passed by in silence: it is said first,
    once, with the command that takes it in, in every form."""
    for name in ("sweep/e", "sweep/f", "demo-1/comparison/g"):
        (runs / name).mkdir(parents=True)
        (runs / name / "status.json").write_text("{}")
    more = [runs / "demo-1" / "comparison", runs / "sweep"]
    line = (
        "3 more runs in folders below are not compared here; to compare them too: "
        f"lmsm compare {runs} {more[0]} {more[1]}"
    )
    for form in ([], ["--markdown"]):
        lines = compare_in_a_process(runs, *form).splitlines()
        assert lines[0] == line
        assert lines.count(line) == 1
    assert line in json.loads(compare_in_a_process(runs, "--json"))["notes"]
    assert "more run" not in compare_in_a_process(runs, *map(str, more))


def test_many_folders_further_down_are_counted(runs):
    """A command with all of them would fill the screen."""
    for number in range(6):
        (runs / f"sweep{number}" / "e").mkdir(parents=True)
        (runs / f"sweep{number}" / "e" / "status.json").write_text("{}")
    line = compare_in_a_process(runs).splitlines()[0]
    assert line.startswith("6 more runs in folders below are not compared here: ")
    assert line.endswith(f"{runs / 'sweep3'} and 2 more")


def test_csv_file_is_written_beside_the_tables(runs, tmp_path):
    """--csv FILE leaves a whole file, and the tables are printed as well."""
    text = compare_in_a_process(runs, "--csv", str(tmp_path / "all.csv"))
    assert "in percent" in text
    assert (tmp_path / "all.csv").read_text().splitlines()[1].startswith("softmax,2,1 2,")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_thousand_runs_take_no_longer_than_importing_torch_once_or_twice(tmp_path):
    """Reading and comparing 1,000 runs of 200 epochs stays in the order of two seconds.

    Bounded in processor time, by that of an import on the same machine, however slow it is.
    """
    classes = {"train": range(10, 20), "test": [9] * 10, "names": "abcdefghij"}
    row = json.dumps({"epoch": 1, "train_loss": 1.5}) + "\n"
    for i in range(1000):
        folder = tmp_path / f"run{i:04}"
        folder.mkdir()
        choices = CONFIG | {f"lr{k}": 0.1 for k in range(30)} | {"seed": i % 5, "lr": i // 20}
        choices["loss"] = ("softmax", "ldam", "vs", "focal")[i // 5 % 4]
        lines = (f"{key}: {value}\n" for key, value in choices.items())
        scores = scores_json([0.1 + i % 7 / 10] * 10, **classes)
        (folder / "config.yaml").write_text("".join(lines))
        (folder / "scores.json").write_text(json.dumps(scores))
        (folder / "status.json").write_text('{"state": "completed"}')
        (folder / "metrics.jsonl").write_text(row * 200)
    before = children_seconds()
    document = json.loads(compare_in_a_process(tmp_path, "--json"))
    assert children_seconds() - before < 2 * seconds_to_import_torch()
    assert len(document["groups"]) == 200


def test_compare_json_is_one_document_on_stdout(runs):
    """--json gives one document and nothing else."""
    document = json.loads(compare_in_a_process(runs, "--json"))
    assert [group["label"] for group in document["groups"]] == [
        "softmax",
        "lsoftmax:margin=4,lambda_min=5",
    ]
    assert [one["name"] for one in document["groups"][0]["per_class"]] == ["[red]cät", "a\x1b[31mb"]
    assert len(document["unscored"]) == 1


def test_weights_of_one_name_and_other_content_are_told_apart(tmp_path, monkeypatch):
    """A file of weights is known by its digest; runs from another content are no further seeds."""
    monkeypatch.chdir(tmp_path)
    for name, seed, digest in (("a", 1, "1" * 32), ("b", 2, "1" * 32), ("c", 3, "2" * 32)):
        write(run(name, seed=seed, pretrained="w.pt"))
        RunFolder(Path("runs") / name).write_environment({"pretrained": digest})
    groups = compare_runs(records_in(Path("runs"))).groups
    assert [group.seeds for group in groups] == [(1, 2), (3,)]
    assert [group.differs["weights"] for group in groups] == ["1" * 32, "2" * 32]


def test_the_nets_of_the_runs_are_told_once_each():
    """With weights and width where scores.json has them, as older ones do not."""
    sized, more = (
        scores_json((0.5, 0.5)) | {"net": {"weights": weights, "frozen": 0, "features": 64}}
        for weights in (1234, 1299)
    )
    names = {"model": "paper-2d", "lr": 0.3}
    runs = [run("a", scores=sized, **names), run("b", seed=2, scores=sized, **names)]
    runs.append(run("c", model="resnet18"))
    (net,) = compare_runs(runs).nets
    (both,) = compare_runs([*runs, run("d", scores=more, **names)]).nets
    assert both.startswith("paper-2d, 1,234 to 1,299 weights, ")
    assert net == "paper-2d, 1,234 weights, 64 features for the last layer"
    assert compare_runs(runs[2:]).nets == ()
