"""The backbone and its balanced pyramid as ONNX, checked by onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import nn
from torch.export import Dim
from torch.overrides import TorchFunctionMode

from libra_d2.checks import UserError, require_packages
from libra_d2.modeling.backbone.adaptive_pool import gathered_max_pool2d

#: what a side has at least with ``dynamic``, in multiples of the stride: torch.export fixes the sides of maps of 1
FEWEST = 5
_NEEDED = ("onnx", "onnxruntime", "onnxscript")


class PyramidOfImage(nn.Module):
    """Normalisation, padding, backbone and pyramid: one image in, its feature maps out.

    Args:
        model: one of Detectron2's detectors, in evaluation mode.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone: Backbone = model.backbone
        self.register_buffer("pixel_mean", model.pixel_mean)
        self.register_buffer("pixel_std", model.pixel_std)
        self.levels = list(model.backbone.output_shape())
        self.divisor = max(1, model.backbone.size_divisibility)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """float32 [C, H, W], 0..255, channels as in ``INPUT.FORMAT``, to float32 [1, C, h, w] for each level."""
        x = ((image - self.pixel_mean) / self.pixel_std)[None]
        height, width = image.shape[1:]
        x = F.pad(x, (0, -width % self.divisor, 0, -height % self.divisor))
        with GatheredMaxPool():
            features = self.backbone(x)
        return tuple(features[level] for level in self.levels)


def export_onnx(model: nn.Module, image: torch.Tensor, file: str | os.PathLike, *, dynamic: bool = False) -> list[str]:
    """Writes :class:`PyramidOfImage` of a detector; returns the names of its outputs.

    Args:
        model: in evaluation mode, on the CPU.
        image: float32 [C, H, W], the size to export for.
        dynamic: other sizes may be given too, whose height and width are multiples, from ``FEWEST`` on, of the
            backbone's stride; those of ``image`` have to be such multiples as well.

    Raises:
        UserError: a package is missing, or an operator cannot be exported.
    """
    check_packages()
    pyramid = PyramidOfImage(model).eval()
    sizes = None
    if dynamic:
        height, width = (pyramid.divisor * Dim(name, min=FEWEST, max=512) for name in ("rows", "columns"))
        sizes = ({1: height, 2: width},)
    try:
        with torch.no_grad():
            program = torch.export.export(pyramid, (image,), dynamic_shapes=sizes, strict=False)
        names = {"input_names": ["image"], "output_names": pyramid.levels}
        torch.onnx.export(program, (), str(file), external_data=False, verbose=False, **names)
    except Exception as error:  # torch.onnx, torch.export and onnxscript raise errors of their own
        raise UserError(f"--format onnx: {why_not(error)}") from error
    return pyramid.levels


def largest_error(model: nn.Module, file: str | os.PathLike, images: Sequence[torch.Tensor]) -> float:
    """How far onnxruntime's feature maps are from PyTorch's, as a part of the largest value in a map."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pyramid = PyramidOfImage(model).eval()
    errors = []
    for image in images:
        found = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            expected = pyramid(image)
        for level, values in zip(expected, found, strict=True):
            errors.append((level - torch.from_numpy(values)).abs().max() / level.abs().max().clamp(min=1e-12))
    return torch.stack(errors).max().item()  # NaN if there is one, which Python's max might drop


def check_packages() -> None:
    """Raises UserError where a package is missing that the export to ONNX needs."""
    require_packages("--format onnx", _NEEDED, "export")


class GatheredMaxPool(TorchFunctionMode):
    """Computes adaptive max pooling, which ONNX has no operator for, by gathering windows; the result is the same."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.adaptive_max_pool2d:
            return gathered_max_pool2d(*args)
        return func(*args, **(kwargs or {}))


def why_not(error: BaseException) -> str:
    """Why an export failed: the operator that it failed at, if the exporter's message has one."""
    text = " ".join(str(cause) for cause in _causes(error))
    operator = re.search(r"target=(?:torch\.ops\.)?([\w.:]+)|operator '?([\w.:]+)'?", text)
    if operator is None:
        return f"the model cannot be exported ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    return f"the operator {operator[1] or operator[2]} cannot be exported ({type(error).__name__})"


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
