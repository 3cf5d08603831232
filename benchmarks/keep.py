"""Keep the small files of finished runs, without weights.

    python benchmarks/keep.py NAME runs/FOLDER...

Writes benchmarks/runs/NAME.tar.xz, in which `FOLDER/RUN/` holds config, environment, metrics,
scores, status, and predictions.npz (adjusted ones of tail_study.py too) with the classes alone;
unpacked below runs/ it is what `lmsm compare runs/FOLDER` reads. config.yaml gets the default
folders for this machine's; of an absolute path in the command the last part is kept. Runs that did
not complete are left out. The same runs give the same bytes.

`FOLDER/test-images/DIGEST.npz` lists the test images in the order of the predictions, which is that
of the first run (run_images.py). There is one list for each data set: runs of one data set on other
test images are refused. FOLDER/full.json (study_full.py) is kept as it is.
"""

import argparse
import io
import json
import lzma
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from run_images import (
    ADJUSTED,
    LISTS,
    ImageList,
    images_tested_on,
    predictions_on,
    small_predictions,
)
from study_full import FULL

from lmsm_cli.errors import CheckpointError, LmsmError, listed
from lmsm_cli.runs.images import IMAGES, PREDICTIONS
from lmsm_cli.runs.record import read_run

KEPT = Path(__file__).parent / "runs"
_DEFAULT_PLACES = {"data_dir": "data", "out": "runs"}
# In a command, as a word of its own or after `--flag=`; what follows the last slash is kept.
_ABSOLUTE = re.compile(r"(^|=)/.*/")


def main(arguments: list[str] | None = None) -> int:
    """Write the archive; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the archive")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs")
    given = parser.parse_args(arguments)
    empty = [str(folder) for folder in given.folders if not list(completed(folder))]
    if empty:
        print(f"error: no completed run in {', '.join(empty)}", file=sys.stderr)
        return 2
    target = KEPT / f"{given.name}.tar.xz"
    try:
        target.write_bytes(archive(given.folders))
    except LmsmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size, runs = (
        target.stat().st_size / 1e3,
        sum(len(list(completed(one))) for one in given.folders),
    )
    print(f"{target}: {size:.0f} kB, {size / runs:.1f} kB a run")
    return 0


def archive(folders: list[Path]) -> bytes:
    """Return the compressed archive of the completed runs in the folders.

    Raises LmsmError where runs of one data set in a folder have other test images.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in sorted(folders):
            for name, content in _files_of(folder):
                entry = tarfile.TarInfo(f"{folder.name}/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def _files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of what is kept of a folder."""
    if (full := folder / FULL).exists():
        yield FULL, full.read_bytes()
    runs = list(completed(folder))
    images = {run: tested for run in runs if (tested := images_tested_on(read_run(run)))}
    for run in runs:
        if run not in images and (unknown := _prediction_files(run)):
            raise CheckpointError(
                f"{unknown[0]}: nothing tells of which test images it is, since its run has no "
                f"{IMAGES}, or no digests in scores.json"
            )
    _check_one_list_each(images)
    lists: dict[str, ImageList] = {}
    for tested in images.values():
        lists.setdefault(tested.digest, tested)
    for digest, tested in sorted(lists.items()):
        yield f"{LISTS}/{digest}.npz", tested.content()
    for run in runs:
        order = lists[images[run].digest].order if run in images else None
        yield from ((f"{run.name}/{name}", content) for name, content in kept_files(run, order))
        if run in images:
            kept = kept_predictions(run, images[run], lists[images[run].digest])
            yield from ((f"{run.name}/{name}", content) for name, content in kept)


def _check_one_list_each(images: Mapping[Path, ImageList]) -> None:
    """Raise LmsmError where runs of one data set were tested on different images."""
    runs_of: dict[str, dict[str, list[str]]] = {}
    for run, tested in images.items():
        dataset = str(yaml.safe_load((run / "config.yaml").read_text()).get("dataset"))
        runs_of.setdefault(dataset, {}).setdefault(tested.digest, []).append(run.name)
    for dataset, sets in runs_of.items():
        if len(sets) > 1:
            found = "; ".join(f"{digest}: {listed(names, 3)}" for digest, names in sets.items())
            raise LmsmError(
                f"runs of {dataset} in {next(iter(images)).parent} have {len(sets)} different sets "
                f"of test images ({found}); keep each in a folder of its own"
            )


def completed(folder: Path) -> Iterator[Path]:
    """Yield the completed runs of a folder, by name."""
    for status in sorted(folder.glob("*/status.json")):
        if json.loads(status.read_text())["state"] == "completed":
            yield status.parent


def kept_files(run: Path, order: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a run's small files, without the places of this machine.

    `order` is the digest of the test images in the order in which the predictions are kept.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())
    yield "config.yaml", yaml.safe_dump(config | _DEFAULT_PLACES, sort_keys=False).encode()
    environment = json.loads((run / "environment.json").read_text())
    environment["command"] = [_ABSOLUTE.sub(r"\1", word) for word in environment["command"]]
    yield "environment.json", json.dumps(environment, indent=1).encode()
    scores = json.loads((run / "scores.json").read_text())
    if order is not None and "test_order" in scores["images"]:
        scores["images"]["test_order"] = order
    yield "scores.json", (json.dumps(scores, indent=2, ensure_ascii=False) + "\n").encode()
    for name in ("metrics.jsonl", "status.json"):
        yield name, (run / name).read_bytes()


def kept_predictions(run: Path, images: ImageList, kept: ImageList) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a run's predictions with the classes alone.

    Args:
        run: The run folder.
        images: Its test images.
        kept: The same images in the order that the predictions are to have.

    Raises:
        CheckpointError: The predictions are damaged, or of other images.
    """
    rows = images.rows_of(kept)
    for path in _prediction_files(run):
        found = predictions_on(images, path.parent)
        columns = (found.labels[rows], found.predicted[rows])
        yield path.relative_to(run).as_posix(), small_predictions(*columns, len(images.classes))


def _prediction_files(run: Path) -> list[Path]:
    files = [run / PREDICTIONS, *sorted(run.glob(f"{ADJUSTED}/*/{PREDICTIONS}"))]
    return [file for file in files if file.exists()]


if __name__ == "__main__":
    sys.exit(main())
