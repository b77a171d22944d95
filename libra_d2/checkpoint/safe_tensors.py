"""Weights as safetensors: a format that holds tensors and texts and cannot hold anything else."""

import json
import os
from collections.abc import Mapping, Sequence

import safetensors.torch
import torch

from libra_d2.checks import FileError, UserError

__all__ = ["load_safetensors", "safetensors_bytes"]

_CLASS_NAMES = "class_names"  # a json list; all that the format allows are texts


def load_safetensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a local file, on the CPU, and the class names that :func:`safetensors_bytes` put into it.

    Raises:
        FileError: the file is truncated or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            metadata = file.metadata() or {}
    except MemoryError:
        raise
    except Exception as e:  # the library raises its own error for most, not for all
        raise FileError(
            f"{path} is truncated or damaged ({str(e)[:200]}): expected a .safetensors file; fetch it again"
        ) from None
    return tensors, _class_names(metadata)


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], class_names: Sequence[str] = ()) -> bytes:
    """What a file of these tensors holds.

    Raises:
        UserError: a value is no tensor.
    """
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"expected tensors for a .safetensors file, got a {type(value).__name__} as {name}")
    metadata = {"format": "pt"}
    if class_names:
        metadata[_CLASS_NAMES] = json.dumps(list(class_names))
    whole = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    return safetensors.torch.save(whole, metadata)


def _class_names(metadata: Mapping[str, str]) -> list[str]:
    try:
        names = json.loads(metadata.get(_CLASS_NAMES, "[]"))
    except (ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
