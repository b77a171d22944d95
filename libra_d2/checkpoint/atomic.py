"""Files that are written whole or not at all, and a folder that one run at a time may write to."""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from libra_d2.checks import FileError, UserError

_UNFINISHED = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, *, text: bool = False) -> Iterator[IO]:
    """A file to write to, which takes its place at ``path`` when the block ends without an error.

    It is on the disk before it is renamed, so that after a power cut, too, ``path`` holds the old content or the new.

    Raises:
        FileError: nothing can be written there, or the disk is full; what was at ``path`` is unchanged.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            options = {"mode": "w", "encoding": "utf-8"} if text else {"mode": "wb"}
            f = stack.enter_context(
                tempfile.NamedTemporaryFile(
                    dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED, delete=False, **options
                )
            )
        except OSError as e:
            raise FileError(f"{path}: cannot be written ({e})") from e
        try:
            yield f
            f.flush()
            os.fsync(f.fileno())
            f.close()
            os.chmod(f.name, 0o644)
            os.replace(f.name, path)
        except BaseException as e:
            with contextlib.suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
                f.close()
            os.unlink(f.name)
            if cause := _os_error(e):
                raise FileError(f"{path}: cannot be written ({cause}); what was there before is unchanged") from e
            raise
    _sync_folder(path.parent)


def _os_error(error: BaseException | None) -> OSError | None:
    """What the system said, where ``torch.save`` raises an error of its own on top of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    """Makes renames in it last. Some network file systems cannot, nor need they be told."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class AtomicPathManager:
    """A path manager whose local files are written by :func:`atomic_write`; the rest is that of ``path_manager``."""

    def __init__(self, path_manager):
        self._path_manager = path_manager

    def __getattr__(self, name):
        return getattr(self._path_manager, name)

    def open(self, path, mode="r", *args, **kwargs):
        if mode in ("w", "wb") and "://" not in path:
            return atomic_write(path, text=mode == "w")
        return self._path_manager.open(path, mode, *args, **kwargs)


def lock_folder(folder: str | os.PathLike) -> FileLock:
    """Keeps other runs out of a folder until the process ends, however it ends, or the lock is released.

    What a killed run left half written there is removed.

    Raises:
        UserError: another run has it; the message names its process and host.
        FileError: nothing can be written there.
    """
    folder = Path(folder)
    holder = folder / ".lock_holder.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"OUTPUT_DIR {folder}: expected a folder that no other run writes to, got that of {_read_holder(holder)}; "
            "choose another OUTPUT_DIR, or wait until that run has ended"
        ) from None
    except OSError as e:
        raise FileError(f"OUTPUT_DIR {folder}: expected a folder that can be written to ({e})") from e
    for leftover in folder.glob(f".*{_UNFINISHED}"):
        leftover.unlink()
    with atomic_write(holder, text=True) as f:
        json.dump({"process": os.getpid(), "host": socket.gethostname()}, f)
    return lock


def _read_holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text())
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError):  # it has locked the folder this moment and not yet written who it is
        return "another process"
