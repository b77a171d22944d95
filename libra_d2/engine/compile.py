"""``torch.compile`` of parts of a model, in place: names of weights and checkpoints stay as they are."""

import importlib.util
import os
import shutil

import torch
from detectron2.config import CfgNode
from torch import nn

from libra_d2.checks import UserError
from libra_d2.modeling import BalancedFeaturePyramid

_KEY = "MODEL.LIBRA.TRAIN.COMPILE"


def _pyramids(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BalancedFeaturePyramid)]


def _box_heads(model: nn.Module) -> list[nn.Module]:
    head = getattr(getattr(model, "roi_heads", None), "box_head", None)
    return list(head) if isinstance(head, nn.ModuleList) else [head] if head is not None else []


PARTS = {"bfp": _pyramids, "box_head": _box_heads}


def compile_parts(cfg: CfgNode, model: nn.Module, **options) -> None:
    """Compiles what ``MODEL.LIBRA.TRAIN.COMPILE`` names, at its first call, for all image sizes and numbers of boxes.

    Args:
        model: as it was built, not inside DistributedDataParallel.
        options: of :func:`torch.compile`.

    Raises:
        UserError: the model has no such part.
    """
    for part in cfg.MODEL.LIBRA.TRAIN.COMPILE:
        modules = PARTS[part](model)
        if not modules:
            raise UserError(f"{_KEY}: expected parts of this model, got {part!r}, which {type(model).__name__} lacks")
        for module in modules:
            module.compile(fullgraph=True, dynamic=True, **options)


def check_compile(cfg: CfgNode) -> None:
    """Finds out whether the parts are known, and whether there is what compiles them.

    Raises:
        UserError: they are not, or it is not.
    """
    for part in cfg.MODEL.LIBRA.TRAIN.COMPILE:
        if part not in PARTS:
            raise UserError(f"{_KEY}: expected names out of {list(PARTS)}, got {part!r}")
    if not cfg.MODEL.LIBRA.TRAIN.COMPILE:
        return
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        is_there, what = importlib.util.find_spec("triton") is not None, "triton"
    else:
        is_there, what = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), "a C++ compiler"
    if not is_there:
        raise UserError(
            f"{_KEY}: expected {what}, which torch.compile needs here, got none; install it, or set it to []"
        )
