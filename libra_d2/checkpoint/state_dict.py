"""The weights in what a file held: tensors by the names of the model, whatever wrapped that model when it was saved."""

import collections
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch

from libra_d2.checks import UserError

__all__ = ["non_finite", "plain", "state_dict_of", "unwrapped"]

# What torch.compile, DataParallel, DistributedDataParallel, AveragedModel and FSDP put into names
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain(content: object, source: str) -> dict:
    """``content`` as a dict of its own: an OrderedDict from a file may have attributes in place of its methods.

    Raises:
        UserError: it is no dict.
    """
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected a checkpoint or a state dict, got a {type(content).__name__}")
    return dict(dict.items(content))


def state_dict_of(content: object, source: str, own: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """A state dict that can be loaded: dense tensors of real numbers, without the prefixes of wrappers.

    Args:
        content: a dict of tensors or NumPy arrays; the versions of modules that ``torch.save`` keeps with it stay.
        source: the file, for messages.
        own: names that stay as they are.

    Raises:
        UserError: it holds something else, or nothing.
    """
    weights = plain(content, source)
    if not weights:
        raise UserError(f"{source}: expected a dict of weights, got an empty one")
    for name, value in weights.items():
        if not isinstance(name, str):
            raise UserError(f"{source}: expected weights by their names, got a {type(name).__name__} as a name")
        weights[name] = _tensor(name, value, source)
    renamed = collections.OrderedDict(unwrapped(weights, source, own))
    if versions := _versions(content):
        renamed._metadata = versions
    return renamed


def unwrapped(weights: Mapping, source: str, own: Collection[str] = ()) -> dict:
    """The same values under names without what ``torch.compile``, DataParallel and the like put into them.

    Raises:
        UserError: two names become one.
    """
    renamed = {}
    for name, value in weights.items():
        new = name if name in own else _unwrapped_name(name)
        if new in renamed:
            raise UserError(f"{source}: expected each weight once, got {new} with and without a wrapper's prefix")
        renamed[new] = value
    return renamed


def non_finite(content) -> list[str]:
    """Dotted names of the tensors in nested dicts and lists that hold infinity or NaN."""
    named = [(name, tensor) for name, tensor in _tensors(content) if tensor.is_floating_point()]
    finite = [tensor.isfinite().all() for _, tensor in named]
    by_device = collections.defaultdict(list)
    for flag in finite:
        by_device[flag.device].append(flag)
    if all(torch.stack(flags).all() for flags in by_device.values()):  # waits once for each device
        return []
    return [name for (name, _), flag in zip(named, finite, strict=True) if not flag]


def _tensors(content, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _tensors(value, f"{prefix}{name}.")
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            yield from _tensors(value, f"{prefix}{i}.")


def _unwrapped_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _tensor(name: str, value: object, source: str) -> torch.Tensor:
    expected = f"{source}: expected a dense tensor of real numbers as {name[:200]}"
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise UserError(f"{expected}, got an array of {value.dtype}")
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{expected}, got a {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
        raise UserError(f"{expected}, got one of {value.dtype} and {value.layout} on {value.device}")
    return value


def _versions(content: object) -> collections.OrderedDict:
    """What modules go by to read older weights; of what a file says, nothing but the numbers."""
    found = getattr(content, "_metadata", None)
    versions = collections.OrderedDict()
    for name, entry in dict.items(found) if isinstance(found, dict) else ():
        version = dict.get(entry, "version") if isinstance(entry, dict) else None
        if isinstance(name, str) and isinstance(version, int):
            versions[_unwrapped_name(name)] = {"version": version}
    return versions
