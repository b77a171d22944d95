"""Command line and config of train_net.py and demo.py; what is wrong in them is said in one sentence."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils.file_io import PathManager

from libra_d2.config import get_cfg


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key, what came and what to write instead."""


def argument_parser():
    """Detectron2's training arguments and the four that name one's own COCO json files."""
    parser = default_argument_parser()
    parser.description = "Trains and evaluates Libra R-CNN, and any other Detectron2 config."
    own = parser.add_argument_group("own data (COCO json; class names and their number are read from it unless given)")
    own.add_argument("--train-json", default="", metavar="FILE", help="annotations to train on")
    own.add_argument("--train-images", default="", metavar="DIR", help="folder of the training images")
    own.add_argument("--val-json", default="", metavar="FILE", help="annotations to evaluate on")
    own.add_argument("--val-images", default="", metavar="DIR", help="folder of the images to evaluate on")
    return parser


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """The libra_d2 config with a yaml file and ``KEY VALUE`` pairs merged into it.

    Args:
        config_file: path of a yaml file, or "".
        opts: keys and values in turn, e.g. ``["MODEL.DEVICE", "cpu"]``.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of the wrong type, or a device that is not there.
    """
    cfg = get_cfg()
    if config_file:
        if not PathManager.isfile(config_file):
            raise ConfigError(f"--config-file: there is no file {config_file}")
        with _reported(cfg, f"{config_file}: "):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    if opts:
        flags = [opt for opt in opts[::2] if opt.startswith("--")]
        if flags:
            raise ConfigError(f"{flags[0]} has to come before the first KEY VALUE pair ({opts[0]})")
        if len(opts) % 2:
            raise ConfigError(f"expected pairs of KEY VALUE at the end of the command, got {' '.join(opts)!r}")
        with _reported(cfg, ""):
            cfg.merge_from_list(list(opts))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but no CUDA device is visible: add MODEL.DEVICE cpu")
    return cfg


class _reported:
    """Turns what a merge into ``cfg`` raises into a ConfigError."""

    def __init__(self, cfg: CfgNode, where: str):
        self.keys = {key: value for key, value in _walk(cfg)}
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):
            raise ConfigError(self.where + self._say(error)) from error

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
        return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def _walk(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        yield prefix + name, value
        if isinstance(value, CfgNode):
            yield from _walk(value, f"{prefix}{name}.")


def given_keys(opts: Iterable[str]) -> frozenset[str]:
    """The keys among ``KEY VALUE`` pairs."""
    return frozenset(list(opts)[::2])
