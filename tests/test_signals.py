"""Signals: noted or raised in the body alone, and the command's code is always theirs."""

import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress

import pytest

from lmsm_cli.commands import app
from lmsm_cli.errors import StoppedError
from lmsm_cli.runtime.signals import Terminated, defer_signals, ignore_sighup, raise_on_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("error", [None, ImportError("half an import"), SystemExit(1)])
def test_whatever_an_interrupted_import_raises_the_code_is_the_signals(
    monkeypatch, number, code, error
):
    """A library that turns the interrupt into an error of its own hides nothing."""

    def interrupted(arguments):
        if error is None:
            os.kill(os.getpid(), number)
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(app, "_run", interrupted)
    assert app.main([]) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_an_import_the_process_ends_at_once(tmp_path, number, code):
    """An import that swallows every exception, as some do, is not gone on with."""
    (tmp_path / "stubborn.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {number})\n"
        "except BaseException:\n    print('swallowed')\n"
    )
    work = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from lmsm_cli.runtime.signals import raise_on_signals\n"
        "with raise_on_signals():\n    import stubborn\n"
    )
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_that_python_drops_is_not_lost(number, kind):
    """What is raised in a weakref's callback goes nowhere: the signal is sent again, after it."""

    class Thing:
        pass

    def drop_and_wait():
        things.clear()
        time.sleep(10)

    things = [Thing()]
    ref = weakref.ref(things[0], lambda _: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt) as raised, raise_on_signals():
        drop_and_wait()
    assert raised.type is kind
    assert ref() is None


def test_other_errors_pass(monkeypatch):
    """Without a signal a bug stays a bug."""
    monkeypatch.setattr(app, "_run", lambda arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        app.main([])


def test_handlers_are_put_back():
    """After the body, signals do what they did before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with raise_on_signals(), defer_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == signal.SIGTERM
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_training_outlives_its_terminal():
    """A hang-up does nothing in the body, and after it what it did before."""
    came = []
    before = signal.signal(signal.SIGHUP, lambda number, _: came.append(number))
    try:
        with ignore_sighup():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not came
        os.kill(os.getpid(), signal.SIGHUP)
        assert came == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_torchruns_repeats_are_no_second_signal():
    """Where a launcher passes signals on, the first stops the body, which is told after it."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with raise_on_signals() as came:
        with suppress(StoppedError), defer_signals(once_more=False) as stop:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == signal.SIGTERM
            raise StoppedError("stopped", stop())
        with suppress(Terminated):  # which pytest would take for its own end
            os.kill(os.getpid(), signal.SIGTERM)
        assert not came()
        with subprocess.Popen(["sleep", "5"]) as later:
            later.terminate()
        assert later.returncode == -signal.SIGTERM  # a process that is started ignores nothing
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("came_before", [False, True])
def test_where_nothing_was_stopped_the_next_signal_ends_a_rank(came_before):
    """A training that ended by itself, perhaps just after a signal, is stopped in its test."""
    with raise_on_signals():
        with defer_signals(once_more=False):
            if came_before:
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
