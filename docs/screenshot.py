"""Take pictures of a report page: python docs/screenshot.py report.html docs/report [HEIGHT]

Writes docs/report-1280.png and docs/report-390.png, as wide as a laptop's window and a phone's,
with a chromium or Chrome that is on PATH. Nothing else is needed: a browser speaks its DevTools
protocol over two pipes, and only that can make a window as narrow as a phone.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")
WIDTHS = (1280, 390)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--disable-dev-shm-usage",
)


def browser_path() -> str | None:
    """Return the first chromium or Chrome on PATH, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """A page in a browser: sends commands of the DevTools protocol and keeps its events."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._number, self._session = 0, None
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; raise RuntimeError where the browser refuses."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int, *, scheme: str = "light") -> None:
        """Load a page in a window of that many CSS pixels, in `light` or `dark`."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.send("Page.navigate", url=page.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; raise RuntimeError where it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, height: int | None = None) -> bytes:
        """Return the page, or so many CSS pixels of its top, as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        size["height"] = min(size["height"], height or size["height"])
        shot = self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=size | {"scale": 1}
        )
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self._out, self._in):
            with contextlib.suppress(OSError):
                pipe.close()

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in.fileno(), 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextlib.contextmanager
def opened_tab() -> Iterator[Tab]:
    """Start a browser with a profile of its own and give one tab of it; end it afterwards."""
    browser = browser_path()
    if browser is None:
        raise SystemExit(f"no browser on PATH (looked for {', '.join(NAMES)})")
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()

    def wire() -> None:  # a browser reads commands from 3 and writes to 4
        for place, end in ((13, read_there), (14, write_there)):
            os.dup2(end, place)
        os.dup2(13, 3)
        os.dup2(14, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [browser, *_FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=wire,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        tab = None
        try:
            tab = Tab(write_here, read_here)
            yield tab
        finally:
            if tab:
                with contextlib.suppress(RuntimeError, OSError):
                    tab.send("Browser.close")
                tab.close()
            process.terminate()
            process.wait(timeout=20)


def main(page: Path, stem: str, height: int | None = None) -> None:
    """Write the pictures of a page, or of its top, one for each width."""
    with opened_tab() as tab:
        for width in WIDTHS:
            tab.open(page, width)
            Path(f"{stem}-{width}.png").write_bytes(tab.picture(height))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else None)
