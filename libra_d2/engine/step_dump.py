"""A training step in a file: the weights, the images and the random states that it began with."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checkpoint.safe_load import load_torch
from libra_d2.config import get_cfg
from libra_d2.data.random_state import rng_state, set_rng_state


@dataclass
class StepState:
    """What a step's losses depend on, besides its batch; copied to the CPU."""

    weights: dict[str, torch.Tensor]
    rng: dict
    loss_normalizer: float | None

    @classmethod
    def of(cls, model: nn.Module, cfg: CfgNode) -> StepState:
        normalizer = getattr(model, "loss_normalizer", None)
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        return cls(weights, rng_state(cfg.MODEL.DEVICE), None if normalizer is None else float(normalizer))


def write_step(path: str | os.PathLike, state: StepState, batch: list[dict], iteration: int, cfg: CfgNode) -> None:
    """Writes a file that holds nothing but tensors and plain values.

    Args:
        batch: what the model was called with.

    Raises:
        FileError: it cannot be written.
    """
    content = {**vars(state), "batch": _plain(batch), "iteration": iteration, "config": cfg.dump()}
    with atomic_write(path) as f:
        torch.save(content, f)


def replay_step(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The losses that the step of a file had, each a scalar that can be differentiated.

    Raises:
        UserError: the file holds more than tensors and plain values.
        FileError: it cannot be read.
    """
    content = load_torch(path)
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(content["config"]))
    model = build_model(cfg).train()
    model.load_state_dict(content["weights"])
    if content["loss_normalizer"] is not None:
        model.loss_normalizer = content["loss_normalizer"]
    set_rng_state(content["rng"], cfg.MODEL.DEVICE)
    with EventStorage(content["iteration"]):
        return model(_structured(content["batch"]))


_BY_TENSOR = {kind.__name__: kind for kind in (Boxes, BitMasks, Keypoints)}


def _plain(value):
    """Detectron2's structures as dicts, which every reader of weights admits."""
    if isinstance(value, Instances):
        fields = {name: _plain(field) for name, field in value.get_fields().items()}
        return {"structure": "Instances", "size": list(value.image_size), "fields": fields}
    if isinstance(value, PolygonMasks):
        polygons = [[torch.as_tensor(p) for p in instance] for instance in value.polygons]
        return {"structure": "PolygonMasks", "polygons": polygons}
    if type(value).__name__ in _BY_TENSOR:
        return {"structure": type(value).__name__, "tensor": value.tensor.cpu()}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.cpu()
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def _structured(value):
    if isinstance(value, list):
        return [_structured(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("structure")
    if kind == "Instances":
        fields = {name: _structured(field) for name, field in value["fields"].items()}
        return Instances(tuple(value["size"]), **fields)
    if kind == "PolygonMasks":
        return PolygonMasks([[p.numpy() for p in instance] for instance in value["polygons"]])
    if kind in _BY_TENSOR:
        return _BY_TENSOR[kind](value["tensor"])
    return {name: _structured(item) for name, item in value.items()}
