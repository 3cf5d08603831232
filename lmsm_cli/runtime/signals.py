"""What the signals of a terminal and of a scheduler do: end a command, or a training after its step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the process stands, as Python raises KeyboardInterrupt for SIGINT."""


@contextmanager
def raise_on_signals() -> Iterator[Callable[[], int]]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM Terminated in the body, so that it cleans up.

    Give a function that returns the one that came, or 0: a library can make another error of it.
    In an import the process ends at once: one that is cut short raises anything, or aborts.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            _leave(128 + number)
        came.append(number)
        _raise(number, frame)

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}), _sent_again():
        yield lambda: came[0] if came else 0


@contextmanager
def _sent_again() -> Iterator[None]:
    """Send a signal again whose exception Python has dropped: it can be raised in a weakref's callback."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            before(dropped)
            return
        is_term = isinstance(dropped.exc_value, Terminated)
        again = (os.getpid(), signal.SIGTERM if is_term else signal.SIGINT)
        threading.Timer(0.01, os.kill, again).start()  # when the callback is over

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def ignore_sighup() -> Iterator[None]:
    """Let the body outlive its terminal."""
    with _handlers({_HANGUP: signal.SIG_IGN} if _HANGUP else {}):
        yield


@contextmanager
def defer_signals(*, once_more: bool = True) -> Iterator[Callable[[], int]]:
    """Only note SIGINT and SIGTERM in the body; give a function that returns the one that came, or 0.

    The second ends the body at once, unless not `once_more`: torchrun passes on what its ranks have
    got already.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and once_more:
            _raise(number, frame)
        came.append(number)

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}):
        yield lambda: came[0] if came else 0


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame, or one that called it, imports a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(code: int) -> None:
    """End the process without a word; a bar that was being drawn had hidden the cursor."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h\n")
    os._exit(code)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Handle signals so in the body; in threads other than the first, which cannot, as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
