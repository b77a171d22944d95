"""A whole detector as TorchScript, by Detectron2's tracing."""

import os
import warnings
from collections.abc import Sequence

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
    return [*sorted(detections(model, image).get_fields()), "image_size"]  # as Detectron2 flattens them


def detections(model: nn.Module, image: torch.Tensor) -> Instances:
    """What the traced model is to find: detections on an image, without Detectron2's postprocessing of masks."""
    with torch.no_grad():
        return _inference(model, [{"image": image}])[0]["instances"]


def run_torchscript(file: str | os.PathLike, image: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a traced model finds on an image: {name of an output: its values}; ``names`` are those of its outputs."""
    return dict(zip(names, torch.jit.load(str(file))(image), strict=True))


def _inference(model: nn.Module, inputs: list[dict]) -> list[dict]:
    if isinstance(model, GeneralizedRCNN):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]
    return model(inputs)
