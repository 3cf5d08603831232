"""Signals of a terminal and of a scheduler: they end a command, or a training after its step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lmsm_cli.errors import StoppedError

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the process stands, as Python raises KeyboardInterrupt for SIGINT."""


@contextmanager
def raise_on_signals() -> Iterator[Callable[[], int]]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM Terminated in the body, so that it cleans up.

    Yields a function that returns the signal that came, or 0: a library can hide the exception.
    During an import the process ends at once, since an interrupted import can raise anything.
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
    """Send a signal again where Python dropped its exception, as in a weakref's callback."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            before(dropped)
            return
        again = (os.getpid(), number_of(dropped.exc_value))
        threading.Timer(0.01, os.kill, again).start()  # when the callback is over

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def ignore_sighup() -> Iterator[None]:
    """Ignore the hang-up of the terminal in the body."""
    with _handlers({_HANGUP: signal.SIG_IGN} if _HANGUP else {}):
        yield


@contextmanager
def defer_signals(*, once_more: bool = True) -> Iterator[Callable[[], int]]:
    """Defer SIGINT and SIGTERM in the body; yield a function that returns the one that came, or 0.

    With `once_more` the second signal ends the body at once. Under torchrun each rank gets a signal
    twice, so that the second must be ignored. After a StoppedError it is ignored after the body
    too, until whoever set a handler before puts theirs back: the error is being told there. A body
    that ends otherwise was not stopped, and the next signal does what it did before.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and once_more:
            _raise(number, frame)
        came.append(number)

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}) as after:
        try:
            yield lambda: came[0] if came else 0
        except StoppedError:
            if not once_more:
                after.update(dict.fromkeys(after, _do_nothing))
            raise


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame, or one that called it, imports a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(code: int) -> None:
    """End the process silently, but show the cursor, which a progress bar hides."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h\n")
    os._exit(code)


def number_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that an exception was raised for."""
    return signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal in this process alone: those that it starts would inherit SIG_IGN."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[dict[signal.Signals, Any]]:
    """Set signal handlers for the body; only the main thread can, others leave them.

    Yields those that hold after the body, the ones of before, which the body may change.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
