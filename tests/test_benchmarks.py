"""The training benchmark: its command runs, and its verdicts follow from the numbers."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import BENCHMARKS

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")


def benchmark(*flags):
    """Run `python benchmarks/train.py` with the flags; return what it printed."""
    command = [sys.executable, BENCHMARKS / "train.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_names_every_section():
    """`--help` works without a data set and lists what `--only` takes."""
    text = " ".join(benchmark("--help").split())
    for section in ("speed, speed-vgg, accuracy, start, scaling, augment", "gpu-mfu"):
        assert section in text


@pytest.mark.slow
def test_a_section_runs_and_writes_its_rows(tmp_path):
    """A try-out of the shortest section prints its rows, and says that they mean nothing."""
    report = tmp_path / "train.json"
    text = benchmark("--only", "start", "--steps", "1", "--rounds", "1", "--json", str(report))
    assert "the numbers mean nothing" in text
    rows = json.loads(report.read_text())["rows"]
    assert [row["name"] for row in rows] == ["lmsm train on digits, 1 epoch", "lmsm --help"]
    assert all(row["name"] in text and row["values"][0] > 0 for row in rows)
    assert {row["verdict"] for row in rows} <= {"met", "MISSED"}


@pytest.mark.parametrize(
    ("values", "reference", "target", "verdict"),
    [
        ([1.0, 9.0, 2.0], None, "<= 2.0", "met"),  # the median is 2
        ([1.0, 9.0, 2.0], None, "< 2.0", "MISSED"),
        ([0.0], None, "<= 0.01", "met"),
        ([60.0], [20.0], ">= 3.0", "met"),
        ([60.0], [20.0], "<= 2.9", "MISSED"),
        ([60.0], [20.0], "", ""),
    ],
)
def test_a_target_bounds_the_ratio_else_the_median(module, values, reference, target, verdict):
    """With a reference the ratio of the medians counts, without one the median."""
    row = module("train_rows").Row("a row", "s", values, reference, target)
    assert row.verdict == verdict
    assert " ".join(row.line().split()).endswith(f"{target} {verdict}".strip() or "3.000")


def test_a_mean_row_shows_its_deviation(module):
    """Rows over seeds count their mean, and show the sample's deviation: of 1, 2, 6 sqrt(7)."""
    row = module("train_rows").Row("a row", "share", [1.0, 2.0, 6.0], target="<= 2", average="mean")
    assert row.value == 3
    assert row.line().endswith("MISSED  mean; sd 2.65")


def test_an_arm_that_fails_marks_its_rows_and_no_others(module):
    """What compares to a failed arm fails, keeps its own number, and is neither met nor missed."""
    children = module("train_children")
    calls = []

    def broken(turn):
        calls.append(turn)
        raise children.ArmError("no such thing")

    got = children.in_turns(
        {"broken": broken, "sound": lambda turn: {"speed": turn}}, 3, thrown_away=1
    )
    assert calls == [0]
    sound = got.row("sound", "img/s", "sound.speed", target=">= 1.5")
    assert (sound.values, sound.verdict) == ([1, 2, 3], "met")
    compared = got.row("compared", "img/s", "sound.speed", "broken.speed", ">= 1.5")
    assert (compared.value, compared.ratio, compared.met) == (2, None, None)
    assert compared.verdict == "failed: broken: no such thing"
    derived = got.derived("derived", "s", ["sound.speed", "broken.speed"], zip)
    assert derived.line().endswith("failed: broken: no such thing")


def test_rows_that_cannot_be_measured_say_why(module):
    """Every GPU row is there without a device, unmeasured, and runs nothing."""
    gpu, children = module("train_gpu"), module("train_children")
    options = type(
        "Options",
        (),
        {
            "no_gpu": "no CUDA device here",
            "rounds": 3,
            "steps": None,
            "seconds_per_arm": 1.0,
            "airbench": None,
            "fresh": children.fresh,
            "trained": children.trained,
        },
    )
    rows = [row for section in gpu.SECTIONS.values() for row in section(options)]
    assert len(rows) > 30
    assert {row.verdict for row in rows} == {"unmeasured: no CUDA device here"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('working ...\\nerror: no such data')", "error: no such data"),
        (
            "import sys; sys.exit('╭─ Error ─╮\\n│ No such option │\\n╰─────────╯')",
            "No such option",
        ),
        ("import sys; sys.exit('[rank1]: RuntimeError: gone\\nend')", "RuntimeError: gone"),
        ("import sys; sys.exit('only this')", "only this"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_a_failing_child_gives_the_first_line_of_its_error(module, monkeypatch, code, message):
    """The line of a child's stderr that names the error, else its last one, else the exit code."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    children = module("train_children")
    with pytest.raises(children.ArmError) as caught:
        children.run_child(["-c", code])
    assert str(caught.value) == message


def test_a_child_that_hangs_is_stopped(module, monkeypatch):
    """A child that waits for ever does not stop the benchmark."""
    children = module("train_children")
    monkeypatch.setattr(children, "LONGEST", 0.5)
    with pytest.raises(children.ArmError, match="stopped after"):
        children.run_child(["-c", "import time; time.sleep(60)"])


def test_the_line_through_three_points(module):
    """Through (1, 1), (2, 2), (3, 4): b = 3/2, a = -2/3, and R^2 = 1 - (1/6) / (14/3) = 27/28."""
    a, b, r2 = module("train_rows").line_through([1, 2, 3], [1, 2, 4])
    assert (a, b, r2) == pytest.approx((-2 / 3, 3 / 2, 27 / 28))


def test_scaling_fits_all_points_of_all_passes(module):
    """Two passes around 1 + 2 n: both enter, whatever order their sizes came in."""
    rows = module("train_rows")
    got = rows.Numbers({"scaling.3": [7.0, 7.0], "scaling.1": [2.0, 4.0], "scaling.2": [5.0, 5.0]})
    a, b, r2 = rows.scaling_rows(got, "an epoch", ("< 1.5", "> 0.9"))
    assert (a.value, b.value, r2.value) == pytest.approx((1, 2e6, 1 - 2 / 18))
    assert (a.verdict, b.verdict, r2.verdict) == ("met", "", "MISSED")


def test_airbench_is_read_without_its_first_run(module, tmp_path):
    """Its `eval` rows give time and accuracy; the first run compiles; it runs on for ever."""
    script = tmp_path / "airbench94_muon.py"
    script.write_text(
        "import itertools\n"
        "print('|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  '"
        "'time_seconds  |')\n"
        "for run in itertools.count():\n"
        "    print(f'|  {run:>6}  |      0  |     0.5000  |   0.5000  |               |  '"
        "'      0.1000  |')\n"
        "    time = 2 if run else 90\n"
        "    print(f'|          |   eval  |     0.9900  |   0.9300  |       0.9400  |  '"
        "f'{time:>12.4f}  |')\n"
    )
    means = module("train_gpu").airbench_means(script)
    assert means == pytest.approx({"seconds": 2, "accuracy": 0.94})


@pytest.mark.slow
@pytest.mark.realdata
def test_the_losses_take_turns_on_one_model(real_data):
    """The arm behind the loss rows trains with each head: its optimiser has the weights of all."""
    command = [sys.executable, BENCHMARKS / "train.py", "--arm", "losses", "--steps", "1"]
    environment = os.environ | {"LMSM_DATA_DIR": str(real_data)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert all(ms > 0 for ms in json.loads(done.stdout).values())
