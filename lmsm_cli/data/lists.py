"""Read lists of image files: CSV and TSV with a header, and lines of a path and a label.

A list that cannot be understood raises; a line that cannot is a fault, so that all are told at
once. To know another usual name of a column, add it to its tuple.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from lmsm_cli.errors import DataError, counted, did_you_mean, few, os_errors_as_data_errors
from lmsm_cli.runtime.files import read_bytes

# ImageNet's has 1.28 million lines and 50 MB. What is larger is no list, but an archive of images.
LARGEST_LIST = 1 << 30

_PATH = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path",
    "image_file", "image_name", "img", "img_path", "img_name", "fname",
)  # fmt: skip
_LABEL = (
    "label", "labels", "class", "class_name", "class_label", "classname", "category", "target",
    "label_name",
)  # fmt: skip
_SPLIT = ("split", "subset", "partition")
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
_COMMENT = "#"


@dataclass(frozen=True)
class ImageLists:
    """The lists that name a data set's images, and how their columns are called."""

    path: Path
    """A list, or a folder of lists."""
    names: tuple[str, ...] | None = None
    """The lists in that folder, from there on; None where `path` is a list itself."""
    validation: Path | None = None
    test: Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    """Column that says which images belong together, such as those of one patient."""
    class_names: Path | None = None
    """File that names the classes whose labels are numbers."""


@dataclass(frozen=True)
class Rows:
    """What a list says of its images, a line each: columns of one length."""

    file: Path
    lines: Sequence[int]
    """Numbers of the lines, from 1 on."""
    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str] | None = None
    """None where there is no such column."""
    groups: Sequence[str] | None = None
    faults: list[str] = field(default_factory=list)


def by_line(file: Path, what: str, found: Sequence[tuple[int, str]]) -> str:
    """Return the fact that lines of a list have a fault, with the first of them.

    Args:
        file: the list.
        what: the fault, as in `a file that is not there`.
        found: the number of each line, and the text in it that shows the fault.
    """
    named = few([f"line {line} ({text})" for line, text in found], 5)
    return f"{file}: {what}, in {counted(len(found), 'line')}: {named}"


def read_rows(file: Path, lists: ImageLists) -> Rows:
    """Return what a list says. Raises DataError where it is no list, or a column is not told."""
    text = _text(file)
    delimiter = _delimiter(file, text, lists)
    if delimiter is not None:
        return _table(file, text, delimiter, lists)
    wanted = (lists.path_column, lists.label_column, lists.split_column, lists.group_column)
    if named := [name for name in wanted if name]:
        raise DataError(f"{file} has no header, and so no column {named[0]!r}")
    return _plain_lines(file, text)


def read_class_names(file: Path) -> dict[int, str]:
    """Return the name of each class number. Raises DataError that names file and line."""
    lines = _text(file).rstrip("\n").split("\n")
    if file.suffix.lower() in _DELIMITERS:
        found = list(_numbered(file, lines))
    else:
        found = [(line, number, text.strip()) for number, (line, text) in enumerate(_at(lines))]
    names: dict[int, str] = {}
    first: dict[str, int] = {}
    for line, number, name in found:
        if not name:
            raise DataError(f"{file}:{line}: there is no name for class {number}")
        if number in names:
            raise DataError(f"{file}:{line}: class {number} is named before, {names[number]!r}")
        if name in first:
            raise DataError(f"{file}:{line}: {name!r} is the name of class {first[name]} too")
        names[number], first[name] = name, number
    return names


def _numbered(file: Path, lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield the line, number and name of each row of `number,name`; a header may stand above."""
    for line, cells in _cells(file, lines, _first_delimiter(lines, _DELIMITERS[".csv"])):
        if len(cells) == 2 and _is_number(cells[0]):
            yield line, int(cells[0]), cells[1]
        elif line > 1:
            raise DataError(f"{file}:{line}: expected a number and a name, as in 3,cat")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _at(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    return enumerate(lines, start=1)


def _text(file: Path) -> str:
    """Return what a list holds, its lines ended by newlines. Raises DataError where it is none."""
    if file.is_dir():
        raise DataError(f"{file} is a folder, and a list of image files is expected")
    if not file.exists():
        raise DataError(f"there is no list {file}")
    with os_errors_as_data_errors(file):
        content = read_bytes(file, LARGEST_LIST)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is in UTF-16; save it as UTF-8")
    if (at := content.find(b"\0")) >= 0:
        raise DataError(f"{file}:{_line_of(content, at)}: it holds a NUL byte, so it is no list")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_of(content, error.start)
        raise DataError(f"{file}:{line}: it is not in UTF-8; save the list as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line_of(content: bytes, at: int) -> int:
    return content.count(b"\n", 0, at) + 1


def _delimiter(file: Path, text: str, lists: ImageLists) -> str | None:
    """Return what parts the columns of a list; None for one of lines without a header.

    A text file is a table where its first line has the usual names.
    """
    lines = text.split("\n", 1000)[:1000]
    ending = file.suffix.lower()
    if ending in _DELIMITERS:
        return _first_delimiter(lines, _DELIMITERS[ending])
    delimiter = _first_delimiter(lines, ",;\t")
    names = [name.strip() for name in _header(lines).split(delimiter)]
    wanted = ((lists.path_column, _PATH), (lists.label_column, _LABEL))
    is_table = all(given in names or _usual(names, usual) for given, usual in wanted)
    return delimiter if is_table else None


def _first_delimiter(lines: Sequence[str], known: str) -> str:
    """Return the delimiter that the first line of content has most of."""
    return max(known, key=_header(lines).count)


def _header(lines: Sequence[str]) -> str:
    return "".join(lines[_header_at(lines) :][:1])


def _header_at(lines: Sequence[str]) -> int:
    """Return the place of the first line of content, above which comments may stand.

    Below it none may: there the name of a file or of a class may begin as a comment does.
    """
    above = takewhile(lambda line: not line.strip() or _is_comment(line), lines)
    return sum(1 for _ in above)


def _is_comment(line: str) -> bool:
    return line.startswith(_COMMENT)


def _cells(file: Path, lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line with content, and its cells. Raises DataError for bad quotes.

    A row may go on over lines, within quotes; its number is that of the first.
    """
    above = _header_at(lines)
    content = (f"{line}\n" for line in lines[above:])
    reader = csv.reader(content, delimiter=delimiter, strict=True, skipinitialspace=True)
    start = above + 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield start, cells
            start = above + reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{start}: the quotes of this row are wrong: {error}") from None


def _table(file: Path, text: str, delimiter: str, lists: ImageLists) -> Rows:
    """Return what a table with a header says."""
    rows = _cells(file, text.split("\n"), delimiter)
    line, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{file} is empty: expected a header such as path,label")
    places = _places(f"{file}:{line}", header, lists)
    lines: list[int] = []
    columns: dict[str, list[str]] = {name: [] for name in places}
    ragged: list[tuple[int, str]] = []
    empty: list[tuple[int, str]] = []
    seen: dict[str, str] = {}  # a text that stands in many lines is held once
    for line, cells in rows:
        if len(cells) != len(header):
            ragged.append((line, counted(len(cells), "value")))
        elif blank := [header[place] for place in places.values() if not cells[place]]:
            empty.append((line, f"no {' and no '.join(blank)}"))
        else:
            lines.append(line)
            for name, place in places.items():
                columns[name].append(
                    cells[place] if name == "path" else seen.setdefault(cells[place], cells[place])
                )
    faults = []
    if ragged:
        faults.append(by_line(file, f"not the {len(header)} values of the header", ragged))
    if empty:
        faults.append(by_line(file, "a value is lacking", empty))
    splits, groups = columns.get("split"), columns.get("group")
    return Rows(file, lines, columns["path"], columns["label"], splits, groups, faults)


def _places(where: str, header: Sequence[str], lists: ImageLists) -> dict[str, int]:
    """Return in which column each thing stands. Raises DataError where that is not told."""
    places: dict[str, int] = {}
    wanted: Mapping[str, tuple[str | None, tuple[str, ...], str]] = {
        "path": (lists.path_column, _PATH, "--path-column"),
        "label": (lists.label_column, _LABEL, "--label-column"),
        "split": (lists.split_column, _SPLIT, "--split-column"),
        "group": (lists.group_column, (), "--group-column"),
    }
    for what, (given, usual, flag) in wanted.items():
        found = [name for name in header if name == given] if given else _usual(header, usual)
        if len(found) > 1:
            is_twice = len(set(found)) < len(found)
            same = "stand twice" if is_twice else "could each be meant"
            raise DataError(
                f"{where}: of the columns, {' and '.join(map(repr, found))} {same} for the {what}"
                f"; {'rename one' if is_twice else f'name one with {flag}'}"
            )
        if given and not found:
            raise DataError(f"{where}: there is no column {given!r}{did_you_mean(given, header)}")
        if not found and what in ("path", "label"):
            raise DataError(
                f"{where}: none of the columns {few(list(map(repr, header)))} is known to hold the "
                f"{what}: name it with {flag}, or in the header as {what}; a list that has no "
                "header needs one as its first line, such as path,label"
            )
        if found:
            places[what] = header.index(found[0])
    if len(set(places.values())) < len(places):
        raise DataError(f"{where}: one column is named for two things")
    return places


def _usual(header: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Return the columns with a usual name, whatever its case, blanks and hyphens."""
    plain = {name: name.casefold().replace(" ", "_").replace("-", "_") for name in header}
    return [name for name in header if plain[name] in usual]


def _plain_lines(file: Path, text: str) -> Rows:
    """Return what lines of a path and a label say; the path may hold blanks, and the label too
    where a tab stands before it."""
    lines: list[int] = []
    paths: list[str] = []
    labels: list[str] = []
    bad: list[tuple[int, str]] = []
    seen: dict[str, str] = {}
    for number, line in _at(text.split("\n")):
        if not line.strip() or _is_comment(line):
            continue
        pieces = [one.strip() for one in line.strip().rsplit("\t", maxsplit=1)]
        if len(pieces) < 2:
            pieces = line.strip().rsplit(maxsplit=1)
        if len(pieces) < 2:
            bad.append((number, repr(line.strip()[:100])))
            continue
        lines.append(number)
        paths.append(pieces[0])
        labels.append(seen.setdefault(pieces[1], pieces[1]))
    what = "no path and label with a blank between them (a table needs a header: path,label)"
    return Rows(file, lines, paths, labels, faults=[by_line(file, what, bad)] if bad else [])
