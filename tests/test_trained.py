"""The last epoch or the best: which one commands take, what they say of it, and what it costs."""

import json
import shutil

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.inference.export import export_checkpoint
from lmsm_cli.reports.tables import epoch_words
from lmsm_cli.runs.record import read_run
from lmsm_cli.training import finish
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, evaluate, noise, printed_json, save


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs whose first is the best: none is better by 0.9."""
    config = digits_config(tmp_path_factory.mktemp("best"), best_tolerance=0.9)
    return start_run(config, SilentDisplay(), with_plots=False).path


@pytest.fixture
def scored(monkeypatch):
    """The numbers of images that a run's end scores, in the order of its passes."""
    passes, score = [], finish.score_images

    def counted(trainer, images, *more, **named):
        passes.append(len(images))
        return score(trainer, images, *more, **named)

    for place in ("lmsm_cli.training.finish", "lmsm_cli.training.run"):
        monkeypatch.setattr(f"{place}.score_images", counted)
    return passes


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ((7, 10, True), "epoch 7 of 10, best on validation"),
        ((7, 10, False), "epoch 7 of 10"),
        ((10, 10, False), "last epoch, 10"),
        ((10, 10, True), "last epoch, 10, also best on validation"),
        ((7, None, None), "epoch 7"),  # of an evaluation by an older lmsm
    ],
)
def test_an_epoch_is_named(facts, words):
    """The words tell the last epoch from the best on validation."""
    assert epoch_words(*facts) == words


def test_a_last_epoch_that_is_best_is_tested_once(tmp_path, scored):
    """Its test scores are those of best.pt too, as `lmsm eval` of that finds."""
    config = digits_config(tmp_path, epochs=1)
    path = start_run(config, SilentDisplay(), with_plots=False).path
    assert scored == [599]
    scores = json.loads((path / "scores.json").read_text())
    assert scores["best_on_validation"]["epoch"] == 1
    best = evaluate(path / "best.pt", SilentDisplay())
    for name in ("accuracy", "balanced_accuracy"):
        assert scores["best_on_validation"][name] == scores[name] == best[name]


def test_an_earlier_best_is_tested_too(tmp_path, scored):
    """Two nets, two passes over the test images, and scores of their own."""
    config = digits_config(tmp_path, best_tolerance=0.9)
    path = start_run(config, SilentDisplay(), with_plots=False).path
    assert scored == [599, 599]
    scores = json.loads((path / "scores.json").read_text())
    assert scores["best_on_validation"]["accuracy"] != scores["accuracy"]


def test_eval_takes_the_best(run, capsys):
    """--best gives what scores.json has of best.pt, and each says which epoch it is."""
    scores = json.loads((run / "scores.json").read_text())
    shown = {}
    for flags in ((), ("--best",)):
        shown[flags] = printed_json(capsys, "eval", run, *flags)
    assert shown[()]["accuracy"] == scores["accuracy"]
    assert shown[("--best",)]["accuracy"] == scores["best_on_validation"]["accuracy"]
    assert [one["epoch"] for one in shown.values()] == [3, 1]
    assert [one["is_best"] for one in shown.values()] == [False, True]
    assert main(["eval", str(run), "--best"]) == 0
    assert f"{run / 'best.pt'} (epoch 1 of 3, best on validation)" in capsys.readouterr().out
    assert main(["eval", str(run)]) == 0
    assert f"{run / 'checkpoint.pt'} (last epoch, 3)" in capsys.readouterr().out


def test_predict_takes_the_best(run, tmp_path, capsys):
    """Its probabilities are another net's, and the table's title names the epoch."""
    image = str(save(tmp_path / "one.png", noise(0)))
    found = []
    for flags in ((), ("--best",)):
        assert main(["predict", str(run), image, *flags, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [(one["epoch"], one["epochs"]) for one in found] == [(3, 3), (1, 3)]
    assert found[0]["images"] != found[1]["images"]
    assert main(["predict", str(run), image, "--best"]) == 0
    assert "(epoch 1 of 3, best on validation)" in capsys.readouterr().out


def test_export_takes_the_best(run, tmp_path, capsys):
    """The file says of which epoch it is, and so does the command."""
    out = tmp_path / "net.pt2"
    words = ["export", str(run), "--best", "--format", "torch", "--images", "4", "--out", str(out)]
    assert main(words) == 0
    assert "best.pt (epoch 1 of 3, best on validation)" in capsys.readouterr().out
    assert out.exists()


def test_a_run_without_validation_has_no_best(tmp_path, capsys):
    """The error says why, before data is read, and what is taken without the flag."""
    config = digits_config(tmp_path, epochs=1, validation=0)
    path = start_run(config, SilentDisplay(), with_plots=False).path
    image = str(save(tmp_path / "one.png", noise(0)))
    for words in (["eval", str(path)], ["predict", str(path), image], ["export", str(path)]):
        assert main([*words, "--best"]) == 4
        told = capsys.readouterr().err
        assert "no best.pt in" in told
        assert "validation 0" in told
        assert "without --best the last epoch" in " ".join(told.split())


def test_the_best_of_a_file_is_refused(run, capsys):
    """A file is one epoch already: the folder is to be given."""
    assert main(["eval", str(run / "checkpoint.pt"), "--best"]) == 2
    assert f"give the folder, {run}" in " ".join(capsys.readouterr().err.split())
    assert main(["eval", str(run / "best.pt"), "--best"]) == 0


def test_the_end_of_a_training_names_the_best(run, capsys):
    """`train` and `resume` show what best.pt gave where it is another epoch than the last."""
    scores = read_run(run).scores
    assert main(["resume", str(run), "-q"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "; above: the last, 3" in told
    share = f"{100 * scores.best_on_validation.accuracy:.1f} %"
    assert f"epoch 1, the best on validation, has {share} of the test images right" in told


def test_a_longer_run_counts_all_its_epochs(run, tmp_path):
    """best.pt was saved when the run was to have three epochs; it is the first of four."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["resume", str(copy), "--epochs", "4", "-q"]) == 0
    found = evaluate(copy / "best.pt", SilentDisplay())
    assert (found["epoch"], found["epochs"]) == (1, 4)


def test_a_run_tells_its_images_and_its_work(tmp_path):
    """Images by part, the folder and the test are shown; what computes is a detail, and logged."""
    display = SilentDisplay()
    path = start_run(digits_config(tmp_path, epochs=1), display, with_plots=False).path
    assert display.said[:2] == [
        "434 training, 49 validation, 599 test images",
        f"run folder: {path}",
    ]
    assert display.details == ["computes on: CPU, 1 thread, fp32, channels-last"]
    assert display.details[0] in (path / "train.log").read_text()
    tested = [report[1:] for report in display.reported if report[0] == "testing on 599 images"]
    assert tested == [(0, 599), (250, 599), (500, 599), (599, 599)]


def test_an_evaluation_and_an_export_show_how_far_they_are(run, tmp_path):
    """Each bar begins at 0 and ends with all images; the time of the conversion is not known."""
    display = SilentDisplay()
    evaluate(run, display)
    assert display.reported[0] == ("evaluating 599 images", 0, 599)
    assert display.reported[-1] == ("evaluating 599 images", 599, 599)
    display = SilentDisplay()
    out = tmp_path / "net.pt2"
    export_checkpoint(run, display, form="torch", out=out, num_images=300)
    what = f"exporting {run / 'checkpoint.pt'}"
    verified = ("verifying on 300 test images of digits", 300, 300)
    assert [one for one in display.reported if one[0] == what] == [(what, 0, 0), (what, 1, 1)]
    assert display.reported[-1] == verified
