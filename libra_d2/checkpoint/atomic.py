"""Files that are written whole or not at all: under a temporary name, which is then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from libra_d2.checks import FileError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place at ``path`` when the block ends without an error.

    Raises:
        FileError: nothing can be written there.
    """
    path = Path(path)
    try:
        f = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
    except OSError as e:
        raise FileError(f"{path}: cannot be written ({e})") from e
    with f:
        try:
            yield f
            f.close()
            os.chmod(f.name, 0o644)
            os.replace(f.name, path)
        except BaseException:
            os.unlink(f.name)
            raise
