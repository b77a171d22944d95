"""The one reader of weight files that others wrote: nothing in them is run, and what is wrong with them is named."""

import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import torch

from libra_d2.checkpoint.safe_pickle import load_pickle
from libra_d2.checks import FileError, UserError

__all__ = ["is_whole", "load_pickle", "load_torch"]


def load_torch(path, stand_ins: Mapping[str, Sequence[str]] | None = None):
    """What ``torch.save`` wrote, with tensors on the CPU: tensors, numbers, texts and builtin containers.

    Args:
        path: a local file.
        stand_ins: {module: names} of globals that the file may name besides; in their place come inert objects, which
            take whatever they are built from and do nothing.

    Raises:
        UserError: the file names another global.
        FileError: it cannot be read, or is truncated or damaged.
    """
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise FileError(f"{path}: expected a checkpoint file, there is none; check the path") from None
    except IsADirectoryError:
        raise FileError(f"{path}: expected a checkpoint file, got a folder; name the .pth file in it") from None
    except OSError as e:
        raise FileError(f"{path}: expected a checkpoint file that can be read ({e})") from e
    try:
        with file, _admitted(stand_ins or {}):
            if zipfile.is_zipfile(file) and (bad := zipfile.ZipFile(file).testzip()):
                raise zipfile.BadZipFile(bad)  # torch does not look at the checksums
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as e:  # a damaged file fails in whatever way its bytes happen to say
        refused = re.search(r"GLOBAL ([\w.]+)", str(e)) if isinstance(e, pickle.UnpicklingError) else None
        if refused:
            raise UserError(
                f"{path}: expected tensors, numbers and builtin containers only, got the global '{refused[1]}', which "
                "is not run; nothing of it was loaded. Save the weights alone where it was made"
            ) from None
        raise FileError(
            f"{path} is truncated or damaged ({type(e).__name__}): expected a PyTorch checkpoint; fetch it again"
        ) from None


def is_whole(path: str | os.PathLike) -> bool:
    """Whether a file written by ``torch.save`` is complete and unchanged, by the checksums it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


class _Inert(dict):
    """Stands for an object of a class that is not imported."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        pass


@contextlib.contextmanager
def _admitted(stand_ins: Mapping[str, Sequence[str]]) -> Iterator[None]:
    # weights_only takes a class for the one the file names when their module and name are the same
    inert = [type(name, (_Inert,), {"__module__": module}) for module, names in stand_ins.items() for name in names]
    admitted = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(inert)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(admitted)
