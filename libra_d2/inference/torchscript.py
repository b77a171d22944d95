"""A whole detector as TorchScript, by Detectron2's tracing."""

import os
import warnings

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torch import nn

from libra_d2.checks import UserError


def export_torchscript(model: nn.Module, image: torch.Tensor, file: str | os.PathLike) -> list[str]:
    """Traces a detector; returns the names of its outputs, the fields of Detectron2's Instances and the image's size.

    The traced model takes an image, float32 [C, H, W] of any size, 0..255, channels as in ``INPUT.FORMAT``. Boxes are
    in its pixels; masks are 28 x 28, as Detectron2 has them before it pastes them into the image.

    Args:
        model: in evaluation mode.

    Raises:
        UserError: it cannot be traced.
    """
    adapter = TracingAdapter(model, [{"image": image}], _inference)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of what depends on the size, which Detectron2 has seen to
            traced = torch.jit.trace(adapter, (image,), check_trace=False)
    except Exception as error:  # tracing raises whatever the model does with a tracer's tensors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"--format torchscript: this model cannot be traced ({reason})") from error
    torch.jit.save(traced, str(file))
    return [*_fields(detections(model, image)), "image_size"]


def detections(model: nn.Module, image: torch.Tensor) -> Instances:
    """What the traced model is to find: detections on an image, without Detectron2's postprocessing of masks."""
    with torch.no_grad():
        return _inference(model, [{"image": image}])[0]["instances"]


def largest_difference(model: nn.Module, file: str | os.PathLike, images: list[torch.Tensor]) -> float:
    """How far TorchScript's boxes, in pixels, and its scores are from PyTorch's; infinite if others are found."""
    traced, errors = torch.jit.load(str(file)), [0.0]
    for image in images:
        expected = detections(model, image)
        *found, size = traced(image)
        if tuple(size.tolist()) != expected.image_size:
            return float("inf")
        for name, values in zip(_fields(expected), found, strict=True):
            wanted = expected.get(name)
            wanted = getattr(wanted, "tensor", wanted)
            if values.shape != wanted.shape:
                return float("inf")
            if wanted.numel():
                errors.append((values.float() - wanted.float()).abs().max().item())
    return max(errors)


def _inference(model: nn.Module, inputs: list[dict]) -> list[dict]:
    if isinstance(model, GeneralizedRCNN):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]
    return model(inputs)


def _fields(instances: Instances) -> list[str]:
    return sorted(instances.get_fields())  # the order in which Detectron2 flattens them
