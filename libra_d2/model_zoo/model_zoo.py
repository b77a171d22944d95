"""Configs and models by name; the counterpart of :mod:`detectron2.model_zoo`."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.checks import UserError
from libra_d2.config.files import get_config_file, load_config

__all__ = ["get", "get_config", "get_config_file"]


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """The config of that name.

    Args:
        config_path: such as "libra_faster_rcnn_R_50_FPN_1x.yaml" or "finetune/libra_retinanet_R_50_FPN_1x.yaml".
        trained: ``MODEL.WEIGHTS`` has to name a trained detector. That of "finetune/" does: Detectron2's own, whose
            accuracy the model starts at. Otherwise it is mostly a backbone that was trained on ImageNet.

    Raises:
        UserError: there is no such config, or none of a trained detector.
    """
    cfg = load_config(get_config_file(config_path), [])
    if trained and not config_path.removeprefix("configs/").startswith("finetune/"):
        raise UserError(f"no trained weights are published for {config_path}; the configs in finetune/ have some")
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of that config with the weights of its ``MODEL.WEIGHTS``, in training mode.

    Args:
        config_path, trained: see :func:`get_config`.
        device: overrides ``MODEL.DEVICE``, which is "cuda" where a CUDA device is visible and "cpu" elsewhere.

    Raises:
        UserError: see :func:`get_config`.
        FileError: the weights cannot be read or fetched.
    """
    cfg = get_config(config_path, trained)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    LibraCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
