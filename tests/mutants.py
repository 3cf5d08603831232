"""Do the tests notice a mistake? Plant each one of mutants.toml, and see the named test fail.

    python tests/mutants.py [PART OF A NAME ...]

A mutant is a copy of the package with one line changed. To add one, append to mutants.toml what the
fault is, the file, the line and what becomes of it, and a quick test that fails then.
Ends with 1 where a mutant survives, where a line is not found exactly once, and where a test fails
without any mutant. Processes are forked from one that has imported torch, which takes seconds.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
BESIDE = ("docs", "benchmarks", "presets", "README.md", "CONTRIBUTING.md", "pyproject.toml")
"""What tests read, beside the package."""
LIBRARIES = (
    "filelock",
    "hypothesis",
    "matplotlib.pyplot",
    "optuna",
    "pooch",
    "pydantic",
    "scipy.stats",
    "sklearn.metrics",
    "torchvision",
    "typer",
    "xdist",
    "yaml",
)
"""Imported once, so that no mutant needs to."""
AT_ONCE = 2
SECONDS = 100
"""After these a test is ended, and its mutant has survived: a test takes 5 s on a free machine."""
FAILED = int(pytest.ExitCode.TESTS_FAILED)
"""Any other code, such as that of a test that cannot be collected, catches no mutant."""


@dataclass(frozen=True)
class Mutant:
    """One line changed, and the test that must fail on it."""

    fault: str
    file: str
    """Below lmsm_cli/."""
    line: str
    becomes: str
    test: str
    """Below tests/."""


@dataclass(frozen=True)
class Outcome:
    """How a forked pytest ended: exit code (negative: by a signal), what it printed, and when."""

    code: int
    output: str
    seconds: float


def main(parts: Sequence[str]) -> int:
    """Run the mutants whose fault contains one of the parts, all where there is none."""
    table = tomllib.loads((TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**row) for row in table]
    mutants = [m for m in mutants if not parts or any(part in m.fault for part in parts)]
    for name in LIBRARIES:
        import_module(name)
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # what a killed test leaves goes with it
        sound = Path(scratch, "sound")
        copy_everything(sound)
        wrong = [wrong for mutant in mutants if (wrong := misfit(mutant, sound))]
        wrong = wrong or failing_without_mutant(mutants, sound)
        wrong = wrong or survivors(mutants, sound, Path(scratch))
    print("\n".join(["", *wrong]))
    print(f"{len(mutants)} mutants, {len(wrong)} problems, {time.monotonic() - start:.0f} s")
    return int(bool(wrong) or not mutants)


def copy_everything(target: Path) -> None:
    """Copy the tests and the package: the checkout's where there is one, else the installed."""
    package = TESTS.parent / "lmsm_cli"
    if not package.is_dir():
        (found,) = find_spec("lmsm_cli").submodule_search_locations
        package = Path(found)
    shutil.copytree(package, target / "lmsm_cli")
    shutil.copytree(TESTS, target / "tests")
    for path in filter(Path.exists, (TESTS.parent / name for name in BESIDE)):
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, target / path.name)


def misfit(mutant: Mutant, sound: Path) -> str | None:
    """Return what is wrong with a mutant of the table: its line stands once in its file."""
    file = sound / "lmsm_cli" / mutant.file
    if not file.is_file():
        return f"{mutant.fault}: there is no {mutant.file}"
    lines = file.read_text(encoding="utf-8").splitlines()
    times = sum(line.strip() == mutant.line for line in lines)
    if times != 1:
        return f"{mutant.fault}: {times} lines of {mutant.file} are {mutant.line!r}"
    return None


def failing_without_mutant(mutants: Sequence[Mutant], sound: Path) -> list[str]:
    """Return the tests that fail, or are not there, on the package as it is."""
    tests = sorted({mutant.test for mutant in mutants})
    shares = [share for share in (tests[i::AT_ONCE] for i in range(AT_ONCE)) if share]
    wrong = []
    jobs = [lambda s=share: run_tests(sound, s) for share in shares]
    for share, outcome in forked(jobs, SECONDS * max(map(len, shares), default=1)):
        if outcome.code:
            wrong.append(f"without a mutant (exit code {outcome.code}):\n{outcome.output}")
        print(f"{len(shares[share])} tests without a mutant: {outcome.seconds:.0f} s", flush=True)
    return wrong


def survivors(mutants: Sequence[Mutant], sound: Path, scratch: Path) -> list[str]:
    """Run each mutant's test, print a line of each, and return those that no test noticed."""
    folders = [scratch / str(number) for number in range(len(mutants))]

    def work(mutant: Mutant, folder: Path) -> int:
        plant(mutant, sound, folder)
        return run_tests(folder, [mutant.test])

    survived = []
    jobs = [lambda m=m, f=f: work(m, f) for m, f in zip(mutants, folders, strict=True)]
    for number, outcome in forked(jobs):
        mutant = mutants[number]
        shutil.rmtree(folders[number], ignore_errors=True)
        verdict = "caught" if outcome.code == FAILED else "SURVIVED"
        print(f"{verdict} {outcome.seconds:4.1f} s  {mutant.fault}  ({mutant.test})", flush=True)
        if outcome.code != FAILED:
            survived.append(
                f"{mutant.fault}: {mutant.test} ended with {outcome.code}\n{outcome.output}"
            )
    return survived


def plant(mutant: Mutant, sound: Path, folder: Path) -> None:
    """Make a copy with the mutant's line changed, its indentation kept."""
    shutil.copytree(sound, folder)
    file = folder / "lmsm_cli" / mutant.file
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(
        "".join(
            line.replace(mutant.line, mutant.becomes) if line.strip() == mutant.line else line
            for line in lines
        ),
        encoding="utf-8",
    )


def run_tests(folder: Path, tests: Sequence[str]) -> int:
    """Run tests on the package in the folder, in this process, and return pytest's code."""
    os.chdir(folder)
    sys.path[0] = os.environ["PYTHONPATH"] = str(folder)
    flags = ["-n", "0", "-q", "-p", "no:cacheprovider", "--tb", "short"]
    flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of the LIBRARIES
    # Folders of its own: pytest tidies the shared ones, and stumbles where another one does too.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        flags += ["--basetemp", str(Path(own, "tests"))]
        return int(pytest.main([*flags, *(f"tests/{test}" for test in tests)]))


def forked(
    jobs: Sequence[Callable[[], int]], seconds: int = SECONDS
) -> Iterator[tuple[int, Outcome]]:
    """Run each job in its own process, some at once; give number and outcome as it ends."""
    running: dict[int, tuple[int, Path, float]] = {}
    waiting = list(enumerate(jobs))
    with tempfile.TemporaryDirectory() as logs:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                number, job = waiting.pop(0)
                log = Path(logs, str(number))
                running[_fork(job, log, seconds)] = number, log, time.monotonic()
            process, status = os.wait()
            with suppress(ProcessLookupError):  # what a test left running
                os.killpg(process, signal.SIGKILL)
            number, log, start = running.pop(process)
            code = os.waitstatus_to_exitcode(status)
            text = log.read_text(encoding="utf-8", errors="replace")
            yield number, Outcome(code, text, time.monotonic() - start)


def _fork(job: Callable[[], int], log: Path, seconds: int) -> int:
    """Start a process that does the job in so many seconds, with a log; return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setpgid(0, 0)
        signal.alarm(seconds)
        output = os.open(log, os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
