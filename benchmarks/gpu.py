"""Measure every row that needs a GPU: `sh benchmarks/gpu.sh OUT`, which says what can be set.

Each section runs in a process of its own under a limit of time, so that none meets what another
left on the device. The next one's process is started early: it imports torch, and waits for its
turn. In a try-out one process takes all sections, for as long as it lives.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gpu_lines import Kept, line_of, table
from gpu_plan import PLAN, Section

BUDGET = 480  # seconds
SHORTEST = 5.0  # seconds that a section is begun with
MARGIN = 0.8  # of a section's limit, after which it begins no other turn
STARTING, DECODING = 120.0, 120.0  # seconds
GRACE = 45.0  # seconds; a run that is asked to stop saves first
PATIENCE = 20  # times a limit: a try-out on a busy machine is to end too


class Child:
    """A process that measures the sections that it is told."""

    def __init__(self, options: argparse.Namespace, *, first: bool = False) -> None:
        flags = ["--try"] * options.try_out + ["--first"] * first
        command = [sys.executable, __file__, str(options.out), "--child", *flags]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._is_ready = False

    def starts(self) -> str:
        """Wait until it can begin; return why it can't, if so."""
        reason = "" if self._is_ready else self._answer(STARTING)
        self._is_ready = not reason
        return reason

    def measure(self, section: Section, limit: float, *, again: bool) -> str:
        """Let it measure a section; return why it gave less than it should, if so."""
        told = {"section": section.name, "again": again, "seconds": MARGIN * limit}
        assert self._process.stdin
        with suppress(BrokenPipeError):  # then it has ended, which its answer tells
            self._process.stdin.write(json.dumps(told) + "\n")
        return self._answer(limit)

    def _answer(self, limit: float) -> str:
        """Wait for a line; return nothing, or why none came within the limit."""
        assert self._process.stdout
        if select.select([self._process.stdout], [], [], limit)[0]:
            if self._process.stdout.readline():
                return ""
            code = self._process.wait()
            return f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        self.end()
        return f"stopped after {limit:.0f} s"

    @property
    def lives(self) -> bool:
        """Whether it can be told another section."""
        return self._process.poll() is None

    def end(self) -> int:
        """End it, if it is there still; return its exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()
        return code


class Session:
    """The sections of a call, one after the other while there is time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._patience = PATIENCE if options.try_out else 1
        self._ends = time.monotonic() + options.seconds * self._patience
        self.child = Child(options, first=True)
        self._decoding = None if options.try_out else self._decode()
        self._no_data = ""

    def _decode(self) -> subprocess.Popen[bytes]:
        """Start to decode CIFAR-10 for the sections that need it."""
        with (self._options.out / "gpu.log").open("a") as log:
            command = [sys.executable, __file__, str(self._options.out), "--decode"]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def measure(self, section: Section) -> None:
        """Measure what a section has no line for; what it does not give gets one that says why."""
        out, again = self._options.out, self._options.again
        wanted = Kept(out).missing(section, again=again)
        if not wanted:
            return
        reason = self._data_lacks() if section.needs_data else ""
        limit = min(section.limit * self._patience, self._ends - time.monotonic())
        if limit < SHORTEST:
            return
        reason = reason or self._measured_by_child(section, limit)
        kept = Kept(out)
        for row in kept.missing(section):
            kept.add(line_of(section, row, verdict=f"failed: {reason}"))
        for row in wanted:
            line = kept.lines[section.name, row.name]
            print("  ".join(cell for cell in line.cells() if cell), flush=True)

    def close(self) -> int:
        """End what still runs; return the exit code of the process that waits for a section."""
        if self._decoding:
            self._decoding.kill()
            self._decoding.wait()
        return self.child.end()

    def _measured_by_child(self, section: Section, limit: float) -> str:
        """Let the process that waits measure a section; return why it gave less, if so."""
        child, again = self.child, self._options.again
        reason = child.starts()
        if not self._options.try_out:
            self.child = Child(self._options)  # of the section after this one
        reason = reason or child.measure(section, limit, again=again)
        if child is not self.child or not child.lives:
            child.end()
        if not self.child.lives:
            self.child = Child(self._options)
        return reason

    def _data_lacks(self) -> str:
        """Wait until CIFAR-10 is decoded; return why there is none, if so."""
        if self._decoding:
            try:
                reason = f"exit code {self._decoding.wait(DECODING)}"
            except subprocess.TimeoutExpired:
                self._decoding.kill()
                reason = f"stopped after {DECODING:.0f} s"
            self._decoding = None
            if reason != "exit code 0":
                self._no_data = f"no CIFAR-10 ({reason}): see gpu.log, give LMSM_DATA_DIR"
        return self._no_data


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    names = [section.name for section in PLAN]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of gpu.jsonl")
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"these alone: {', '.join(names)}"
    )
    parser.add_argument("--again", action="store_true", help="also rows that have no value")
    parser.add_argument(
        "--seconds", type=float, default=BUDGET, help=f"in which to measure (default {BUDGET})"
    )
    parser.add_argument(
        "--try", dest="try_out", action="store_true", help="tiny, in a pretended CUDA"
    )
    for hidden in ("--child", "--first", "--decode"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in options.sections:
        if name not in names:
            parser.error(f"no section {name!r}; there are {', '.join(names)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then print all rows against their targets; return an exit code."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.decode or options.child:
        return _in_child(options)
    session = Session(options)
    if session.child.starts():
        return session.close()
    for section in PLAN:
        if not options.sections or section.name in options.sections:
            session.measure(section)
    session.close()
    print(f"\n{table(Kept(options.out))}")
    return 0


def _in_child(options: argparse.Namespace) -> int:
    """Decode, or measure what stdin tells; return an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    import gpu_sections

    if options.decode:
        gpu_sections.decode()
        return 0
    if options.first:
        gpu_sections.check_machine(options.out, is_try=options.try_out)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with (options.out / "gpu.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    print("ready", file=answers)
    for line in sys.stdin:
        gpu_sections.measure_told(options.out, json.loads(line), is_try=options.try_out)
        print("done", file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
