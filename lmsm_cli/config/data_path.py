"""What a path given as the data set is: class folders, or a list of image files.

Only names are looked at here; data/lists.py reads the lists.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lmsm_cli.errors import LmsmError

LIST_SUFFIXES = (".csv", ".tsv", ".txt")
"""Endings of the lists that a folder is searched for; a list that is named may have any."""

# As data/layout.py has them.
ROLES = ("train", "training", "val", "valid", "validation", "test", "testing")

METADATA = ("metadata.csv", "metadata.tsv")
"""The list of a folder of images, as the hub of Hugging Face lays it out."""


def choices_at(dataset: Any, known: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the choices that a path given as `dataset` stands for; None where it is no path.

    A known name is no path: `./digits` is the folder. What looks like a path need not be there,
    which is told when it is read. Raises LmsmError for a folder that could be read in two ways.
    """
    text = os.fspath(dataset) if isinstance(dataset, os.PathLike) else dataset
    if not isinstance(text, str) or not text.strip() or "\0" in text or text in known:
        return None
    path = Path(text)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in LIST_SUFFIXES or path.exists():
        return {"dataset": "list", "image_list": text}
    separators = [os.sep, os.altsep] if os.altsep else [os.sep]
    if any(separator in text for separator in separators):
        return {"dataset": "folder", "data_dir": text}
    return None


def near_path(text: str) -> str:
    """Return which folder or list in the current folder a misspelt one may have meant, in words."""
    try:
        names = [path.name for path in Path().iterdir() if _is_data(path)]
    except OSError:
        return ""
    near = get_close_matches(text, names, n=1, cutoff=0.75)
    return f" (there is ./{near[0]})" if near else ""


def list_names(folder: Path) -> list[str]:
    """Return the names of the lists in a folder, from there on, sorted; none where it has none.

    They are `metadata.csv` in it or in its `train/` and the like, or files such as `x_train.txt`.
    """
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    places = ["", *(f"{name}/" for name in names if name.casefold() in ROLES)]
    metadata = [
        f"{place}{name}"
        for place in places
        for name in METADATA
        if (folder / place / name).is_file()
    ]
    if metadata:
        return sorted(metadata)
    return sorted(name for name in names if role_word(Path(name)) and (folder / name).is_file())


def role_word(file: Path) -> str | None:
    """Return the last word of a list's name where it tells what its images are for."""
    word = file.stem.casefold().replace("-", "_").replace(".", "_").rpartition("_")[2]
    return word if file.suffix.lower() in LIST_SUFFIXES and word in ROLES else None


def _is_data(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in LIST_SUFFIXES


def _folder(path: Path) -> dict[str, Any]:
    """Return the choices of a folder: the lists in it, or its class folders."""
    try:
        lists, has_classes = list_names(path), _has_class_folders(path)
    except OSError:  # it is told when it is read
        lists, has_classes = [], True
    trains = [name for name in lists if role_word(Path(name)) in (None, "train", "training")]
    if not trains:
        return {"dataset": "folder", "data_dir": str(path)}
    if has_classes:
        raise LmsmError(
            f"{path} holds class folders and {' and '.join(lists)}; say which is the data: "
            f"--dataset folder --data-dir {path}, or --dataset {path / trains[0]} (and its "
            "--test-list)"
        )
    return {"dataset": "list", "image_list": str(path)}


def _has_class_folders(path: Path) -> bool:
    """Return whether folders of a folder can be classes: two or more, of images or of a part."""
    below = _folders(path)
    parts = [folder for folder in below if folder.name.casefold() in ROLES]
    if parts:
        return any(len(_folders(part)) > 1 for part in parts)
    return len(below) > 1


def _folders(path: Path) -> list[Path]:
    return [one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")]
