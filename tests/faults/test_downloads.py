"""Downloads from servers that stall, trickle, lie or vanish; by several processes; bad archives."""

import gzip
import io
import json
import shutil
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

from lmsm_cli.data.downloads import download, unpack
from lmsm_cli.data.published import PUBLISHED
from lmsm_cli.data.sources import load
from lmsm_cli.errors import DataError, DiskError
from tests.conftest import SilentDisplay
from tests.test_published import cifar_batch, md5, pickled

CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(3_000_000)
PAGE = b"\n<html>please log in</html>"
SECONDS = 60


class Server(ThreadingHTTPServer):
    """Serves `content`, with ranges; each planned behaviour spoils one answer."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.plan = []
        self.asked: list[str | None] = []  # the Range of each request
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    """Gives the next answer."""

    server: Server

    def do_GET(self):
        """Answer as planned, or rightly."""
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        plan = self.server.plan
        (plan.pop(0) if plan else rightly)(self, start)

    def head(self, status, start=0, **headers):
        """Send the status, and the headers of the content from `start` on."""
        size = len(self.server.content)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in ({"Content_Length": size - start} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args):
        """Say nothing."""


def rightly(handler, start, end=None, content=None):
    """Send what is asked for."""
    handler.head(206 if start else 200, start)
    handler.wfile.write((content or handler.server.content)[start:end])


def half_of(content):
    """Break the connection after half of this content."""
    return lambda handler, start: rightly(handler, start, len(content) // 2, content)


def piece(handler, start):
    """Break the connection after 300 kB."""
    rightly(handler, start, start + 300_000)


def stall(handler, start):
    """Send half, and the rest once the test says so."""
    half = len(handler.server.content) // 2
    rightly(handler, start, half)
    handler.server.go_on.wait(SECONDS)
    handler.wfile.write(handler.server.content[half:])


def trickle(handler, start):
    """Send a byte now and then."""
    handler.head(206 if start else 200, start)
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.01)


def busy(wait):
    """Answer that the server is busy, and for how long."""
    return lambda handler, start: handler.head(503, Content_Length=0, Retry_After=wait)


def web_page(handler, start):
    """Send what a network's log-in page sends."""
    handler.head(200, Content_Length=len(PAGE))
    handler.wfile.write(PAGE)


def unmeasured(handler, start):
    """Send half without having said how much would come."""
    handler.head(200, Content_Length=None)
    handler.wfile.write(handler.server.content[:1_500_000])


@pytest.fixture
def serve():
    """A function that starts a local server; no test here leaves this machine."""
    servers = []

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


def fetch(server, path, **options):
    """Download without rests between the tries."""
    given = {"md5": md5(CONTENT), "pauses": (0.001, 0.001), "timeout": 0.3} | options
    download(server.url, path, **given)


def names(folder):
    """Return what the folder holds."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("plan", "requests"),
    [
        ([stall], 2),
        ([trickle], 3),
        ([piece] * 9, 10),
        ([half_of(OTHER)], 3),
        ([unmeasured], 2),
        ([busy(0), half_of(CONTENT)], 3),
    ],
    ids=["stalls", "trickles", "breaks nine times", "content changes", "no length", "busy, cut"],
)
def test_a_server_with_a_bad_moment_gives_the_right_file_in_the_end(
    serve, tmp_path, plan, requests
):
    """Stalls, breaks and changed content cost another request, and nothing else stays on disk."""
    server = serve(*plan)
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert len(server.asked) == requests


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (stall, "timed out"),
        (trickle, "bytes came in"),
        (busy(0), "HTTP 503"),
        (web_page, "a web page"),
    ],
    ids=["stalls", "trickles", "busy", "web page"],
)
def test_a_server_that_never_gives_the_file_is_given_up(serve, tmp_path, behaviour, said):
    """The error comes soon, and says why, from where by hand, to where, with which checksum."""
    server = serve(*[behaviour] * 20)
    started = time.monotonic()
    with pytest.raises(DataError, match=said) as caught:
        fetch(server, tmp_path / "file.bin")
    assert time.monotonic() - started < 10
    assert caught.value.exit_code == 3
    for text in (server.url, "by hand", str(tmp_path / "file.bin"), md5(CONTENT)):
        assert text in str(caught.value)
    assert not (tmp_path / "file.bin").exists()


def test_slow_is_not_stalled(serve, tmp_path):
    """A line of a modem's speed brings the file in one request, however long that takes."""

    def slowly(handler, start):
        handler.head(200)
        for at in range(0, 60_000, 1000):
            handler.wfile.write(content[at : at + 1000])
            time.sleep(0.02)

    content = CONTENT[:60_000]
    server = serve(slowly, content=content)
    fetch(server, tmp_path / "file.bin", md5=md5(content))
    assert (tmp_path / "file.bin").read_bytes() == content
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("asked_for", "waited"),
    [("7", 7), ("86400", 60), ("-1", 0.5), ("soon", 0.5)],
    ids=["7 s", "a day", "negative", "no number"],
)
def test_a_busy_server_is_given_the_time_it_asks_for(
    serve, tmp_path, monkeypatch, asked_for, waited
):
    """Retry-After is obeyed up to a minute; nonsense is not."""
    server, slept = serve(busy(asked_for)), []
    monkeypatch.setattr("time.sleep", slept.append)
    fetch(server, tmp_path / "file.bin", pauses=(0.5,), timeout=30)
    assert slept == [waited]


def test_a_wrong_file_is_put_aside(serve, tmp_path):
    """What has the wrong checksum never bears the name; it can be looked at until the right one comes."""
    path = tmp_path / "file.bin"
    with pytest.raises(DataError, match=r"a web page, now file\.bin\.bad"):
        fetch(serve(web_page), path)
    assert names(tmp_path) == ["file.bin.bad"]
    assert (tmp_path / "file.bin.bad").read_bytes() == PAGE
    fetch(serve(), path)
    assert names(tmp_path) == ["file.bin"]


def no_name(*args, **kwargs):
    """Fail as a resolver without a network does."""
    raise socket.gaierror(-3, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("trouble", "url", "said"),
    [
        (
            lambda patch: patch.setattr(socket, "getaddrinfo", no_name),
            "http://x.invalid/",
            "name resolution",
        ),
        (
            lambda patch: patch.setenv("http_proxy", "http://127.0.0.1:9"),
            "http://x.invalid/",
            "refused",
        ),
        (lambda patch: None, "https://{host}/", "SSL"),
    ],
    ids=["no DNS", "dead proxy", "no TLS"],
)
def test_without_a_network_the_error_tells_the_manual_steps(
    serve, tmp_path, monkeypatch, trouble, url, said
):
    """DNS, proxy and TLS failures are DataErrors that say what to put where."""
    server = serve()
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its making
    server.url = url.format(host=f"127.0.0.1:{server.server_port}")
    trouble(monkeypatch)
    with pytest.raises(DataError, match=rf"{said}.*by hand from {url[:6]}.*save it as .*file\.bin"):
        fetch(server, tmp_path / "file.bin")


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
def cifar(serve):
    """A server of a small CIFAR-10, what torchvision's class must know of it, and its files."""
    batches = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    files = {name: cifar_batch(i, [i, 9 - i] * 20, "labels") for i, name in enumerate(batches)}
    files["batches.meta"] = pickled({"label_names": list("abcdefghij")})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            add(tar, f"cifar-10-batches-py/{name}", content)
    server = serve(content=packed.getvalue())
    table = [[name, md5(files[name])] for name in batches]
    known = {
        "url": server.url,
        "tgz_md5": md5(server.content),
        "train_list": table[:5],
        "test_list": table[5:],
        "meta": datasets.CIFAR10.meta | {"md5": md5(files["batches.meta"])},
    }
    return server, known, files


def add(tar, name, content=b"", **fields):
    """Add a member with these fields."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


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


def part_of(folder):
    """Return the file of a download that is under way."""
    return folder / "cifar-10-python.tar.gz.part"


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
    assert [out.strip() for out, _ in ends] == ["200"] * 3, ends
    assert server.asked == [None]
    assert names(tmp_path) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.slow
def test_a_killed_download_blocks_nobody_and_is_gone_on_with(cifar, tmp_path):
    """After SIGKILL the process that waits takes over, from where the part file ends."""
    server, known, _ = cifar
    server.plan = [stall]
    with started(known, "load", tmp_path) as killed:
        wait_until(lambda: part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size)
        with started(known, "load", tmp_path) as other:
            assert "waiting for another process" in other.stderr.readline()
            killed.kill()
            out, told = other.communicate(timeout=SECONDS)
    assert out.strip() == "200", told
    assert server.asked[0] is None
    assert int(server.asked[1].removeprefix("bytes=").rstrip("-")) > 0
    assert names(tmp_path) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_keeps_what_came(cifar, tmp_path, number, code):
    """Ctrl-C or SIGTERM ends `lmsm train` at once, without a traceback; the part file stays."""
    server, known, _ = cifar
    server.plan = [stall]
    flags = [
        "--dataset",
        "cifar10",
        "--data-dir",
        tmp_path,
        "--out",
        tmp_path / "runs",
        "--device",
        "cpu",
    ]
    with started(known, "train", *flags) as process:
        wait_until(lambda: part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size)
        process.send_signal(number)
        _, told = process.communicate(timeout=10)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert part_of(tmp_path).stat().st_size > 0
    assert not list(tmp_path.glob("*.lock"))
    assert not (tmp_path / "cifar-10-batches-py").exists()


@pytest.mark.parametrize("level", ["", "cifar-10-batches-py"])
def test_a_missing_batch_is_named_and_fetched_again(cifar, tmp_path, monkeypatch, level):
    """Without one batch file the report names it; offline, the error says what to put where."""
    server, known, files = cifar
    for name, value in known.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in files.keys() - {"data_batch_3"}:
        (folder / name).write_bytes(files[name])
    server.plan, display = [web_page], SilentDisplay()
    archive = tmp_path / "cifar-10-python.tar.gz"
    with pytest.raises(DataError, match=rf"by hand from http.* save it as {archive} "):
        load("cifar10", tmp_path / level, "train", display=display)
    assert display.said[0] == f"{folder / 'data_batch_3'} is missing"
    assert len(load("cifar10", tmp_path / level, "train")) == 200
    archive.unlink()
    PUBLISHED["cifar10"].fetch(tmp_path)  # as a process that waited for another's download
    assert names(tmp_path) == ["cifar-10-batches-py"]


# Archives that want more than to be unpacked.

MEMBERS = {
    "above": {"name": "../evil"},
    "absolute": {"name": "/tmp/evil"},
    "link to outside": {"name": "evil", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "link to above": {"name": "in/evil", "type": tarfile.SYMTYPE, "linkname": "../.."},
    "link inside": {"name": "evil", "type": tarfile.SYMTYPE, "linkname": "good"},
    "hard link": {"name": "evil", "type": tarfile.LNKTYPE, "linkname": "../../victim"},
    "pipe": {"name": "evil", "type": tarfile.FIFOTYPE},
    "device": {"name": "evil", "type": tarfile.CHRTYPE},
}


@pytest.mark.parametrize("fields", MEMBERS.values(), ids=MEMBERS)
def test_an_archive_writes_nothing_outside(tmp_path, fields):
    """Names outside the folder, links and devices are refused with exit code 3, before any file."""
    (tmp_path / "victim").write_text("whole")
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        add(tar, "good", b"1")
        add(tar, **fields)
        add(tar, "evil/through", b"2")
    with pytest.raises(DataError, match=r"x\.tar\.gz cannot be unpacked: .*delete it") as caught:
        unpack(tmp_path / "x.tar.gz", folder)
    assert caught.value.exit_code == 3
    assert names(folder) == []
    assert names(tmp_path) == ["data", "victim", "x.tar.gz"]
    assert (tmp_path / "victim").read_text() == "whole"


@pytest.mark.parametrize("name", ["x.gz", "x.tar.gz", "many.tar.gz", "names.tar.gz"])
def test_a_bomb_is_defused(tmp_path, monkeypatch, name):
    """An archive that grows a thousandfold stops at twenty times its size, with exit code 3."""
    path, zeros = tmp_path / name, bytes(64 << 20)
    if name == "x.gz":
        path.write_bytes(gzip.compress(zeros, 6))
    else:
        with tarfile.open(path, "w:gz", compresslevel=6, format=tarfile.GNU_FORMAT) as tar:
            if name == "names.tar.gz":
                add(tar, "a" * (32 << 20))
            for number in range(64 if name == "many.tar.gz" else 1):
                add(tar, str(number), zeros[:: 64 if name == "many.tar.gz" else 1])
    sizes, remove = [], shutil.rmtree

    def measured(folder, **options):
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        remove(folder, **options)

    monkeypatch.setattr("shutil.rmtree", measured)
    with pytest.raises(DataError, match=r"cannot be unpacked: it holds more than [0-9,]+ bytes"):
        unpack(path, tmp_path)
    assert sizes[0] <= max(20 * path.stat().st_size, 1 << 20)
    assert names(tmp_path) == [name]


# A data folder of a stranger's, with links where a download would write.


@pytest.mark.parametrize("name", ["file.bin", "file.bin.part", "file.bin.bad"])
@pytest.mark.parametrize("aim", ["thesis", "missing"])
def test_a_download_goes_through_no_link(serve, tmp_path, name, aim):
    """Links in the places of its files are replaced, and what they lead to stays as it is."""
    (tmp_path / "thesis").write_bytes(b"mine" * 1000)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / aim)
    with pytest.raises(DataError, match="a web page"):
        fetch(serve(web_page), folder / "file.bin")
    assert not (folder / "file.bin.bad").is_symlink()
    fetch(serve(half_of(CONTENT)), folder / "file.bin")
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    assert names(tmp_path) == ["data", "thesis"]
    assert (tmp_path / "thesis").read_bytes() == b"mine" * 1000


def test_a_download_goes_into_no_folder_that_is_a_link(tmp_path, monkeypatch):
    """A link in the place of a data set's folder, or of one in an archive, is exit code 6."""
    monkeypatch.setattr(
        "lmsm_cli.data.published.download", lambda *given, **more: pytest.fail("a download")
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cifar-10-batches-py").symlink_to("elsewhere")
    with pytest.raises(DiskError, match="cifar-10-batches-py: it is a link"):
        PUBLISHED["cifar10"].fetch(tmp_path)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        add(tar, "cifar-10-batches-py/x", b"1")
    with pytest.raises(DiskError, match="it is a link"):
        unpack(tmp_path / "x.tar.gz", tmp_path)
    assert names(tmp_path / "elsewhere") == []
    assert names(tmp_path) == ["cifar-10-batches-py", "elsewhere", "x.tar.gz"]
