"""SIGTERM and SIGINT as a request to stop: preemption, ``scancel``, Ctrl-C.

While :func:`caught` holds, a request waits until the training loop asks for it; inside :func:`interruptible` it ends
the work at once. The state is the process's, as signal handlers are.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from detectron2.utils import comm

from libra_d2.checks import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: seconds in which a second signal is the same request: terminals, launchers and ``timeout`` send it more than once
REPEATED_WITHIN = 3.0
#: seconds that a rank has to stop after its launcher is gone
GRACE = 30.0


class Stopped(SystemExit):
    """Ends a run that was asked to stop, with the exit status that shells give it: 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


class _State:
    signum = 0
    since = 0.0
    interruptible = False


def requested() -> int:
    """The signal by which this process was asked to stop; 0: it was not."""
    return _State.signum


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Inside, the signals are kept for :func:`requested`.

    What fails after one, as it does when other ranks have stopped already, counts as stopped; not so a UserError.
    """
    try:
        with handled_by(_receive):
            yield
    except Exception as error:
        if _State.signum and not isinstance(error, UserError):
            raise Stopped(_State.signum) from error
        raise
    finally:
        _State.signum = 0


@contextlib.contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """Inside, ``handler(signum, frame)`` gets the signals that the process does not ignore, as background jobs do.

    Outside the main thread, where Python has no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}
    heeded = [s for s in SIGNALS if before[s] is not signal.SIG_IGN]
    for s in heeded:
        signal.signal(s, handler)
    try:
        yield
    finally:
        for s in heeded:
            signal.signal(s, before[s] or signal.SIG_DFL)  # None: not Python's


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a request ends the work with :class:`Stopped`, one that was there before included."""
    _State.interruptible = True
    try:
        if _State.signum:
            raise Stopped(_State.signum)
        yield
    finally:
        _State.interruptible = False


def _receive(signum, frame):
    if not _State.signum:
        _State.signum, _State.since = signum, time.monotonic()
        _say(f"{signal.Signals(signum).name}: stopping after this step, with a checkpoint")
        if _State.interruptible:
            raise Stopped(signum)
    elif time.monotonic() - _State.since > REPEATED_WITHIN and comm.get_world_size() == 1:
        raise Stopped(signum)  # somebody insists; with several ranks, the launcher sees to that


def _say(text: str) -> None:
    if comm.is_main_process():
        os.write(2, f"{text}\n".encode())  # a signal may come while a logger writes


def watch_parent() -> None:
    """Asks this process to stop when the process that started it is gone, and ends it if it does not."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch_parent").start()
