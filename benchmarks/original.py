"""The table of the project that this one re-implements, beside runs of studies/seed.sh.

    python benchmarks/original.py runs/seed-resnet18 runs/seed-vgg16

A row for each setting that the script plans, whether or not its runs are there yet: the folders may
be missing. Settings that start from ImageNet weights, as the original's runs do, have rows where
there are such runs. A mean stands there once all seeds of a row are finished. The second table
holds L-Softmax against softmax with the same neck: the two differ in the loss alone.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beside import Arm, arms_in
from published import Figure, data_of, published

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.intervals import in_points
from lmsm_cli.comparison.samples import spelled_alike
from lmsm_cli.config import RUNTIME_KEYS, Config, dump
from lmsm_cli.config.resolve import Layer
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.reports.verdicts import in_words
from lmsm_cli.sweeps.candidates import in_full
from lmsm_cli.sweeps.plan import plan_run

SCRIPT = Path(__file__).parent / "studies" / "seed.sh"
# What runs of one row may differ in.
_FREE = ("seed", "precision", *RUNTIME_KEYS)


@dataclass(frozen=True)
class Row:
    """A setting that the script trains."""

    config: Config
    seeds: int
    is_added: bool
    """Whether the original has no such run: its neck is another one."""

    @property
    def name(self) -> str:
        """The name of the loss."""
        return parse_spec(self.config.loss)[0]

    @property
    def title(self) -> str:
        """What is trained, in words."""
        one = self.config
        start = ", from ImageNet weights" if one.pretrained else ""
        return f"{one.loss}, {one.model}, neck {one.neck}, {data_of(dump(one))}{start}"

    def finished(self, arms: Sequence[Arm]) -> Arm | None:
        """Return the runs of this setting."""
        return next(
            (arm for arm in arms if self._as_trained(arm) == _setting_of(arm.setting)), None
        )

    def _as_trained(self, arm: Arm) -> dict[str, object]:
        """Return the setting as a run has it: its loss says what followed from the class counts."""
        loss = in_full(self.config.loss, arm.class_counts)
        return _setting_of(dump(self.config) | {"loss": loss})

    def figure(self) -> Figure | None:
        """Return what the original has: of its own data where it has none of this."""
        data = data_of(dump(self.config))
        found = [
            one
            for one in published().figures
            if one.recipe.startswith("original-")
            and (one.model, parse_spec(one.loss[0])[0]) == (self.config.model, self.name)
        ]
        same = [one for one in found if one.data == data]
        return None if self.is_added else next(iter(same or found), None)


def _setting_of(config: Mapping[str, object]) -> dict[str, object]:
    """Return the choices of lmsm's that tell rows apart, as every file spells them."""
    kept = {key: config[key] for key in Config.model_fields if key in config and key not in _FREE}
    lists = {key: list(value) for key, value in kept.items() if isinstance(value, tuple)}
    return spelled_alike(kept | lists)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs")
    arms = arms_in(parser.parse_args(arguments).folders)
    rows = [*planned(), *(row for row in planned("imagenet") if row.finished(arms))]
    print("| run | original | here | runs | here less original |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {' | '.join(_cells(row, row.finished(arms)))} |")
    print("\n**L-Softmax less softmax with the same neck, in points: difference [95% interval]**\n")
    print("| net | accuracy | few | seeds | over | verdict |")
    print("| --- | ---: | ---: | --- | --- | --- |")
    for row in rows:
        if row.name == "lsoftmax":
            print(f"| {' | '.join(_pair(row, rows, arms))} |")
    return 0


def _pair(row: Row, rows: Sequence[Row], arms: Sequence[Arm]) -> list[str]:
    """Return the cells of a row that is held against the one that differs in the loss alone."""
    wanted = dump(row.config)
    plain = (
        one
        for one in rows
        if one is not row and dump(one.config) | {"loss": row.config.loss} == wanted
    )
    pair = [one.finished(arms) for one in (row, *plain)]
    net = row.title.split(", ", 1)[1]
    if len(pair) < 2 or any(arm is None or len(arm.runs) < row.seeds for arm in pair):
        return [net, *["not run yet"] * 2, *["-"] * 3]
    groups = compare_runs([run for arm in pair if arm for run in arm.runs.values()]).groups
    own = next(group for group in groups if group.differences)
    told = [one for key in ("accuracy", "few") if (one := own.differences[key])]
    cells = [f"{in_points(one.mean)} {one.interval}".replace("[", r"\[") for one in told]
    seeds = f"{told[0].n} paired" if told[0].paired else f"{told[0].n}"
    return [net, *cells, seeds, told[0].over, in_words(own.verdict)]


def _cells(row: Row, arm: Arm | None) -> list[str]:
    figure, count = row.figure(), len(arm.runs) if arm else 0
    mean, there, less = "not run yet", "-", "-"
    if figure:
        is_same = figure.data == data_of(dump(row.config))
        there = f"{figure.accuracy:g}" + ("" if is_same else f" ({figure.data.split(' ', 1)[1]})")
    if arm and count >= row.seeds:
        mean = arm.mean
        if figure and is_same:
            less = f"{statistics.fmean(arm.accuracies) - figure.accuracy:+.1f}"
    return [row.title.replace("_", r"\_"), there, mean, f"{count} of {row.seeds}", less]


def planned(pretrained: str = "") -> list[Row]:
    """Return the settings that the script trains: it is run with a stand-in for `lmsm`."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in, calls = Path(folder, "lmsm"), Path(folder, "calls")
        stand_in.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
        stand_in.chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        # its own choices alone: no MODELS or ROWS of the shell that this runs in
        environment = {"PATH": path, "PRETRAINED": pretrained}
        subprocess.run(["sh", str(SCRIPT)], env=environment, check=True)
        return [_row(shlex.split(line)) for line in calls.read_text().splitlines()]


def _row(call: Sequence[str]) -> Row:
    """Return the setting of one `sweep` with flags that each have a value, but for `--quiet`."""
    words = [word for word in call[1:] if word != "--quiet"]
    flags = {
        flag.removeprefix("--").replace("-", "_"): value
        for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    preset, seeds = flags.pop("preset"), int(flags.pop("seeds"))
    layers = [Layer.of_preset(preset), Layer.of_flags(flags)]
    run = plan_run(layers, {}, None, facts=lambda config: None)
    return Row(run.config, seeds, "neck" in flags)


if __name__ == "__main__":
    sys.exit(main())
