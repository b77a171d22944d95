"""Half precision where it is safe: in the convolutions, not in coordinates, normalisation and attention."""

import copy
import functools
from collections.abc import Iterator

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_map

from libra_d2.modeling.backbone.refine import NonLocalRefine

_BATCH_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)
_NORMS = (*_BATCH_NORMS, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


def in_half(model: nn.Module) -> nn.Module:
    """A copy of a detector whose backbone and whose heads compute in float16; each takes and returns float32.

    float32 remain: the image and its normalisation, the non-local block of the balanced pyramid (its logits leave the
    range of float16), normalisation layers that are not part of a convolution, anchors, boxes, pooling, the layers
    that predict a box's class and place, masks and NMS. Batch normalisation of Detectron2's convolutions becomes part
    of their weights, as its variances may leave the range, too.

    Args:
        model: in evaluation mode.
    """
    model = copy.deepcopy(model)
    for part in _parts(model):
        for conv in [module for module in part.modules() if isinstance(module, Conv2d)]:
            _fuse(conv)
        norms = [module for module in part.modules() if isinstance(module, _NORMS)]
        attention = [module for module in part.modules() if isinstance(module, NonLocalRefine)]  # it casts by itself
        kept = {module for root in (*norms, *attention) for module in root.modules()}
        for module in set(part.modules()) - kept:
            for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                values.data = _cast(values.data, torch.float16)
        _cast_around(part, torch.float16, torch.float32)
        for norm in norms:
            _cast_around(norm, torch.float32, torch.float16)
    return model


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for name in ("backbone", "proposal_generator.rpn_head", "roi_heads.box_head", "head"):
        part = functools.reduce(lambda module, child: getattr(module, child, None), name.split("."), model)
        if isinstance(part, nn.ModuleList):  # Cascade R-CNN's, one a stage
            yield from part
        elif part is not None:
            yield part


def _fuse(conv: Conv2d) -> None:
    norm = conv.norm
    if isinstance(norm, _BATCH_NORMS):
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        conv.norm = None


def _cast_around(module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
    module.register_forward_pre_hook(lambda _, inputs: _cast(inputs, inside))
    module.register_forward_hook(lambda _, inputs, outputs: _cast(outputs, outside))


def _cast(values, dtype: torch.dtype):
    return tree_map(lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, values)
