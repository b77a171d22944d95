"""The one reader of weight files that others wrote: nothing in them is run, and what is wrong with them is named."""

import contextlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import torch

from libra_d2.checkpoint.file_kind import identify
from libra_d2.checkpoint.safe_pickle import load_pickle
from libra_d2.checkpoint.safe_tensors import load_safetensors
from libra_d2.checks import FileError, UserError

__all__ = ["is_whole", "load_file", "load_pickle", "load_safetensors", "load_torch"]

# What weights_only says of instructions that no damage makes likely
_NOT_TENSORS = re.compile(r"\b((?:Trying to|Can only|Only persistent|Unsupported class|unsupported persistent)[^\n]*)")


def load_file(path: str | os.PathLike, stand_ins: Mapping[str, Sequence[str]] | None = None):
    """What a file of weights holds, whichever its kind, and whatever its name says.

    Args:
        path: a local file: of ``torch.save``, a pickle of NumPy arrays, or safetensors, which gives a flat state dict.
        stand_ins: as in :func:`load_torch`.

    Raises:
        UserError: the file would call something, or holds something other than weights.
        FileError: it cannot be read, is truncated or damaged, or of another kind; the message says of which.
    """
    kind = identify(path)
    if kind == "pickle":
        return load_pickle(path)
    if kind == "safetensors":
        return load_safetensors(path)[0]
    return load_torch(path, stand_ins)


def load_torch(path: str | os.PathLike, stand_ins: Mapping[str, Sequence[str]] | None = None):
    """What ``torch.save`` wrote, with tensors on the CPU: tensors, numbers, texts and builtin containers.

    Args:
        path: a local file.
        stand_ins: {module: names} of globals that the file may name besides; in their place come inert objects, which
            take whatever they are built from and do nothing.

    Raises:
        UserError: the file names another global, or asks for something else than tensors.
        FileError: it cannot be read, is truncated or damaged, or of another kind.
    """
    kind = identify(path, "a PyTorch checkpoint (.pth)")
    if kind != "torch":
        raise FileError(f"{path}: expected a PyTorch checkpoint (.pth), got one of the kind {kind}")
    try:
        with open(path, "rb") as file, _admitted(stand_ins or {}):
            if not zipfile.is_zipfile(file):
                file.seek(0)
                # in memory, where a length beyond the end of the file reserves nothing
                return torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
            if bad := zipfile.ZipFile(file).testzip():
                raise zipfile.BadZipFile(bad)  # torch does not look at the checksums
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as e:  # a damaged file fails in whatever way its bytes happen to say
        if refused := _refused(e, path):
            raise UserError(
                f"{path}: expected tensors, numbers and builtin containers only, got {refused}; nothing of it was "
                "loaded. Where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
            ) from None
        raise FileError(
            f"{path} is truncated or damaged ({type(e).__name__}): expected a PyTorch checkpoint; fetch it again"
        ) from None


def _refused(error: Exception, path) -> str:
    """What a file is refused for; "" where it may be damaged: its checksums do not fit, or it has none."""
    if isinstance(error, pickle.UnpicklingError):
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            return f"the global {name[1][:200]!r}, which is not run"
        if reason := _NOT_TENSORS.search(str(error)):
            return f"instructions to make something else ({reason[1][:200]})"
    if not is_whole(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        data = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        head = archive.open(data).read(2)
    if head[:1] == b"\x80" and head[1:] > b"\x03":
        return f"a pickle of protocol {head[1]} (torch.save by itself writes 2)"
    return f"something else ({type(error).__name__})"


def is_whole(path: str | os.PathLike) -> bool:
    """Whether a file written by ``torch.save`` is complete and unchanged, by the checksums it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive fails in whatever way its bytes happen to say
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
