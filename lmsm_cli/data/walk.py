"""Walk a folder for image files: one set of rules for all that read images.

Images are found at any depth, in sorted order. Names with a leading dot are ignored; whatever else
is there is an image or is reported as left out. The folder itself may be a link, and links below it
that stay inside are read; those that lead out of it only on request.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lmsm_cli.errors import counted, few, visible

# What Pillow decodes in its own process: EPS would start Ghostscript, WMF and HDF5 are others' to
# decode. TGA has no mark of its own, so it is tried last.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "DIB": (".dib",),
    "PCX": (".pcx",),
    "DCX": (".dcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "PSD": (".psd",),
    "DDS": (".dds",),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "FITS": (".fits", ".fit"),
    "FLI": (".fli", ".flc"),
    "FTEX": (".ftc", ".ftu"),
    "BLP": (".blp",),
    "GBR": (".gbr",),
    "MSP": (".msp",),
    "PIXAR": (".pxr",),
    "PCD": (".pcd",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Endings that stand for images alone; others' files have the rest too, such as .fit, .pcd and .rgb.
_SURE_SUFFIXES = tuple(
    suffix
    for name in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
    for suffix in FORMATS[name]
)

_FOLLOW = "--follow-links reads what they lead to"


@dataclass
class LeftOut:
    """What lies in a folder and is not read, by name from the folder on, sorted."""

    foreign: list[str] = field(default_factory=list)  # files whose ending is none of an image
    outside: list[str] = field(default_factory=list)  # links out of the folder
    twice: list[str] = field(default_factory=list)  # links to what is read already, or back up
    loose: list[str] = field(default_factory=list)  # image files beside the class folders
    blank: list[str] = field(
        default_factory=list
    )  # empty files whose ending others' files have too
    hidden: list[str] = field(default_factory=list)  # with a leading dot; a folder as one name

    def add(self, other: "LeftOut", folder: str) -> None:
        """Add what was left out of a folder below."""
        for kind, names in vars(other).items():
            getattr(self, kind).extend(f"{folder}/{name}" for name in names)

    def words(self, root: Path) -> list[str]:
        """Return a sentence for each kind of what is left out of the folder `root`.

        None for hidden names: they are meant to be overlooked.
        """
        like = "an image" if len(self.foreign) == 1 else "images"
        what = {
            "foreign": ("file", f" not named as {like}: {_endings(self.foreign)}"),
            "outside": ("link", f" out of the folder: {few(self.outside)}; {_FOLLOW}"),
            "twice": ("link", f" back, or to a folder that is read already: {few(self.twice)}"),
            "loose": ("image", f" in no class folder: {few(self.loose)}"),
            "blank": ("empty file", f": {few(self.blank)}"),
        }
        return [
            f"{root}: skipped {counted(len(names), what[kind][0])}{what[kind][1]}"
            for kind, names in vars(self).items()
            if names and kind in what
        ]

    def hint(self) -> str:
        """Return the way out where it may be that images are only linked in, else nothing."""
        if not self.outside:
            return ""
        links = counted(len(self.outside), "link")
        return f"; {links} out of it left out: {few(self.outside, 3)}; {_FOLLOW}"


@dataclass
class Tree:
    """The image files of a folder, by name from the folder on, and what is left out."""

    images: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def walk(folder: Path, *, inside: Path | None = None, follow_links: bool = False) -> Tree:
    """Return the images in and below a folder, sorted by folder and name.

    Links that lead out of `inside`, by default the folder itself, are left out unless
    `follow_links`. A folder is read once, by its own name if it has one here. Raises OSError where
    a folder cannot be listed.
    """
    return _Walker(folder, inside or folder, follow_links).walk()


class _Walker:
    """One walk: folders first, then what links lead to, so that no chain of links is endless."""

    def __init__(self, folder: Path, inside: Path, follow_links: bool) -> None:
        self._folder, self._follow_links = folder, follow_links
        self._inside = os.path.realpath(inside)
        self._seen: set[str] = set()
        self._links: list[str] = []  # to folders
        self._tree = Tree()

    def walk(self) -> Tree:
        """Return what there is."""
        start = os.path.realpath(self._folder)
        self._list("", start)
        while self._links:
            self._links.sort(key=_by_parts, reverse=True)
            name = self._links.pop()
            real = os.path.realpath(self._folder / name)
            if real in self._seen or is_inside(start, real):
                self._tree.left_out.twice.append(name)
            else:
                self._list(name, real)
        for names in (self._tree.images, *vars(self._tree.left_out).values()):
            names.sort(key=_by_parts)
        return self._tree

    def _list(self, name: str, real: str) -> None:
        """Take what lies in a folder, and in the folders below it."""
        waiting = [(name, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self._seen:
                self._tree.left_out.twice.append(name)
                continue
            self._seen.add(real)
            with os.scandir(self._folder / name) as entries:
                for entry in entries:
                    below = f"{name}/{entry.name}" if name else entry.name
                    if entry.name.startswith("."):
                        self._tree.left_out.hidden.append(below)
                    elif entry.is_symlink():
                        self._take_link(below)
                    elif entry.is_dir():
                        waiting.append((below, os.path.join(real, entry.name)))  # noqa: PTH118
                    else:
                        self._take_file(below)

    def _take_link(self, name: str) -> None:
        path = self._folder / name
        real = os.path.realpath(path)
        if not self._follow_links and not is_inside(real, self._inside):
            self._tree.left_out.outside.append(name)
        elif path.is_dir():
            self._links.append(name)
        else:
            self._take_file(name)

    def _take_file(self, name: str) -> None:
        if not name.lower().endswith(SUFFIXES):
            self._tree.left_out.foreign.append(name)
        elif not name.lower().endswith(_SURE_SUFFIXES) and self._is_blank(name):
            self._tree.left_out.blank.append(name)
        else:
            self._tree.images.append(name)

    def _is_blank(self, name: str) -> bool:
        with suppress(OSError):
            info = (self._folder / name).stat()
            return stat.S_ISREG(info.st_mode) and info.st_size == 0
        return False


def is_inside(real: str, folder: str) -> bool:
    """Return whether a resolved path is a resolved folder or lies below it."""
    return real == folder or real.startswith(folder.rstrip(os.sep) + os.sep)


def endings() -> str:
    """Return, in short, what the names of images end in."""
    return f"{', '.join(SUFFIXES[:2])}, .png and {len(SUFFIXES) - 3} other endings"


def _by_parts(name: str) -> list[str]:
    return name.split("/")


def _endings(names: Iterable[str], shown: int = 10) -> str:
    """Return how many files have which ending, with the first names of each."""
    by_ending: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem, dot, ending = name.rpartition("/")[2].rpartition(".")
        by_ending[f".{ending.lower()}" if dot and stem else "without an ending"].append(name)
    often = sorted(by_ending.items(), key=lambda item: (-len(item[1]), item[0]))
    shown_endings = [
        f"{len(own):,} {visible(ending)} ({few(own, 3)})" for ending, own in often[:shown]
    ]
    more = [f"{len(often) - shown} more endings"] if len(often) > shown else []
    return ", ".join(shown_endings + more)
