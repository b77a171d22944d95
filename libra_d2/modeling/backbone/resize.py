"""How the levels of a pyramid are brought to another level's size where ``torch.compile`` compiles that.

Inductor has code of its own for adaptive pooling and for the gradient of nearest neighbours, which holds for one size
alone: each new image size would be compiled anew, and after a few the run would end. As ops that it does not look into,
they are those of eager mode, for all sizes.
"""

import torch
from torch import Tensor


def max_pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Same result as :func:`torch.nn.functional.adaptive_max_pool2d`."""
    return _max_pool(x, *size)[0]


def nearest_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Same result as :func:`torch.nn.functional.interpolate`."""
    return _nearest(x, *size)


def repeat(x: Tensor, factor: int) -> Tensor:
    """The same where both sides grow by ``factor``, whatever they are; this can be fused with what comes after it."""
    n, c, height, width = x.shape
    repeated = x[:, :, :, None, :, None].expand(n, c, height, factor, width, factor)
    return repeated.reshape(n, c, height * factor, width * factor)


@torch.library.custom_op("libra_d2::max_pool_to", mutates_args=())
def _max_pool(x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.adaptive_max_pool2d(x.contiguous(), [height, width])


@_max_pool.register_fake
def _(x, height, width):
    pooled = x.new_empty(*x.shape[:2], height, width)  # aten's own op takes no sizes that are not known yet
    return pooled, torch.empty_like(pooled, dtype=torch.int64)


def _keep_indices(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output[1])


def _max_pool_gradient(ctx, gradient, _):
    return torch.ops.aten.adaptive_max_pool2d_backward(gradient, *ctx.saved_tensors), None, None


_max_pool.register_autograd(_max_pool_gradient, setup_context=_keep_indices)


@torch.library.custom_op("libra_d2::nearest_to", mutates_args=())
def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    return torch.ops.aten.upsample_nearest2d(x, [height, width])


@_nearest.register_fake
def _(x, height, width):
    return torch.ops.aten.upsample_nearest2d(x, [height, width])


@torch.library.custom_op("libra_d2::nearest_to_backward", mutates_args=())
def _nearest_backward(gradient: Tensor, shape: list[int]) -> Tensor:
    return torch.ops.aten.upsample_nearest2d_backward(gradient, gradient.shape[-2:], shape)


@_nearest_backward.register_fake
def _(gradient, shape):
    return torch.ops.aten.upsample_nearest2d_backward(gradient, gradient.shape[-2:], shape)


def _keep_shape(ctx, inputs, output):
    ctx.shape = inputs[0].shape


_nearest.register_autograd(
    lambda ctx, gradient: (_nearest_backward(gradient, ctx.shape), None, None), setup_context=_keep_shape
)
