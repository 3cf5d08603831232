"""`benchmarks/gpu.sh`: its plan is whole, and a try-out measures it all, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError

import pytest

from tests.conftest import BENCHMARKS

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")

NOT_IN_A_TRY_OUT = {
    "Liger / ours, C = 1,000,000",
    "cut-cross-entropy, exact / ours, C = 1,000,000",
    "torch's linear_cross_entropy / ours, C = 1,000,000",  # where torch has none yet
    "airbench94_muon: training",
    "airbench94_muon: test accuracy",
    "long-tailed CIFAR-10, resnet32, 200 epochs: runs finished",
}


def started(out):
    """Start a try-out in a session of its own."""
    return subprocess.Popen(
        ["sh", BENCHMARKS / "gpu.sh", out, "--try"],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines_of(out):
    """Return the whole lines that are there."""
    path = out / "gpu.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_try_out_that_was_killed_is_gone_on_with_to_the_last_row(module, tmp_path):
    """What stood there stays as it was; each planned row has one line, and stands in the table."""
    first = started(tmp_path)
    while len(lines_of(tmp_path)) < 4:
        assert first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = [line for line in lines_of(tmp_path) if line.endswith("}")]
    shown, _ = started(tmp_path).communicate()
    machine, *rows = map(json.loads, lines_of(tmp_path))
    assert machine["machine"]["gpu"] == "Pretended GPU"
    planned = [
        (section.name, row.name) for section in module("gpu_plan").PLAN for row in section.rows
    ]
    assert len(before) >= 4
    assert lines_of(tmp_path)[: len(before)] == before
    assert [(row["section"], row["row"]) for row in rows] == planned
    for row in rows:
        measured = row["verdict"] == "try-out" and row["value"] is not None
        why_not = row["verdict"].startswith("unmeasured: ") and row["row"] in NOT_IN_A_TRY_OUT
        assert measured or why_not, row
        assert f"| {row['section']} | {row['row']} |" in shown


def test_every_row_of_the_targets_that_needs_a_gpu_is_planned(module):
    """Those from 1 to 18, and 21; the others are the CPU's. The parts give as many rows."""
    plan = module("gpu_plan").PLAN
    numbers = {row.number for section in plan for row in section.rows} - {""}
    assert numbers == {str(number) for number in (*range(1, 19), 21)}
    parts = module("gpu_sections").PARTS
    given = {name: sum(count for count, _ in parts[name]) for name in parts}
    assert given == {section.name: len(section.rows) for section in plan}


def test_a_section_that_is_cut_off_leaves_its_reason_and_is_not_begun_anew(
    module, monkeypatch, tmp_path
):
    """What it gave before stays; `--again` tries what has no value."""
    gpu, lines, told = module("gpu"), module("gpu_lines"), []

    class Cut:
        lives = False

        def __init__(self, options, first=False):
            pass

        def starts(self):
            return ""

        def measure(self, section, limit, again):
            told.append(section.name)
            kept = lines.Kept(tmp_path)
            row = section.rows[0]
            kept.add(lines.line_of(section, row, value=2.0, verdict="met"))
            return "stopped after 15 s"

        def end(self):
            return 0

    monkeypatch.setattr(gpu, "Child", Cut)
    monkeypatch.setattr(gpu.Session, "_decode", lambda self: None)
    for flags in ([], [], ["--again"]):
        assert gpu.main([str(tmp_path), "facts", *flags]) == 0
    assert told == ["facts", "facts"]
    kept = lines.Kept(tmp_path).lines
    assert kept["facts", "bf16 peak, 8192^3"].value == 2
    assert kept["facts", "copy, read and write"].verdict == "failed: stopped after 15 s"


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("print('done', flush=True)", ""),
        ("time.sleep(60)", "stopped after 0 s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
        ("sys.exit(3)", "exit code 3"),
    ],
)
def test_why_a_process_gave_no_more_is_told(module, monkeypatch, tmp_path, does, reason):
    """Whether it was too slow, was killed, or ended; one that is too slow is ended."""
    gpu, script = module("gpu"), tmp_path / "child.py"
    script.write_text(
        "import os, signal, sys, time\nprint('ready', flush=True)\n"
        f"for line in sys.stdin:\n    {does}\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    child = gpu.Child(gpu.parse([str(tmp_path)]))
    assert child.starts() == ""
    limit = 60 if "sleep" not in does else 0.2
    assert child.measure(module("gpu_plan").PLAN[0], limit, again=False) == reason
    child.end()
    assert not child.lives


def test_without_a_device_it_says_so_and_measures_nothing(module, tmp_path):
    """With --try alone there is one; the exit code is that of an error."""
    if module("gpu_sections").torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(SystemExit, match="no CUDA device here; --try tries the script"):
        module("gpu_sections").check_machine(tmp_path, is_try=False)
    assert lines_of(tmp_path) == []


def test_rows_of_another_card_are_not_mixed_with_its_own(module, monkeypatch, tmp_path):
    """OUT belongs to a card and a release of torch."""
    sections = module("gpu_sections")
    monkeypatch.setattr(sections, "machine", lambda is_try: {"gpu": "H100", "torch": "2.14"})
    monkeypatch.setattr(sections.torch.cuda, "is_available", lambda: True)
    for _ in range(2):
        sections.check_machine(tmp_path, is_try=False)
    assert len(lines_of(tmp_path)) == 1
    monkeypatch.setattr(sections, "machine", lambda is_try: {"gpu": "H200", "torch": "2.14"})
    with pytest.raises(SystemExit, match="has rows of gpu H100, and here it is H200"):
        sections.check_machine(tmp_path, is_try=False)


def test_a_part_that_fails_leaves_its_error_and_the_next_one_goes_on(module, monkeypatch, tmp_path):
    """What it gave before stays; a row that can't be had says why in words."""
    sections, found = module("gpu_sections"), module("gpu_lines").Measured

    def first(way):
        yield found.of("bf16 peak, 8192^3", [1.0, 2.0, 6.0])
        raise ValueError("broken\nand more")

    def second(way):
        raise module("gpu_way").NotHereError("no such wheel")
        yield

    section = module("gpu_plan").PLAN[0]
    plan = module("gpu_plan").Section(
        "facts", 1, (*section.rows, module("gpu_plan").Planned("third", "s"))
    )
    monkeypatch.setattr(sections, "PARTS", {"facts": ((2, first), (1, second))})
    sections.measure(plan, module("gpu_way").Way(tmp_path, False, 0.0), plan.rows)
    lines = module("gpu_lines").Kept(tmp_path).lines.values()
    assert [line.value for line in lines] == [2.0, None, None]
    assert [line.verdict for line in lines] == [
        "",
        "failed: ValueError: broken",
        "unmeasured: no such wheel",
    ]


def test_a_line_that_a_kill_cut_off_is_measured_again(module, tmp_path):
    """The next line begins a line of its own."""
    lines, (section, *_) = module("gpu_lines"), module("gpu_plan").PLAN
    (tmp_path / "gpu.jsonl").write_text('{"machine": {"gpu": "H200"}}\n{"section": "fac')
    kept = lines.Kept(tmp_path)
    assert (kept.machine, kept.lines) == ({"gpu": "H200"}, {})
    kept.add(lines.line_of(section, section.rows[0], value=1.0))
    assert len(lines.Kept(tmp_path).missing(section)) == len(section.rows) - 1


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (1.3, "<= 1.3", "met"),
        (1.31, "<= 1.3", "MISSED"),
        (7, "7 to 7", "met"),
        (1.06, "0.95 to 1.05", "MISSED"),
        (5, "", ""),
    ],
)
def test_a_target_is_a_bound_or_a_range(module, value, target, verdict):
    """Both ends of a range are inside."""
    assert module("gpu_lines").verdict_on(value, target) == verdict


def test_a_floor_is_the_longer_of_products_and_copies(module):
    """8 products of 1,024 by 512 by 100,000 at 800 TFLOP/s take 0.524 ms: of 1 ms they are 52%."""
    lines, plan = module("gpu_lines"), module("gpu_plan")
    (section,) = (one for one in plan.PLAN if one.name == "classes")
    (row,) = (one for one in section.rows if one.name == "C = 100,000 in chunks: time")
    peaks = {"tflops": 800.0, "terabytes": 4.0}
    line = lines.with_floor(lines.line_of(section, row, value=1.0), row, peaks)
    assert line.floor == pytest.approx(8 * 1024 * 512 * 100_000 / 800e12 * 1e3)
    assert line.share == pytest.approx(0.524, abs=0.001)
    rate = plan.Planned("a rate", "img/s", work=plan.Work(2e3, 8.0))  # 2.5 ms, and 2 ms
    line = lines.with_floor(lines.line_of(section, rate, value=100.0), rate, peaks)
    assert (line.floor, line.share) == pytest.approx((400, 0.25))


def test_results_show_kept_rows_and_say_unmeasured_without(module, monkeypatch, tmp_path):
    """Of a card's file the facts and values; without one each target stands there, unmeasured."""
    results, lines = module("results").refreshed, module("gpu_lines")
    marked = "<!-- gpu: sh benchmarks/gpu.sh OUT -->\nold\n<!-- end -->\n"
    monkeypatch.setattr(module("results"), "GPU_RUNS", tmp_path)
    empty = results(marked)
    assert empty.splitlines()[1] == lines.UNMEASURED
    assert "| 8 | ten-million | C = 10,000,000, batch 512: time, SGD included | <= 60 ms |" in empty
    kept = lines.Kept(tmp_path, "H200.jsonl")
    kept.add({"machine": {"gpu": "NVIDIA H200"}})
    section = next(one for one in module("gpu_plan").PLAN if one.name == "ten-million")
    kept.add(lines.line_of(section, section.rows[0], value=51.25, verdict="met"))
    shown = results(empty)
    assert "**H200**: gpu NVIDIA H200" in shown
    assert "SGD included | 51.25 ms | <= 60 | met |" in shown
    assert "| peak memory |  |  | not begun |" in shown


def test_packages_that_lack_are_named_with_what_is_there(module):
    """Versions are compared as numbers: 0.9 is older than 0.29; a local part counts for nothing."""
    here = {"typer": "0.9.1", "torch": "2.11.0+cu130"}

    def version_of(name):
        if name not in here:
            raise PackageNotFoundError(name)
        return here[name]

    wanted = ["typer>=0.29", "torch>=2.11", "pydantic>=2.10", "pydantic-core"]
    found = list(module("gpu_wheels").lacking(wanted, version_of))
    assert found == [
        ("typer>=0.29", "is 0.9.1 here"),
        ("pydantic>=2.10", "is not installed"),
        ("pydantic-core", "is not installed"),
    ]
    assert any(wheel.startswith("typer>=") for wheel in module("gpu_wheels").required())


def test_seeds_trained_at_once_are_those_trained_alone(module):
    """The experiment compares equal things: weights after three steps, but for rounding."""
    assert module("gpu_seeds").apart("paper-2d", 2, 3, 4, "cpu") < 1e-5
