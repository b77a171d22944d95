"""A whole detector as ONNX, NMS included, by Detectron2's tracing; checked by onnxruntime."""

from __future__ import annotations

import os
import warnings

import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from libra_d2.checks import UserError
from libra_d2.inference.onnx import GatheredMaxPool, check_packages, why_not
from libra_d2.inference.torchscript import detections

_OPSET = 18  # RoIAlign as Detectron2 has it came with 16


def export_detector(model: nn.Module, image: Tensor, file: str | os.PathLike, *, dynamic: bool = False) -> list[str]:
    """Writes a detector without postprocessing; returns the names of its outputs, fields of Detectron2's Instances.

    It takes ``image``, float32 [C, H, W], 0..255, channels as in ``INPUT.FORMAT``. Boxes are in its pixels; masks are
    28 x 28. How many detections come out depends on the image.

    Args:
        model: in evaluation mode, on the CPU.
        image: an image on which something is found; the size to export for.
        dynamic: images of any size may be given.

    Raises:
        UserError: a package is missing, or an operator cannot be exported.
    """
    check_packages()
    names = sorted(detections(model, image).get_fields())
    axes = {name: {0: "detections"} for name in names}
    if dynamic:
        axes["image"] = {1: "height", 2: "width"}
    adapter = TracingAdapter(model, [{"image": image}], _fields).eval()  # or torch leaves the model in training
    options = {"input_names": ["image"], "output_names": names, "dynamic_axes": axes, "opset_version": _OPSET}
    try:
        with warnings.catch_warnings(), torch.no_grad(), GatheredMaxPool():
            warnings.simplefilter("ignore")  # of what depends on the size, which Detectron2 has seen to
            torch.onnx.export(adapter, (image,), str(file), dynamo=False, **options)
    except Exception as error:  # tracing raises whatever the model does with a tracer's tensors
        raise UserError(f"--format onnx: {why_not(error)}") from error
    return names


def run_detector(file: str | os.PathLike, image: Tensor) -> dict[str, Tensor]:
    """What onnxruntime finds on an image: {name of an output: its values}."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"image": image.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _fields(model: nn.Module, inputs: list[dict]) -> dict[str, Tensor]:
    fields = detections(model, inputs[0]["image"]).get_fields()
    return {name: getattr(value, "tensor", value) for name, value in fields.items()}
