"""Downloads from servers that stall, break off or lie; by several processes; bad archives."""

import json
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision import datasets

from lmsm_cli.data import published
from lmsm_cli.data.published import PUBLISHED, download
from lmsm_cli.data.sources import load
from lmsm_cli.errors import DataError, DiskError
from tests.conftest import SilentDisplay
from tests.test_published import md5, small_cifar10, tar_of

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SECONDS = 60


class Server(ThreadingHTTPServer):
    """Serves `content` under any name; each planned behaviour spoils one answer."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.plan = []
        self.asked = []  # the path of each request
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    """Gives the next answer."""

    server: Server

    def do_GET(self):
        """Answer as planned, or rightly."""
        self.server.asked.append(self.path)
        plan = self.server.plan
        (plan.pop(0) if plan else rightly)(self)

    def answer(self, content, status=200, length=None):
        """Send a status and a content; a `length` beyond it looks like a lost connection."""
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""


def rightly(handler):
    """Send the file."""
    handler.answer(handler.server.content)


def cut(handler):
    """Break the connection after half of the file."""
    content = handler.server.content
    handler.answer(content[: len(content) // 2], length=len(content))


def stall(handler):
    """Send half, and the rest once the test says so."""
    content = handler.server.content
    cut(handler)
    handler.server.go_on.wait(SECONDS)
    handler.wfile.write(content[len(content) // 2 :])


def web_page(handler):
    """Send what a network's log-in page sends."""
    handler.answer(b"<html>please log in</html>")


def status(code):
    """Answer with a status alone."""
    return lambda handler: handler.answer(b"", code)


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a local server; no test here leaves this machine."""
    servers = []
    monkeypatch.setattr(published, "_PAUSES", (0, 0))
    monkeypatch.setattr(published, "_TIMEOUT", 0.5)

    def start(*plan, content=CONTENT):
        server = Server(content)
        server.plan = list(plan)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.go_on.set()
        server.shutdown()
        server.server_close()


def fetch(url, path, **options):
    """Download by way of a scratch folder beside the file."""
    with published._scratch(path.parent / ".scratch") as scratch:
        mirrors = [url] if isinstance(url, str) else url
        download(mirrors, path, md5(CONTENT), scratch=scratch, **options)


def names(folder):
    """Return what the folder holds."""
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_verified_and_gets_its_name(serve, tmp_path, capfd):
    """A file arrives whole, its progress is shown, and nothing else is written or printed."""
    display = SilentDisplay()
    fetch(serve().url, tmp_path / "file.bin", display=display)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    done = [done for _, done, _ in display.reported]
    assert done == sorted(done)
    assert display.reported[-1] == ("downloading file.bin", len(CONTENT), len(CONTENT))
    assert capfd.readouterr() == ("", "")


def test_an_intact_file_is_not_downloaded_again(serve, tmp_path):
    """What is there and intact costs no request; what is damaged is replaced."""
    server, path = serve(), tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    fetch(server.url, path)
    assert server.asked == []
    path.write_bytes(CONTENT[:-1])
    fetch(server.url, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "moment", [stall, cut, web_page, status(503)], ids=lambda moment: moment.__name__
)
def test_a_server_with_a_bad_moment_gives_the_right_file_in_the_end(serve, tmp_path, moment):
    """Stalls, breaks and wrong contents cost another request, and nothing else stays on disk."""
    server = serve(moment)
    fetch(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert len(server.asked) == 2


def test_the_next_mirror_is_asked(serve, tmp_path):
    """Where one mirror has no such file, or a wrong one, the next one gives it."""
    server = serve(status(404), web_page)
    mirrors = [server.url.replace("file", name) for name in "abc"]
    fetch(mirrors, tmp_path / "file.bin")
    assert server.asked == ["/a.bin", "/b.bin", "/c.bin"]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (stall, "timed out"),
        (cut, "IncompleteRead"),
        (web_page, "not the right file"),
        (status(404), r"404 Client Error: Not Found\)"),
    ],
    ids=["stalls", "breaks", "a wrong file", "not found"],
)
def test_a_server_that_never_gives_the_file_is_given_up(serve, tmp_path, behaviour, said):
    """The error comes soon, and says why, from where by hand, to where, with which checksum."""
    server, started = serve(*[behaviour] * 20), time.monotonic()
    with pytest.raises(DataError, match=said) as caught:
        fetch(server.url, tmp_path / "file.bin")
    assert time.monotonic() - started < 10
    assert caught.value.exit_code == 3
    where = str(tmp_path / "file.bin")
    for text in (server.url, "by hand", where, md5(CONTENT), "--dataset digits"):
        assert text in str(caught.value)
    assert names(tmp_path) == []


def no_name(*args, **kwargs):
    """Fail as a resolver without a network does."""
    raise socket.gaierror(-3, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("trouble", "url", "said"),
    [
        (lambda patch: patch.setattr(socket, "getaddrinfo", no_name), "http://x.y/", "resolution"),
        (lambda patch: patch.setenv("http_proxy", "http://127.0.0.1:9"), "http://x.y/", "refused"),
        (lambda patch: None, "https://{host}/", "SSL"),
    ],
    ids=["no DNS", "dead proxy", "no TLS"],
)
def test_without_a_network_the_error_tells_the_manual_steps(
    serve, tmp_path, monkeypatch, trouble, url, said
):
    """DNS, proxy and TLS failures are DataErrors that say what to put where."""
    url = url.format(host=f"127.0.0.1:{serve().server_port}")
    trouble(monkeypatch)
    with pytest.raises(DataError, match=rf"{said}.*by hand from {url[:6]}.*save it as .*file\.bin"):
        fetch(url, tmp_path / "file.bin")


def test_an_unwritable_place_is_a_disk_error(serve, tmp_path, monkeypatch):
    """A folder in the file's place, or no room, is a disk error, not a failed mirror."""
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(DiskError, match=r"cannot write .*file\.bin"):
        fetch(serve().url, tmp_path / "file.bin")

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.retrieve", full)
    with pytest.raises(DiskError, match=r"cannot write .*other\.bin: No space left"):
        fetch(serve().url, tmp_path / "other.bin")


# CIFAR-10 in small, and a process that downloads it.

PROGRAM = """
import json, sys
from pathlib import Path
from torchvision import datasets
for name, value in json.loads(sys.argv[1]).items():
    setattr(datasets.CIFAR10, name, value)
if sys.argv[2] == "load":
    from lmsm_cli.data.sources import load
    from lmsm_cli.runtime.display import Display
    class Telling(Display):
        def info(self, text): print(text, file=sys.stderr, flush=True)
        def progress(self, what, done, total): self.info(what)
    print(len(load("cifar10", Path(sys.argv[3]), "train", display=Telling())))
else:
    from lmsm_cli.commands.app import main
    sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def cifar(serve, monkeypatch):
    """A server of a small CIFAR-10, what torchvision must know of it and does, and its files."""
    files, known = small_cifar10()
    server = serve(content=tar_of({f"cifar-10-batches-py/{name}": files[name] for name in files}))
    known |= {"url": server.url, "tgz_md5": md5(server.content)}
    for name, value in known.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    return server, known, files


def started(known, *arguments):
    """Start a process that downloads."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(known), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition):
    """Wait until a condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_of_several_processes_one_downloads_and_the_others_find_it(cifar, tmp_path):
    """Three processes that need the same data at once make one request, and all have all images."""
    server, known, _ = cifar
    server.plan = [stall]
    with started(known, "load", tmp_path) as first:
        wait_until(lambda: server.asked)
        others = [started(known, "load", tmp_path) for _ in range(2)]
        for other in others:
            assert "waiting for another process" in other.stderr.readline()
        server.go_on.set()
        ends = [process.communicate(timeout=SECONDS) for process in (first, *others)]
    assert [out.strip() for out, _ in ends] == ["10"] * 3, ends
    assert len(server.asked) == 1
    assert names(tmp_path) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.slow
def test_a_killed_download_blocks_nobody_and_leaves_nothing(cifar, tmp_path):
    """After SIGKILL the process that waits takes over, and removes what the other had received."""
    server, known, _ = cifar
    server.plan = [stall]
    with started(known, "load", tmp_path) as killed:
        wait_until(lambda: server.asked)
        with started(known, "load", tmp_path) as other:
            assert "waiting for another process" in other.stderr.readline()
            killed.kill()
            assert list(tmp_path.glob(".CIFAR10/*"))
            out, told = other.communicate(timeout=SECONDS)
    assert out.strip() == "10", told
    assert names(tmp_path) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_ends_at_once(cifar, tmp_path, number, code):
    """Ctrl-C or SIGTERM ends `lmsm train` without a traceback, and nothing half-finished stays."""
    server, known, _ = cifar
    server.plan = [stall]
    runs = tmp_path / "runs"
    flags = ["--dataset", "cifar10", "--data-dir", tmp_path, "--out", runs, "--device", "cpu"]
    with started(known, "train", *flags) as process:
        wait_until(lambda: server.asked)
        process.send_signal(number)
        _, told = process.communicate(timeout=10)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert names(tmp_path) in ([], ["runs"])


@pytest.mark.parametrize("level", ["", "cifar-10-batches-py"])
def test_a_missing_batch_is_named_and_fetched_again(cifar, tmp_path, level):
    """Without one batch file the report names it; offline, the error says what to put where."""
    server, _, files = cifar
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in files.keys() - {"data_batch_3"}:
        (folder / name).write_bytes(files[name])
    (folder / "mine").write_text("mine")
    server.plan, display = [web_page] * 2, SilentDisplay()
    archive = tmp_path / "cifar-10-python.tar.gz"
    with pytest.raises(DataError, match=rf"by hand from http.* save it as {archive} "):
        load("cifar10", tmp_path / level, "train", display=display)
    assert display.said[0] == f"{folder / 'data_batch_3'} is missing"
    assert len(load("cifar10", tmp_path / level, "train")) == 10
    assert (folder / "mine").read_text() == "mine"
    archive.unlink()
    PUBLISHED["cifar10"].fetch(tmp_path)  # as a process that waited for another's download
    assert names(tmp_path) == ["cifar-10-batches-py"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../evil", {}),
        ("evil", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("evil", {"type": tarfile.LNKTYPE, "linkname": "../../victim"}),
        ("evil", {"type": tarfile.FIFOTYPE}),
    ],
    ids=["above", "link", "hard link", "pipe"],
)
def test_an_archive_writes_nothing_outside(cifar, tmp_path, monkeypatch, name, fields):
    """Names outside the folder, links out of it and devices are exit code 3, before any file."""
    server, folder = cifar[0], tmp_path / "data"
    (tmp_path / "victim").write_text("whole")
    server.content = tar_of({name: b""}, **fields)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(server.content))
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz cannot be unpacked: ") as caught:
        load("cifar10", folder, "train")
    assert caught.value.exit_code == 3
    assert names(folder) == ["cifar-10-python.tar.gz"]
    assert names(tmp_path) == ["data", "victim"]
    assert (tmp_path / "victim").read_text() == "whole"


# A data folder of a stranger's, with links where a download would write.


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", ".CIFAR10", "CIFAR10.lock"])
@pytest.mark.parametrize("aim", ["thesis", "missing"])
def test_a_download_goes_through_no_link(cifar, tmp_path, name, aim):
    """A link in the place of a file is replaced, in that of the lock refused; its aim stays."""
    folder = tmp_path / "data"
    for made in (folder, tmp_path / "thesis"):
        made.mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    (folder / name).symlink_to(tmp_path / aim)
    if name == "CIFAR10.lock":
        with pytest.raises(DiskError, match="link"):
            load("cifar10", folder, "train")
    else:
        assert len(load("cifar10", folder, "train")) == 10
        assert names(folder) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
        assert not [path for path in folder.iterdir() if path.is_symlink()]
    assert names(tmp_path) == ["data", "thesis"]
    assert names(tmp_path / "thesis") == ["chapter"]


def test_a_download_goes_into_no_folder_that_is_a_link(tmp_path, monkeypatch):
    """A link in the place of a data set's folder is exit code 6, before anything is downloaded."""
    monkeypatch.setattr(published, "download", lambda *given, **more: pytest.fail("a download"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cifar-10-batches-py").symlink_to("elsewhere")
    with pytest.raises(DiskError, match="cifar-10-batches-py: it is a link"):
        PUBLISHED["cifar10"].fetch(tmp_path)
    assert names(tmp_path / "elsewhere") == []
    assert names(tmp_path) == ["cifar-10-batches-py", "elsewhere"]
