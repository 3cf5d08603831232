"""Files of strangers: only regular files are read, and what is written is a file of lmsm's own."""

import io
import os
import socket
from pathlib import Path

import pytest

from lmsm_cli.runtime import files as regular


def special(path: Path, kind: str) -> Path:
    """Make something at a path that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("aim"))
        path.symlink_to("aim")
    else:
        path.symlink_to("/dev/zero")
    return path


SPECIAL = ["pipe", "socket", "folder", "link to a pipe", "link to a device"]


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    """Reading it would wait for ever or never end; the error says what it is."""
    path = special(tmp_path / "x", kind)
    with pytest.raises(OSError, match=r"no regular file|a folder"):
        regular.open_regular(path)
    with pytest.raises(OSError, match=r"no regular file|a folder|a link"):
        regular.opened_to_add(path)


def test_a_link_is_read_through(tmp_path):
    """A user may link a checkpoint; only writing through links is refused."""
    (tmp_path / "aim").write_text("ü")
    (tmp_path / "x").symlink_to("aim")
    assert regular.read_text(tmp_path / "x") == "ü"


def test_reading_is_bounded(tmp_path):
    """A text that is larger than any of lmsm's is refused before it fills the memory."""
    (tmp_path / "x").write_bytes(b"12345")
    assert regular.read_bytes(tmp_path / "x", largest=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        regular.read_bytes(tmp_path / "x", largest=4)


def test_no_more_is_read_than_may_be_there(tmp_path, monkeypatch):
    """Of a file that has no end, one byte more than is allowed, and no more room than that."""
    asked = []

    class Endless(io.BytesIO):
        def read(self, size):
            asked.append(size)
            assert len(asked) < 9
            return b"x" * size

    monkeypatch.setattr(regular, "open_regular", lambda path: Endless())
    monkeypatch.setattr(regular, "_BLOCK", 4)
    with pytest.raises(OSError, match="larger than 9 bytes"):
        regular.read_bytes(tmp_path / "x", largest=9)
    assert asked == [4, 4, 2]


@pytest.mark.parametrize("aim", ["there", "missing"])
def test_nothing_is_written_through_a_link(tmp_path, aim):
    """A new file and a replacement take the link's own place, adding is refused, the aim stays."""
    (tmp_path / "there").write_text("mine")
    for name in ("new", "replaced", "added"):
        (tmp_path / name).symlink_to(aim)
    with regular.created(tmp_path / "new") as file:
        file.write(b"1")
    with regular.replacing(tmp_path / "replaced") as file:
        file.write(b"2")
    with pytest.raises(OSError, match="it is a link"):
        regular.opened_to_add(tmp_path / "added")
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "missing").exists()
    assert [(tmp_path / name).is_symlink() for name in ("new", "replaced", "added")] == [
        False,
        False,
        True,
    ]


def test_a_replacement_is_whole_or_not_at_all(tmp_path):
    """Where the body fails, the old file stays and no scrap is left."""
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), regular.replacing(path) as file:
        file.write(b"new %d" % (1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_not_replaced(tmp_path):
    """As /dev/stdout would be, for root."""
    path = special(tmp_path / "x", "pipe")
    with pytest.raises(OSError, match="no regular file"), regular.replacing(path):
        pass
    assert path.is_fifo()


def test_a_file_with_another_name_is_made_ones_own_before_it_is_added_to(tmp_path):
    """A hard link is a way to another file too: a copied run folder's, or one outside."""
    (tmp_path / "other").write_text("a")
    os.link(tmp_path / "other", tmp_path / "x")
    with regular.opened_to_add(tmp_path / "x") as file:
        file.write(b"b")
    assert (tmp_path / "other").read_text() == "a"
    assert (tmp_path / "x").read_text() == "ab"


def test_a_folder_to_write_into_is_no_link(tmp_path):
    """It is made where it is missing, and refused where a link or a file stands in its place."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    assert regular.own_folder(tmp_path / "new") == regular.own_folder(tmp_path / "new")
    for name in ("link", "dangling", "file"):
        with pytest.raises(OSError, match=r"it is (a link|no folder)"):
            regular.own_folder(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()
