"""Processes that load training data end with the process that they load for, and not before it.

Ctrl-C and schedulers signal every process of a run. The training process finishes its step then; a worker that died of
the signal would take that step with it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started inside do not see SIGTERM and SIGINT until they call :func:`heed_parent_alone`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_alone() -> None:
    """From now on SIGTERM ends this process if its parent sends it, as multiprocessing does in the end."""
    threading.Thread(target=_wait_for_parent, daemon=True, name="heed_parent_alone").start()


def _wait_for_parent() -> None:
    while True:
        received = signal.sigwaitinfo(_SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)
