"""Find the files that a list names, and say why one is refused.

The rules are those of walk.py: links that stay in the data folder are read, and what lies outside
of it, by a link or by its path, only on request.
"""

import os
import stat
from pathlib import Path

from lmsm_cli.data.walk import is_inside

_MISSING = "a file that is not there"
_NO_FILE = "a path that is no file"
_OUTSIDE = "a file outside of the data folder"


class ListedFiles:
    """The files below a data folder. A folder's links are resolved once for all files in it."""

    def __init__(self, data_dir: Path, *, follow_links: bool) -> None:
        self._data_dir, self._follow_links = data_dir, follow_links
        self._inside = os.path.realpath(data_dir)
        self._real: dict[str, str] = {}

    def find(self, base: Path, path: str) -> tuple[str, str]:
        """Return a file's path from the data folder on, and the fault of a line that names it.

        Args:
            base: the folder that the path is relative to.
            path: as the list has it; where there is no such file, backslashes may part it.

        The first is empty where there is a fault, the second where there is none. Two paths of one
        file give the same, which is the one that it really has where that is in the data folder.
        """
        file, fault = self._find(os.path.normpath(os.path.join(base, path)))  # noqa: PTH118
        if fault == _MISSING and "\\" in path and os.sep == "/":
            return self.find(base, path.replace("\\", "/"))
        return file, fault

    def _find(self, full: str) -> tuple[str, str]:
        folder, name = os.path.split(full)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = os.path.join(self._real[folder], name)  # noqa: PTH118
        try:
            info = os.lstat(real)
            if stat.S_ISLNK(info.st_mode):
                real = os.path.realpath(real)
                info = os.stat(real)  # noqa: PTH116
        except OSError:
            return "", _MISSING
        if not stat.S_ISREG(info.st_mode):
            return "", _NO_FILE
        if is_inside(real, self._inside):
            return real[len(self._inside.rstrip(os.sep)) + 1 :].replace(os.sep, "/"), ""
        if not self._follow_links:
            return "", _OUTSIDE
        return os.path.relpath(real, self._inside).replace(os.sep, "/"), ""

    def is_missing(self, fault: str) -> bool:
        """Return whether a fault is that there is no such file."""
        return fault == _MISSING

    def way_out(self, fault: str, base: Path) -> str:
        """Return how a fault can be mended."""
        if fault == _OUTSIDE:
            return f"--follow-links reads them, or --data-dir names a folder above {self._data_dir}"
        if fault == _NO_FILE:
            return "each line names an image file"
        return f"the paths are relative to {base}: --data-dir names another folder"
