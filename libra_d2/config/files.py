"""Reads a config from a file or a name and ``KEY VALUE`` pairs, and reports in one sentence what is wrong in them."""

import difflib
import importlib.resources
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import yaml

from libra_d2.checks import UserError, require_detectron2
from libra_d2.config.keys import get_cfg

require_detectron2()

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from libra_d2.config.lazy import describe, load_lazy, trust


def config_folder() -> Path:
    """Where the configs lie: inside the installed package, or beside it in a checkout."""
    package = Path(str(importlib.resources.files("libra_d2")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """What :func:`get_config_file` takes, such as "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml"."""
    folder = config_folder()
    paths = [*folder.rglob("*.yaml"), *(folder / "lazy").rglob("libra_*.py")]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """The path of a config that comes with libra_d2.

    Args:
        name: relative to ``configs/``, with or without that folder and with or without ".yaml". LazyConfigs, in lazy/,
            end in ".py".

    Raises:
        UserError: there is none of that name; the message lists near ones.
    """
    path = _find(name)
    if path is None:
        raise UserError(f"there is no config {name}{_near_configs(name)}")
    return path


def find_config_file(path_or_name: str) -> str:
    """The path of the file that ``--config-file`` means: its own, or that of a config that comes with libra_d2.

    Raises:
        UserError: there is no such file; the message lists near names.
    """
    path = path_or_name if PathManager.isfile(path_or_name) else _find(path_or_name)
    if path is None:
        raise UserError(f"--config-file: there is no file {path_or_name}{_near_configs(path_or_name)}")
    return path


def _find(name: str) -> str | None:
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    wanted += "" if wanted.endswith(".py") else ".yaml"
    return str(config_folder() / wanted) if wanted in config_names() else None


def _near_configs(name: str) -> str:
    suffix = ".py" if name.endswith(".py") else ".yaml"
    stems = {known.removesuffix(suffix).rpartition("/")[2]: known for known in config_names() if known.endswith(suffix)}
    stem = name.removesuffix(suffix).rpartition("/")[2]
    return did_you_mean(stems[near] for near in difflib.get_close_matches(stem, stems))


def did_you_mean(near: Iterable[str]) -> str:
    """ "; did you mean A or B?", of the first three; empty where nothing is near."""
    near = list(near)[:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """The libra_d2 config with a file and ``KEY VALUE`` pairs merged into it.

    A LazyConfig, which is Python and is run, gives the model; the rest is that of its ``recipe``.

    Args:
        config_file: a path, or a name that :func:`get_config_file` takes, or "".
        opts: keys and values in turn, e.g. ``["MODEL.DEVICE", "cpu"]``; of a LazyConfig also of its model, e.g.
            ``["model.backbone.refine_type", "conv"]``.

    Raises:
        UserError: an unreadable file, an unknown key, a value of the wrong type, or a device that is not there.
    """
    cfg = get_cfg()
    if config_file:
        config_file = find_config_file(config_file)
        if config_file.endswith(".py"):
            opts = _merge_lazy(cfg, config_file, opts)
        else:
            with _reported(cfg, f"{config_file}: "):
                _merge_file(cfg, config_file)
            if file := cfg.MODEL.LIBRA.LAZY.FILE:
                raise UserError(f"{config_file}: its model is that of a LazyConfig: use --config-file {file} instead")
    if opts:
        flags = [opt for opt in opts[::2] if opt.startswith("--")]
        if flags:
            raise UserError(f"{flags[0]} has to come before the first KEY VALUE pair ({opts[0]})")
        if len(opts) % 2:
            raise UserError(f"expected pairs of KEY VALUE at the end of the command, got {' '.join(opts)!r}")
        with _reported(cfg, ""):
            cfg.merge_from_list(list(opts))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but no CUDA device is visible: add MODEL.DEVICE cpu")
    return cfg


def _merge_lazy(cfg: CfgNode, file: str, opts: Sequence[str]) -> list[str]:
    """Merges a LazyConfig and what ``opts`` say about its model; returns the other ``opts``."""
    pairs = [opts[i : i + 2] for i in range(0, len(opts), 2)]
    overrides = ["=".join(map(str, pair)) for pair in pairs if len(pair) == 2 and pair[0].startswith("model.")]
    trust(file)
    model, recipe = load_lazy(file, overrides)
    if recipe:
        with _reported(cfg, f"{file}: "):
            _merge_file(cfg, find_config_file(recipe))
    describe(model, cfg)
    cfg.MODEL.LIBRA.LAZY.FILE, cfg.MODEL.LIBRA.LAZY.OVERRIDES = os.path.abspath(file), overrides
    return [item for pair in pairs for item in pair if len(pair) < 2 or not pair[0].startswith("model.")]


def _merge_file(cfg: CfgNode, file: str) -> None:
    """Detectron2's ``merge_from_file``, whose ``_BASE_`` may also be a name that :func:`get_config_file` takes."""
    with PathManager.open(file) as f:
        content = yaml.safe_load(f)
    bases = content.get("_BASE_", []) if isinstance(content, dict) else []
    bases = [bases] if isinstance(bases, str) else bases
    beside = [os.path.join(os.path.dirname(file), base) for base in bases]
    found = [path if os.path.isfile(path) else _find(base) for path, base in zip(beside, bases, strict=True)]
    if not bases or None in found:
        cfg.merge_from_file(file, allow_unsafe=False)
        return
    for base in found:
        _merge_file(cfg, base)
    del content["_BASE_"]
    cfg.merge_from_other_cfg(CfgNode(content))


class _reported:
    """Turns what a merge into ``cfg`` raises into a UserError."""

    def __init__(self, cfg: CfgNode, where: str):
        self.keys = {key: value for key, value in _walk(cfg)}
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):
            raise UserError(self.where + self._say(error)) from error

    def _say(self, error: Exception) -> str:
        message = str(error.args[0]) if error.args else str(error)
        if unknown := re.search(r"Non-existent (?:config )?key: (\S+)", message):
            return f"unknown config key {unknown[1]}{self._near(unknown[1])}"
        if mismatch := re.search(r"with values \((.*) vs\. (.*)\) for config key: (\S+)", message, re.DOTALL):
            default, given, key = mismatch.groups()
            return f"{key}: expected {type(self.keys.get(key, {})).__name__}, such as {default!r}, got {given!r}"
        if isinstance(error, TypeError | AttributeError):  # what yacs falls into where it takes a value for a section
            return "expected keys and values in sections, as in Detectron2's configs"
        if isinstance(error, OSError | yaml.YAMLError):
            message = str(error)
        return " ".join(message.split())

    def _near(self, key: str) -> str:
        upper = {k.upper(): k for k in self.keys}
        near = [upper[k] for k in difflib.get_close_matches(key.upper(), upper, n=3, cutoff=0.75)]
        name = key.upper().rpartition(".")[2]
        near += [k for k in self.keys if k.rpartition(".")[2].upper() == name and k not in near]
        return did_you_mean(near)


def _walk(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        yield prefix + name, value
        if isinstance(value, CfgNode):
            yield from _walk(value, f"{prefix}{name}.")


def given_keys(opts: Iterable[str]) -> frozenset[str]:
    """The keys among ``KEY VALUE`` pairs."""
    return frozenset(list(opts)[::2])
