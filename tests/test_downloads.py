"""What fetch.py promises, on a server of the test's own."""

import gzip
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lmsm_cli.data.downloads import download, is_intact, unpack
from lmsm_cli.errors import DataError, DiskError
from tests.conftest import SilentDisplay

CONTENT = np.random.default_rng(0).bytes(700_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """A server that gives its planned answers in turn, and the whole file after them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[str] = []
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each request

    def url(self, name: str = "file.bin") -> str:
        """Return an address on this server."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    """Answers as the server has planned."""

    server: Server

    def do_GET(self):
        """Give the next answer."""
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        answer = self.server.answers.pop(0) if self.server.answers else "whole"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if answer.isdecimal():
            self.reply(int(answer), b"")
        elif answer == "html":
            self.reply(200, b"<html>please log in</html>")
        elif answer == "cut":
            self.reply(206 if start else 200, CONTENT[start:HALF], length=len(CONTENT) - start)
        elif answer == "no ranges" or not start:
            self.reply(200, CONTENT)
        elif start >= len(CONTENT):
            self.reply(416, b"")
        else:
            self.reply(206, CONTENT[start:], start=start)

    def reply(self, status, body, *, length=None, start=0):
        """Send one answer; a `length` beyond the body looks like a lost connection."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status == 206:
            end = len(CONTENT) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server():
    """A local server; no test here leaves this machine."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(urls, path, **options):
    """Download without rests between the tries."""
    options = {"md5": MD5, "pauses": (0.001, 0.001), "timeout": 5} | options
    download(urls, path, **options)


def names(folder):
    """Return what the folder holds."""
    return sorted(path.name for path in folder.iterdir())


def test_download_is_verified_and_gets_its_name(server, tmp_path):
    """A file arrives whole, in a folder made for it, and no .part file stays."""
    display = SilentDisplay()
    path = tmp_path / "new" / "file.bin"
    fetch(server.url(), path, display=display)
    steps = display.reported
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file.bin"]
    assert steps[-1] == ("downloading file.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_intact_file_is_not_downloaded_again(server, tmp_path):
    """What is there and intact costs no request; what is damaged is replaced."""
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    fetch(server.url(), path)
    assert server.asked == []
    path.write_bytes(CONTENT[:-1])
    fetch(server.url(), path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", ["500", "503", "429", "408"])
def test_passing_trouble_is_tried_again(server, tmp_path, status):
    """A server that is busy for a moment is asked again."""
    server.answers = [status, status]
    fetch(server.url(), tmp_path / "file.bin")
    assert len(server.asked) == 3


def test_lost_connection_is_resumed(server, tmp_path):
    """After a connection that ended early only the rest is asked for."""
    server.answers = ["cut"]
    fetch(server.url(), tmp_path / "file.bin")
    assert [wanted for _, wanted in server.asked] == [None, f"bytes={HALF}-"]
    assert is_intact(tmp_path / "file.bin", MD5)


def test_part_of_an_earlier_session_is_resumed(server, tmp_path):
    """A .part file that a killed session left is gone on with."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    fetch(server.url(), tmp_path / "file.bin")
    assert server.asked == [("/file.bin", "bytes=1000-")]
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("held", "answers", "requests"),
    [
        (CONTENT[:1000], ["no ranges"], 1),
        (CONTENT, [], 1),
        (b"x" * 1000, [], 2),
        (CONTENT + b"x", [], 2),
        (b"x" * len(CONTENT), [], 2),
        (CONTENT[:1000], ["html"], 2),
    ],
    ids=["no ranges", "already whole", "foreign start", "too long", "foreign", "html"],
)
def test_any_part_file_ends_in_the_right_file(server, tmp_path, held, answers, requests):
    """Whatever a .part file holds, and whether or not the server can resume, the file is right."""
    (tmp_path / "file.bin.part").write_bytes(held)
    server.answers = answers
    fetch([server.url(), server.url("mirror.bin")], tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert len(server.asked) == requests


def test_next_mirror_is_asked(server, tmp_path):
    """Where one mirror has no such file, or a wrong one, the next one gives it."""
    server.answers = ["404", "html"]
    fetch([server.url("a"), server.url("b"), server.url("c")], tmp_path / "file.bin")
    assert [path for path, _ in server.asked] == ["/a", "/b", "/c"]


@pytest.mark.parametrize(
    ("answers", "requests", "said"),
    [
        (["404"], 1, "HTTP 404"),
        (["html"], 1, "not the right file"),
        (["503"] * 9, 3, "HTTP 503"),
        (["cut", "503", "503"], 3, "HTTP 503"),
    ],
    ids=["not found", "login page", "busy for good", "lost for good"],
)
def test_failure_says_what_to_put_where(server, tmp_path, answers, requests, said):
    """The last word names address, place, checksum and the data set that needs no download."""
    server.answers = answers
    path = tmp_path / "file.bin"
    with pytest.raises(DataError, match=said) as caught:
        fetch(server.url(), path)
    assert len(server.asked) == requests
    for piece in (server.url(), str(path), MD5, "--dataset digits"):
        assert piece in str(caught.value)
    assert not path.exists()


def test_offline_is_a_data_error(tmp_path):
    """Where nothing answers, the error says how to go on."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(DataError, match=r"refused.*by hand"):
        fetch(f"http://127.0.0.1:{port}/file.bin", tmp_path / "file.bin")


def test_what_came_is_kept_after_failure(server, tmp_path):
    """When every try fails, the next session goes on where this one ended."""
    server.answers = ["cut", "503", "503"]
    with pytest.raises(DataError):
        fetch(server.url(), tmp_path / "file.bin")
    fetch(server.url(), tmp_path / "file.bin")
    assert server.asked[-1] == ("/file.bin", f"bytes={HALF}-")


def test_unwritable_place_is_a_disk_error(server, tmp_path):
    """A file where the folder should be is a disk error that names the file, not a failed mirror."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot write .*file\.bin"):
        fetch(server.url(), tmp_path / "data" / "file.bin")
    (tmp_path / "file.bin.part").mkdir()
    with pytest.raises(DiskError, match=r"cannot write .*file\.bin"):
        fetch(server.url(), tmp_path / "file.bin")


def tar_of(path, members):
    """Write a .tar.gz of name -> content."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_tar_is_unpacked_beside_what_is_there(tmp_path):
    """Files land in their folders; files already there that the archive lacks stay."""
    archive = tar_of(tmp_path / "x.tar.gz", {"batches/a": b"1", "batches/b": b"2"})
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "a").write_bytes(b"old")
    (tmp_path / "batches" / "mine").write_bytes(b"3")
    unpack(archive, tmp_path)
    content = {path.name: path.read_bytes() for path in (tmp_path / "batches").iterdir()}
    assert content == {"a": b"1", "b": b"2", "mine": b"3"}
    assert names(tmp_path) == ["batches", "x.tar.gz"]


def test_gz_loses_its_suffix(tmp_path):
    """A single packed file is unpacked under its own name."""
    (tmp_path / "digits-idx1-ubyte.gz").write_bytes(gzip.compress(b"digits"))
    unpack(tmp_path / "digits-idx1-ubyte.gz", tmp_path)
    assert (tmp_path / "digits-idx1-ubyte").read_bytes() == b"digits"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_tar_cannot_write_outside(tmp_path, name):
    """A member that points out of the folder is refused, and nothing is unpacked."""
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    archive = tar_of(tmp_path / "x.tar.gz", {name: b"evil"})
    with pytest.raises(DataError, match=r"x\.tar\.gz cannot be unpacked"):
        unpack(archive, folder)
    assert names(folder) == []
    assert names(folder.parent) == ["data"]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.gz"])
@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["half", "nothing"])
def test_damaged_archive_is_named_and_leaves_nothing(tmp_path, name, keep):
    """Of a cut archive no file appears, and the error says which archive to delete."""
    archive = tmp_path / name
    if name == "x.gz":
        archive.write_bytes(gzip.compress(CONTENT))
    else:
        tar_of(archive, {"a": CONTENT[:1000], "b": CONTENT})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)] or b"no gz")
    with pytest.raises(DataError, match=rf"{name} cannot be unpacked.*delete it"):
        unpack(archive, tmp_path)
    assert names(tmp_path) == [name]
