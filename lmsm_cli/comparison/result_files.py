"""Results of other programs, read from CSV and .npz files, as runs in memory.

A CSV file, which may end in .tsv or .txt as lists of images may, has a header and a row for each
test image, and may hold several runs; an .npz file has an array a column, and holds one. `COLUMNS`
names what both take. What a file does not say of its run, its name may: NAME-sSEED.csv.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.config.data_path import LIST_SUFFIXES
from lmsm_cli.errors import (
    MALFORMED,
    DataError,
    LmsmError,
    did_you_mean,
    few,
    first_line,
    os_errors_as_data_errors,
)
from lmsm_cli.runs.documents import Status
from lmsm_cli.runs.folder import is_run
from lmsm_cli.runs.images import Predictions
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.runs.results import (
    Given,
    Origin,
    Results,
    check_kinds,
    checked,
    classes_told,
    counts_by_class,
    is_number,
    whole_number,
)
from lmsm_cli.runtime.files import open_regular, read_bytes

SUFFIXES = (*LIST_SUFFIXES, ".npz")
# A column by each of its names; singular and plural are alike.
COLUMNS = {
    "label": "labels",
    "labels": "labels",
    "predicted": "predictions",
    "prediction": "predictions",
    "predictions": "predictions",
    "id": "ids",
    "ids": "ids",
    "seed": "seed",
    "loss": "loss",
    "name": "loss",
    "train_count": "class_counts",
    "train_counts": "class_counts",
    "class_counts": "class_counts",
    "logits": "logits",
    "classes": "classes",
}
_LOGIT = "logit_"
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(e[-+]?\d+)?", re.IGNORECASE)
_POINT = "write a decimal point in the place of the comma, or if it is a name, a letter"
_IN_NAME = re.compile(r"(?P<loss>.+)-s(?P<seed>\d{1,10})")
# The logits of iNaturalist's 24,426 test images of 8,142 classes are 1.6 GB in float64.
_LARGEST = 1 << 32


def is_result_file(path: Path) -> bool:
    """Return whether a path is named as a file of results."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def check_no_files(folder: Path) -> None:
    """Raise LmsmError for a file of another kind, and for a folder with files of results and no
    run: files are given by name.
    """
    if folder.is_file():
        endings = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise LmsmError(
            f"{folder} is neither the folder of a run or of runs nor a file of results, which ends "
            f"in {endings}"
        )
    try:
        held = list(folder.iterdir()) if folder.is_dir() and not is_run(folder) else []
    except OSError:  # find_runs says it
        return
    # a text beside other files may be of anything
    files = sorted(path for path in held if is_result_file(path) and path.suffix.lower() != ".txt")
    if files and not any(map(is_run, held)):
        raise LmsmError(
            f"{folder} holds no run, but files of results: give these by name, such as "
            f"{folder / f'*{files[0].suffix}'}"
        )


def read_results(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs that files hold, each file once, and notes on columns that are not used.

    Raises DataError for a file that cannot be read, for bad rows, and for two runs of one loss and
    seed: the file, the line or row, and what is wrong.
    """
    files = {path.resolve(): path for path in reversed(paths)}
    records: list[RunRecord] = []
    notes: list[str] = []
    first: dict[tuple[str, int], Path] = {}
    for path in reversed(files.values()):
        content = _NpzFile.read(path) if path.suffix.lower() == ".npz" else _CsvFile.read(path)
        runs = content.runs()
        for one in runs:
            if (other := first.setdefault((one.loss, one.seed), path)) is not path:
                raise DataError(
                    f"{path}: {one.loss} with seed {one.seed} is in {other} too: give each once"
                )
        records += map(_record, _names(path, runs), runs)
        if content.unused:
            notes.append(f"{path}: not used: {', '.join(content.unused)}")
    return records, notes


def _names(path: Path, runs: Sequence[Results]) -> list[Path]:
    """Return a path for each run of a file: no two have the same, since answers are found by it."""
    if len(runs) == 1:
        return [path]
    escaped = [re.sub(r"[%/\0]", lambda found: f"%{ord(found[0]):02x}", run.loss) for run in runs]
    return [
        path.with_name(f"{path.name}:{loss}-s{run.seed}")
        for loss, run in zip(escaped, runs, strict=True)
    ]


def _record(name: Path, results: Results) -> RunRecord:
    """Return results as a run that was read."""
    return RunRecord(
        name,
        results.config,
        Status(state="completed"),
        [],
        results.scores(),
        None,
        # without logits, which no comparison needs, and which are most of the memory
        held_predictions=Predictions(results.labels, results.predicted, None, None),
        held_images=results.images(),
    )


class _InFile(Origin):
    """A file as the origin of results."""

    error = DataError

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self.path = path
        self.names = names  # what the file calls each column

    def place(self, column: str, row: int | None = None) -> str:
        """Return the file, and the column as the file calls it, with its row."""
        return f"{self.path}: {super().place(self.names.get(column, column), row)}"


class _InLines(_InFile):
    """The rows of a CSV file as the origin of results."""

    as_names = "write each with a letter, such as c2018"
    how_many = ""

    def __init__(self, path: Path, names: Mapping[str, str], lines: Sequence[int]) -> None:
        super().__init__(path, names)
        self.lines = lines

    def place(self, column: str, row: int | None = None) -> str:
        """Return the file, the line, counted from 1, and the column."""
        name = self.names.get(column, column)
        return (
            f"{self.path}: {name}"
            if row is None
            else (f"{self.path}, line {self.lines[row]}: {name}")
        )


def _in_name(path: Path, part: str) -> str | None:
    """Return the loss or the seed that the name of a file tells."""
    found = _IN_NAME.fullmatch(path.stem)
    return found[part] if found else None


def _untold(path: Path, part: str) -> DataError:
    return DataError(
        f"{path} does not say its {part}: give a column {part}, or name the file "
        f"NAME-sSEED{path.suffix}, such as softmax-s3{path.suffix}"
    )


def _columns(path: Path, header: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return what the file calls each column that it has, and the columns that are not used.

    Raises DataError for a column that stands twice, or for none of labels.
    """
    names: dict[str, str] = {}
    unused = []
    for name in header:
        column = COLUMNS.get(name.lower())
        if column is None:
            unused.append(name)
        elif column in names:
            raise DataError(f"{path}: {names[column]} and {name} are both {column}: give one")
        else:
            names[column] = name
    if "labels" not in names:
        near = did_you_mean("label", unused) if unused else ""
        raise DataError(f"{path} has no column label, the true class of each image{near}")
    return names, unused


@dataclass(frozen=True)
class _NpzFile:
    """The arrays of an .npz file: one run."""

    path: Path
    arrays: dict[str, NDArray[Any]]
    names: dict[str, str]
    unused: list[str]

    @classmethod
    def read(cls, path: Path) -> "_NpzFile":
        """Read the arrays of a file; nothing in it is executed. Raises DataError."""
        arrays = _arrays(path)
        names, unused = _columns(path, list(arrays))
        return cls(path, arrays, names, unused)

    def runs(self) -> list[Results]:
        """Return its run. Raises DataError for what is missing or bad."""
        given: dict[str, Any] = {column: self.arrays[name] for column, name in self.names.items()}
        loss = given.pop("loss", None)
        seed = given.pop("seed", None)
        name = _in_name(self.path, "loss") if loss is None else _only(loss, self._refuse, "loss")
        number = _in_name(self.path, "seed") if seed is None else _only(seed, self._refuse, "seed")
        if name is None or number is None:
            raise _untold(self.path, "loss" if name is None else "seed")
        whole = int(number) if isinstance(number, str) and number.isdecimal() else number
        origin = _InFile(self.path, self.names)
        return [checked(Given(loss=str(name), seed=whole, origin=origin, **given))]

    def _refuse(self, fact: str, column: str) -> NoReturn:
        _InFile(self.path, self.names).refuse(fact, column)


def _only(array: NDArray[Any], refuse: Any, column: str) -> Any:
    """Return the single value of an array."""
    if array.size != 1:
        refuse(f"has {array.size} values: an .npz file holds one run", column)
    return array.reshape(-1)[0].item()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file. Raises DataError; nothing in the file is executed."""
    with os_errors_as_data_errors(path), open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if sum(one.file_size for one in archive.infolist()) > _LARGEST:
                    raise ValueError(f"it holds more than {_LARGEST:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (*MALFORMED, zipfile.BadZipFile) as error:
            if "allow_pickle" in str(error):
                raise DataError(
                    f"{path} holds objects that are no plain arrays; nothing was executed: save "
                    "texts with np.array(texts, dtype=str)"
                ) from None
            raise DataError(f"{path} is no .npz file: {first_line(error)}") from None


@dataclass(frozen=True)
class _CsvFile:
    """The rows of a CSV file, each with its line: the runs of one or more losses and seeds."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    names: dict[str, str]
    logits: list[str]
    """The names of the columns of logits, in their order."""
    unused: list[str]

    @classmethod
    def read(cls, path: Path) -> "_CsvFile":
        """Read the rows of a file. Raises DataError for missing columns and ragged rows."""
        with os_errors_as_data_errors(path):
            content = read_bytes(path, _LARGEST)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path} is no text in UTF-8") from None
        numbered = list(_numbered_rows(path, text))
        if not numbered:
            raise DataError(f"{path} is empty: give a header and a row for each test image")
        header = [name.strip() for name in numbered[0][1]]
        for line, row in numbered[1:]:
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(row)} fields, and the header has {len(header)}"
                )
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{path}, line {numbered[0][0]}: two columns are called {twice!r}")
        logits = [name for name in header if name.lower().startswith(_LOGIT)]
        names, unused = _columns(path, [name for name in header if name not in logits])
        classes = [names[one] for one in ("labels", "predictions") if one in names]
        _check_decimals(path, header, classes, numbered[1:])
        for column in ("logits", "classes"):
            if column in names:
                raise DataError(
                    f"{path}: a column {names[column]} holds no one number a row; give logits as "
                    "logit_0, logit_1, ..."
                )
        if len(numbered) == 1:
            raise DataError(f"{path} has a header and no rows: there are no images to score")
        lines, rows = zip(*numbered[1:], strict=True)
        return cls(path, header, list(rows), list(lines), names, logits, unused)

    def runs(self) -> list[Results]:
        """Return its runs, in the order in which they begin. Raises DataError for bad rows."""
        found = []
        classes = self._classes()
        for (loss, seed), places in self._places().items():
            self._check_one_setting(loss, seed, places)
            lines = [self.lines[place] for place in places]
            origin = _InLines(self.path, self.names, lines)
            rows = [self.rows[place] for place in places]
            labels, predicted = (self._column(one, rows) for one in ("labels", "predictions"))
            if labels and predicted and not self.logits:
                check_kinds(labels, predicted, origin)
            given = Given(
                loss=loss,
                seed=seed,
                labels=labels,
                logits=self._logits(rows, origin),
                predictions=predicted,
                ids=self._column("ids", rows),
                classes=classes,
                origin=origin,
            )
            found.append(self._with_counts(checked(given), rows, origin))
        return found

    def _column(self, column: str, rows: Sequence[Sequence[str]]) -> list[str] | None:
        if column not in self.names:
            return None
        place = self.header.index(self.names[column])
        return [row[place].strip() for row in rows]

    def _places(self) -> dict[tuple[str, int], list[int]]:
        """Return the rows of each loss and seed. Raises DataError for one that comes again."""
        losses = self._column("loss", self.rows)
        seeds = self._column("seed", self.rows)
        for told, part in ((losses, "loss"), (seeds, "seed")):
            if told is None and _in_name(self.path, part) is None:
                raise _untold(self.path, part)
        loss, seed = (_in_name(self.path, part) for part in ("loss", "seed"))
        found: dict[tuple[str, int], list[int]] = {}
        for place, line in enumerate(self.lines):
            told_seed = seeds[place] if seeds else str(seed)
            number = _whole(told_seed)
            if number is None:
                raise DataError(
                    f"{self.path}, line {line}: seed is {told_seed!r:.80}: no whole number"
                )
            key = (losses[place] if losses else str(loss), number)
            if not key[0]:
                raise DataError(f"{self.path}, line {line}: {self.names['loss']} is empty")
            rows = found.setdefault(key, [])
            if rows and rows[-1] != place - 1 and "ids" not in self.names:
                raise DataError(
                    f"{self.path}, line {line}: {key[0]} with seed {key[1]} begins again: without "
                    "a column id the rows of a run stand together, once"
                )
            rows.append(place)
        return found

    def _check_one_setting(self, loss: str, seed: int, places: Sequence[int]) -> None:
        """Raise DataError where the rows of a run are the same images again under other settings.

        A column that is not used tells, if the rows of each of its values have the same labels in
        the same order. They would be taken for as many images as there are rows.
        """
        if "ids" in self.names:
            return
        rows = [self.rows[place] for place in places]
        label = self.header.index(self.names["labels"])
        for name in self.unused:
            labels: dict[str, list[str]] = {}
            place = self.header.index(name)
            for row in rows:
                labels.setdefault(row[place].strip(), []).append(row[label].strip())
            first, *others = labels.values()
            if others and len(first) > 1 and all(one == first for one in others):
                told = [f"{name} {value}" for value in labels]
                raise DataError(
                    f"{self.path}: the rows of {loss} with seed {seed} have {few(told, 3)}, each "
                    "with the same labels: give each a loss name of its own, such as "
                    f"{f'{loss} {name}={next(iter(labels))}'!r}, or a column id for each image "
                    "where they are of other images"
                )

    def _logits(
        self, rows: Sequence[Sequence[str]], origin: _InLines
    ) -> NDArray[np.float64] | None:
        if not self.logits:
            return None
        places = [self.header.index(name) for name in self._ordered_logits()]
        cells = [[row[place] for place in places] for row in rows]
        try:
            return np.array(cells, dtype=np.float64)
        except ValueError:
            for number, row in enumerate(cells):
                for name, cell in zip(self._ordered_logits(), row, strict=True):
                    if not is_number(cell):
                        why = _POINT if _DECIMAL_COMMA.fullmatch(cell.strip()) else "no number"
                        origin.refuse(f"is {cell!r:.80}: {why}", name, number)
            raise

    def _ordered_logits(self) -> list[str]:
        """Return the columns of logits by class number, or as they stand where they have names."""
        if self._has_numbers():
            return sorted(self.logits, key=lambda name: int(name[len(_LOGIT) :]))
        return self.logits

    def _has_numbers(self) -> bool:
        return all(name[len(_LOGIT) :].isdecimal() for name in self.logits)

    def _classes(self) -> list[str]:
        """Return the names of the classes, as far as the file tells them for all of its runs.

        Raises DataError where a class has no column of logits.
        """
        if self.logits and not self._has_numbers():
            return [name[len(_LOGIT) :] for name in self.logits]
        numbers = [int(name[len(_LOGIT) :]) for name in self._ordered_logits()]
        if numbers != list(range(len(numbers))):
            missing = next(n for n in range(len(numbers) + 1) if n not in numbers)
            raise DataError(
                f"{self.path}, line 1: there is no column {_LOGIT}{missing}; where the numbers are "
                f"names, {_InLines.as_names}, in the labels too"
            )
        if numbers:
            return [str(number) for number in numbers]
        told = (self._column(name, self.rows) for name in ("labels", "predictions"))
        origin = _InLines(self.path, self.names, self.lines)
        return list(classes_told([column for column in told if column], origin))

    def _with_counts(
        self, results: Results, rows: Sequence[Sequence[str]], origin: _InLines
    ) -> Results:
        """Return results with the training images of each class that its rows tell."""
        column = self._column("class_counts", rows)
        if column is None:
            return results
        counts = list(map(_whole, column))
        if None in counts:
            row = counts.index(None)
            origin.refuse(f"is {column[row]!r:.80}: no whole number", "class_counts", row)
        known = counts_by_class(counts, results.labels, results.classes, origin.refuse)
        return replace(results, train_counts=known)


def _whole(text: str) -> int | None:
    """Return the whole number from 0 on that a cell holds; None for any other."""
    number = whole_number(text)
    return number if number is not None and number >= 0 else None


def _check_decimals(
    path: Path, header: Sequence[str], classes: Sequence[str], rows: Sequence[tuple[int, list[str]]]
) -> None:
    """Raise DataError for a decimal comma, with which a class number would pass for a name."""
    places = [header.index(name) for name in classes]
    for line, row in rows:
        for place in places:
            if _DECIMAL_COMMA.fullmatch(row[place].strip()):
                raise DataError(
                    f"{path}, line {line}: {header[place]} is {row[place]!r:.80}: {_POINT}"
                )


def _numbered_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank with their lines, counted from 1. Raises DataError.

    The columns are parted by what the header has most of, as those of lists of images are.
    """
    header = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
