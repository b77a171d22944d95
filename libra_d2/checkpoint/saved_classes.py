"""The class names that a checkpoint carries, read before a model is built from them."""

import os

from torch import nn

from libra_d2.checkpoint.checkpointer import LibraCheckpointer
from libra_d2.checkpoint.file_kind import identify
from libra_d2.checkpoint.safe_load import load_safetensors, load_torch


def saved_class_names(path: str) -> list[str]:
    """What the classes of a local file of weights are called; none where there is no file, or it does not say.

    Raises:
        FileError, UserError: the file cannot be read, see :func:`load_torch`.
    """
    kind = identify(path) if os.path.isfile(path) else ""
    if kind == "safetensors":
        return load_safetensors(path)[1]
    return class_names_in(load_torch(path)) if kind == "torch" else []


def class_names_in(checkpoint: object) -> list[str]:
    """What the classes are called in a checkpoint that was loaded; none where it does not say."""
    names = checkpoint.get("class_names") if isinstance(checkpoint, dict) else None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else []


def newest_checkpoint(folder: str) -> str | None:
    """The checkpoint that ``--resume`` will take, or None where there is none that can be used."""
    checkpointer = LibraCheckpointer(nn.Module(), folder)
    return checkpointer.newest_usable()[0] if checkpointer.has_checkpoint() else None
