"""Balanced feature pyramid (Libra R-CNN, section 3.2)."""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from libra_d2.checks import UserError, choice
from libra_d2.modeling import balance_scalars
from libra_d2.modeling.backbone.adaptive_pool import adaptive_max_pool2d
from libra_d2.modeling.backbone.finer_sums import FinerSums
from libra_d2.modeling.backbone.refine import ATTENTIONS, REFINES, NonLocalRefine
from libra_d2.modeling.compatibility import check_compatibility

logger = logging.getLogger(__name__)

INITS = ("xavier", "zero", "mmdet", "identity")


def _nearest(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Nearest neighbours, in the type of ``x``, where CUDA's autocast would give float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size=size)


class _WithMaxima(torch.autograd.Function):
    """A level, and its adaptive max pooling to ``size``.

    Autograd would keep the level until the backward pass, and there add up two gradients of its size.
    """

    @staticmethod
    def forward(ctx, level, size):
        maxima, places = F.adaptive_max_pool2d(level, size, return_indices=True)
        ctx.save_for_backward(places)
        return level.view_as(level), maxima

    @staticmethod
    def backward(ctx, of_level, of_maxima):
        (places,) = ctx.saved_tensors
        return of_level.flatten(2).scatter_add(2, places.flatten(2), of_maxima.flatten(2)).view_as(of_level), None


class BalancedFeaturePyramid(Backbone):
    """Averages all levels of a pyramid at one resolution, refines the mean and adds it back to each level.

    Like FPN around ResNet, it is a backbone around a ``bottom_up``. Levels, their order, channels and strides are
    those of ``bottom_up``. A checkpoint of the plain ``bottom_up`` loads into it directly; only ``refine.*`` and
    ``gate`` are then new.

    Args:
        bottom_up: a Detectron2 backbone whose levels all have the same number of channels.
        refine_level: name of the level at whose resolution the mean is taken.
        refine_type: "non_local", "conv" or "none" (integration only).
        init: "xavier" (the published runs), "zero" (the last layer of the refinement starts at zero), "mmdet" (as
            MMDetection 3 begins its non-local block: weights from N(0, 0.01), the last layer at zero) or "identity"
            (the whole residual is scaled by a scalar ``gate`` that starts at zero, so the module starts as the
            identity).
        attention: of the non-local block, see :class:`NonLocalRefine`.

    Raises:
        UserError: an unknown name, levels with different channels, or ``init`` "zero" or "mmdet" with ``refine_type``
            "conv".
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        refine_level: str = "p4",
        refine_type: str = "non_local",
        init: str = "xavier",
        attention: str = "unscaled",
    ):
        super().__init__()
        shapes = bottom_up.output_shape()
        levels = list(shapes)
        if refine_level not in shapes:
            raise UserError(
                f"refine_level (MODEL.LIBRA.BFP.REFINE_LEVEL): expected one of {levels}, got {refine_level!r}"
            )
        if refine_type not in REFINES:
            raise UserError(
                f"refine_type (MODEL.LIBRA.BFP.REFINE_TYPE): expected one of {list(REFINES)}, got {refine_type!r}"
            )
        if init not in INITS:
            raise UserError(f"init (MODEL.LIBRA.BFP.INIT): expected one of {list(INITS)}, got {init!r}")
        if attention not in ATTENTIONS:
            raise UserError(
                f"attention (MODEL.LIBRA.BFP.ATTENTION): expected one of {list(ATTENTIONS)}, got {attention!r}"
            )
        if init in ("zero", "mmdet") and refine_type == "conv":
            raise UserError(
                f'init (MODEL.LIBRA.BFP.INIT): expected "xavier" or "identity" with refine_type "conv", got "{init}", '
                "which would never train: the ReLU behind the convolution has no gradient at zero"
            )
        channels = {name: shape.channels for name, shape in shapes.items()}
        if len(set(channels.values())) > 1:
            raise UserError(f"bottom_up: expected the same number of channels in every level, got {channels}")

        self.bottom_up = bottom_up
        self._out_features = levels
        self._out_feature_channels = channels
        self._out_feature_strides = {name: shape.stride for name, shape in shapes.items()}
        self.refine_level = refine_level

        refine = REFINES[refine_type]
        options = {"attention": attention} if refine is NonLocalRefine else {}
        self.refine = nn.Identity() if refine is None else refine(channels[refine_level], **options)
        for conv in (m for m in self.refine.modules() if isinstance(m, nn.Conv2d)):
            if init == "mmdet":
                nn.init.normal_(conv.weight, std=0.01)
            else:
                nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        if init in ("zero", "mmdet") and refine is not None:
            nn.init.zeros_(self.refine.last.weight)
        self.gate = nn.Parameter(torch.zeros(())) if init == "identity" else None
        self._compiled_sums = None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps images (N, 3, H, W) to {level: (N, C, H_level, W_level)}, in the order of ``bottom_up``."""
        features = self.bottom_up(x)
        levels = [features[name] for name in self._out_features]
        at = self._out_features.index(self.refine_level)
        size = levels[at].shape[-2:]
        balanced = 0.0
        for i, level in enumerate(levels):
            if i < at and self.training:
                levels[i], level = _WithMaxima.apply(level, size)
            elif i < at:
                level = adaptive_max_pool2d(level, size)
            elif i > at:
                level = _nearest(level, size)
            balanced = balanced + level
        balanced = self.refine(balanced / len(levels))
        if self.gate is not None:
            balanced = self.gate * balanced
        sums = self._finer(balanced, levels[:at])
        for i in range(len(sums), len(levels)):
            level = levels[i]
            if i == at:
                sums.append(level + balanced)
            else:
                resize = _nearest if i < at else adaptive_max_pool2d
                sums.append(resize(balanced.to(level.dtype), level.shape[-2:]).add_(level))
        scattered = dict(zip(self._out_features, sums, strict=True))
        if self.training and (log := balance_scalars.due()):
            balance_scalars.log_pyramid(log, features, scattered, self.gate)
        return scattered

    def compile(self, *args, **kwargs):
        """Like :func:`torch.compile`, of the sums at the levels finer than ``refine_level``, in place and for training.

        Most of what this module reads and writes is there. Pooling and convolutions stay outside: with them Inductor
        compiles again for each image size.
        """
        strides = [self._out_feature_strides[name] for name in self._out_features]
        at = self._out_features.index(self.refine_level)
        self._compiled_sums = FinerSums([strides[at] // stride for stride in strides[:at]])
        self._compiled_sums.compile(*args, **kwargs)

    def _finer(self, balanced: torch.Tensor, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """The levels with ``balanced`` added, where that is compiled for such levels; else none."""
        sums = self._compiled_sums
        if sums is None or not levels or not torch.is_grad_enabled() or not sums.fit(balanced, levels):
            return []
        return sums(balanced, levels)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        _adapt_checkpoint(self, state_dict, prefix, errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.bottom_up.padding_constraints


def _adapt_checkpoint(bfp: BalancedFeaturePyramid, state_dict: dict, prefix: str, errors: list[str]) -> None:
    """Lets a checkpoint of the plain ``bottom_up``, or of a BFP with another ``init``, load into ``bfp``."""
    own = bfp.bottom_up.state_dict()
    has_refine = any(key.startswith(f"{prefix}refine.") for key in state_dict)
    is_wrapped = all(f"{prefix}bottom_up.{name}" in state_dict for name in own)

    for name, tensor in own.items():
        plain, wrapped = f"{prefix}{name}", f"{prefix}bottom_up.{name}"
        named_by_bottom_up = name.startswith("bottom_up.") and name.removeprefix("bottom_up.") in own
        if plain not in state_dict or wrapped in state_dict or named_by_bottom_up:
            continue
        value = state_dict.pop(plain)
        if value.shape == tensor.shape:
            state_dict[wrapped] = value
        else:
            logger.warning(
                f"Skip loading parameter '{plain}' to the model due to incompatible shapes: "
                f"{tuple(value.shape)} in the checkpoint but {tuple(tensor.shape)} in the model!"
            )

    gate = f"{prefix}gate"
    if bfp.gate is None and gate in state_dict:
        errors.append(
            f"'{gate}' is in the checkpoint, but the model has no gate and would scale the residual by 1 instead of "
            f"{float(state_dict[gate]):.4g}: set MODEL.LIBRA.BFP.INIT to identity, as it was in training"
        )
    # A balanced pyramid trained without a gate scales its residual by 1; a plain pyramid has none, the gate stays 0.
    trained_without_gate = has_refine if len(list(bfp.refine.parameters())) else is_wrapped
    if bfp.gate is not None and gate not in state_dict and trained_without_gate:
        state_dict[gate] = torch.ones_like(bfp.gate)


def wrap_in_bfp(cfg, backbone: Backbone) -> Backbone:
    """``backbone`` in a balanced pyramid as ``MODEL.LIBRA.BFP`` says, or unchanged if that is switched off."""
    if not cfg.MODEL.LIBRA.BFP.ENABLED or isinstance(backbone, BalancedFeaturePyramid):
        return backbone
    return BalancedFeaturePyramid(
        backbone,
        refine_level=choice(cfg, "MODEL.LIBRA.BFP.REFINE_LEVEL", backbone.output_shape()),
        refine_type=choice(cfg, "MODEL.LIBRA.BFP.REFINE_TYPE", REFINES),
        init=choice(cfg, "MODEL.LIBRA.BFP.INIT", INITS),
        attention=choice(cfg, "MODEL.LIBRA.BFP.ATTENTION", ATTENTIONS),
    )


@BACKBONE_REGISTRY.register()
def build_bfp_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """The backbone named by ``MODEL.LIBRA.BFP.BOTTOM_UP`` in a balanced pyramid, for any meta-architecture."""
    check_compatibility(cfg)
    allowed = sorted(name for name, _ in BACKBONE_REGISTRY if name != "build_bfp_backbone")
    build_bottom_up = BACKBONE_REGISTRY.get(choice(cfg, "MODEL.LIBRA.BFP.BOTTOM_UP", allowed))
    return wrap_in_bfp(cfg, build_bottom_up(cfg, input_shape))
