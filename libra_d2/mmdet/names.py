"""Names and layouts of Libra R-CNN weights in MMDetection (2.0 and later) and in Detectron2, in both directions.

Every tensor of the architectures below is listed with both names and its shape, so that nothing is overlooked.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import torch

from libra_d2.checks import UserError

__all__ = ["Architecture", "CheckpointError", "batch_counters", "to_detectron2", "to_mmdet"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_CONVS = {"non_local": ("g", "theta", "phi", "conv_out"), "conv": ("conv",), "none": ()}
_ANCHORS = 9  # RetinaNet: 3 sizes x 3 ratios
_COUNTER = ".num_batches_tracked"

WHY_NOT_1X = (
    "1.x counts a pixel more in every width and height and rounds its anchors, so that its weights detect something "
    "else here; take the weights that the model zoo lists for 2.x or 3.x"
)


class CheckpointError(UserError):
    """The weights are not those of an architecture that can be converted; the message says what was found."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model that both sides know: the names and shapes of its weights on each side."""

    meta: str  # "faster_rcnn" or "retinanet"
    depth: int = 50
    groups: int = 1  # 64 with 4 channels each: ResNeXt-101-64x4d
    refine: str = "non_local"
    num_classes: int = 80

    @property
    def config(self) -> str:
        """File name in configs/mmdet_compat/."""
        backbone = "X_101_64x4d" if self.groups > 1 else f"R_{self.depth}"
        return f"libra_{self.meta}_{backbone}_FPN_1x.yaml"

    @property
    def mmdet_config(self) -> str:
        """File name in MMDetection's configs/libra_rcnn/."""
        backbone = "x101-64x4d" if self.groups > 1 else f"r{self.depth}"
        return f"libra-{self.meta.replace('_', '-')}_{backbone}_fpn_1x_coco.py"

    @property
    def opts(self) -> list[str]:
        """Keys and values that the config needs besides its file."""
        opts = []
        if self.num_classes != 80:
            opts += [
                f"MODEL.{'ROI_HEADS' if self.meta == 'faster_rcnn' else 'RETINANET'}.NUM_CLASSES",
                self.num_classes,
            ]
        if self.refine != "non_local":
            opts += ["MODEL.LIBRA.BFP.REFINE_TYPE", self.refine]
        return [str(o) for o in opts]

    def tensors(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(name in MMDetection, name in Detectron2, shape) of every weight, batch counters left out."""
        yield from self._resnet()
        yield from self._neck()
        yield from self._two_stage_heads() if self.meta == "faster_rcnn" else self._retina_head()

    def _resnet(self):
        ours = "backbone.bottom_up.bottom_up."
        yield from _conv_norm("backbone.conv1", "backbone.bn1", f"{ours}stem.conv1", (64, 3, 7, 7))
        before = 64
        for stage, blocks in enumerate(_BLOCKS[self.depth]):
            width = (256 if self.groups > 1 else 64) << stage
            after = 256 << stage
            for block in range(blocks):
                theirs_b, ours_b = f"backbone.layer{stage + 1}.{block}.", f"{ours}res{stage + 2}.{block}."
                shapes = (width, before, 1, 1), (width, width // self.groups, 3, 3), (after, width, 1, 1)
                for i, shape in enumerate(shapes, start=1):
                    yield from _conv_norm(f"{theirs_b}conv{i}", f"{theirs_b}bn{i}", f"{ours_b}conv{i}", shape)
                if block == 0:
                    names = f"{theirs_b}downsample.0", f"{theirs_b}downsample.1", f"{ours_b}shortcut"
                    yield from _conv_norm(*names, (after, before, 1, 1))
                before = after

    def _neck(self):
        ours = "backbone.bottom_up."
        first = 2 if self.meta == "faster_rcnn" else 3
        for i, level in enumerate(range(first, 6)):
            channels = 64 << level
            yield from _layer(f"neck.0.lateral_convs.{i}.conv", f"{ours}fpn_lateral{level}", (256, channels, 1, 1))
            yield from _layer(f"neck.0.fpn_convs.{i}.conv", f"{ours}fpn_output{level}", (256, 256, 3, 3))
        if self.meta == "retinanet":
            yield from _layer("neck.0.fpn_convs.3.conv", f"{ours}top_block.p6", (256, 2048, 3, 3))
            yield from _layer("neck.0.fpn_convs.4.conv", f"{ours}top_block.p7", (256, 256, 3, 3))
        kernel = 3 if self.refine == "conv" else 1
        for name in _CONVS[self.refine]:
            # mmcv's ConvModule holds its convolution as ``conv``; the 3x3 refine is one ConvModule, the non-local four
            theirs = f"neck.1.refine.{name}" + (".conv" if self.refine == "non_local" else "")
            yield from _layer(theirs, f"backbone.refine.{name}", (256, 256, kernel, kernel))

    def _two_stage_heads(self):
        ours = "proposal_generator.rpn_head."
        yield from _layer("rpn_head.rpn_conv", f"{ours}conv", (256, 256, 3, 3))
        yield from _layer("rpn_head.rpn_cls", f"{ours}objectness_logits", (3, 256, 1, 1))
        yield from _layer("rpn_head.rpn_reg", f"{ours}anchor_deltas", (12, 256, 1, 1))
        theirs, ours = "roi_head.bbox_head.", "roi_heads.box_head."
        yield from _layer(f"{theirs}shared_fcs.0", f"{ours}fc1", (1024, 256 * 7 * 7))
        yield from _layer(f"{theirs}shared_fcs.1", f"{ours}fc2", (1024, 1024))
        # the background is the last class on both sides
        ours = "roi_heads.box_predictor."
        yield from _layer(f"{theirs}fc_cls", f"{ours}cls_score", (self.num_classes + 1, 1024))
        yield from _layer(f"{theirs}fc_reg", f"{ours}bbox_pred", (4 * self.num_classes, 1024))

    def _retina_head(self):
        for i in range(4):
            yield from _layer(f"bbox_head.cls_convs.{i}.conv", f"head.cls_subnet.{2 * i}", (256, 256, 3, 3))
            yield from _layer(f"bbox_head.reg_convs.{i}.conv", f"head.bbox_subnet.{2 * i}", (256, 256, 3, 3))
        yield from _layer("bbox_head.retina_cls", "head.cls_score", (_ANCHORS * self.num_classes, 256, 3, 3))
        yield from _layer("bbox_head.retina_reg", "head.bbox_pred", (_ANCHORS * 4, 256, 3, 3))


def _layer(theirs, ours, shape):
    yield f"{theirs}.weight", f"{ours}.weight", shape
    yield f"{theirs}.bias", f"{ours}.bias", shape[:1]


def _conv_norm(conv, norm, ours, shape):
    yield f"{conv}.weight", f"{ours}.weight", shape
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", f"{ours}.norm.{name}", shape[:1]


def _swap_anchor_axes(ours: str, tensor: torch.Tensor) -> torch.Tensor:
    """MMDetection numbers RetinaNet's anchors ratio * 3 + size, Detectron2 size * 3 + ratio. Its own inverse."""
    if not ours.startswith(("head.cls_score.", "head.bbox_pred.")):
        return tensor
    groups = tensor.reshape(3, 3, tensor.shape[0] // _ANCHORS, *tensor.shape[1:])
    return groups.transpose(0, 1).reshape(tensor.shape)


_CLASSIFIERS = {
    "faster_rcnn": ("roi_head.bbox_head.fc_cls.bias", "roi_heads.box_predictor.cls_score.bias"),
    "retinanet": ("bbox_head.retina_cls.bias", "head.cls_score.bias"),
}


def detector_and_classes(tensors: dict[str, torch.Tensor], side: int) -> tuple[str, int]:
    """Which detector ("faster_rcnn" or "retinanet") and how many classes, by MMDetection's (0) or our (1) names."""
    if side == 0 and "bbox_head.fc_cls.weight" in tensors:
        raise CheckpointError(
            "expected weights of MMDetection 2.0 or later, got 1.x (bbox_head.fc_cls, not roi_head.bbox_head.fc_cls): "
            f"{WHY_NOT_1X}"
        )
    found = [meta for meta, names in _CLASSIFIERS.items() if names[side] in tensors]
    if len(found) != 1:
        whose = ("MMDetection's", "Detectron2's")[side]
        names = " or ".join(names[side] for names in _CLASSIFIERS.values())
        raise CheckpointError(
            f"expected the weights of a Libra Faster R-CNN or a Libra RetinaNet under {whose} names ({names}), "
            f"got {_some(tensors)}; other models cannot be converted"
        )
    rows = tensors[_CLASSIFIERS[found[0]][side]].numel()
    return found[0], rows - 1 if found[0] == "faster_rcnn" else rows // _ANCHORS


def _recognise(tensors: dict[str, torch.Tensor], side: int) -> Architecture:
    """The architecture whose names (0: MMDetection's, 1: Detectron2's) and shapes are those of ``tensors``."""
    meta, num_classes = detector_and_classes(tensors, side)
    got = {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}
    candidates = [
        Architecture(meta, depth, groups, refine, num_classes)
        for (depth, groups), refine in itertools.product([(50, 1), (101, 1), (101, 64)], _CONVS)
    ]
    best = min(candidates, key=lambda a: len(got ^ {(names[side], names[2]) for names in a.tensors()}))
    expected = {names[side]: names[2] for names in best.tensors()}
    name = best.config.removesuffix("_1x.yaml")

    if unknown := tensors.keys() - expected.keys():
        raise CheckpointError(
            f"expected the weights of {name} only, got unknown ones: {_some(unknown)}; a model with other parts than "
            "those of configs/libra_rcnn/ cannot be converted"
        )
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(
            f"expected the weights of {name}, but some are missing: {_some(missing)}; take the whole state dict"
        )
    for tensor, shape in expected.items():
        if tuple(tensors[tensor].shape) != shape:
            raise CheckpointError(
                f"{tensor}: expected the shape {list(shape)} of {name} with {num_classes} classes, got "
                f"{list(tensors[tensor].shape)}; take all weights from one training of configs/libra_rcnn/'s model"
            )
    return best


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "no weights"


def batch_counters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How many batches each normalisation had seen: nothing reads it, Detectron2 has no place for it."""
    return {n: t for n, t in tensors.items() if n.endswith(_COUNTER) and _sibling(n, "running_mean") in tensors}


def _sibling(name: str, last: str) -> str:
    return f"{name.rpartition('.')[0]}.{last}"


def to_detectron2(tensors: dict[str, torch.Tensor]) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Renames and rearranges the weights of a Libra model of MMDetection >= 2.0.

    Args:
        tensors: MMDetection's state dict.

    Returns:
        The architecture and the state dict of the Libra model, without :func:`batch_counters`.

    Raises:
        CheckpointError: a weight is unknown, missing or has another shape, or the weights are MMDetection 1.x's.
    """
    if "neck.lateral_convs.0.conv.weight" in tensors:
        raise CheckpointError(
            "expected a Libra model, whose neck is an FPN (neck.0) and a balanced feature pyramid (neck.1), got one "
            "with an FPN alone; other models cannot be converted"
        )
    tensors = {name: tensor for name, tensor in tensors.items() if name not in batch_counters(tensors)}
    architecture = _recognise(tensors, side=0)
    names = {theirs: ours for theirs, ours, _ in architecture.tensors()}
    return architecture, {names[name]: _swap_anchor_axes(names[name], t) for name, t in tensors.items()}


def to_mmdet(
    tensors: dict[str, torch.Tensor], counters: dict[str, torch.Tensor] | None = None
) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """The reverse of :func:`to_detectron2`.

    Args:
        tensors: the state dict of a Libra model.
        counters: what :func:`batch_counters` gave; zeros where MMDetection expects a counter that is not among them.

    Raises:
        CheckpointError: a weight is unknown, missing or has another shape, or the pyramid has a gate other than 1.
    """
    tensors = dict(tensors)
    gate = tensors.pop("backbone.gate", None)
    if gate is not None and float(gate) != 1:
        raise CheckpointError(
            f"backbone.gate: expected no gate, or 1, got {float(gate):.4g}: MMDetection's balanced feature pyramid "
            'cannot scale its residual; train with MODEL.LIBRA.BFP.INIT "xavier" to deploy there'
        )
    for name in [name for name in tensors if name.endswith(f".norm{_COUNTER}")]:
        del tensors[name]
    architecture = _recognise(tensors, side=1)
    converted = {}
    for theirs, ours, _ in architecture.tensors():
        converted[theirs] = _swap_anchor_axes(ours, tensors[ours])
        if theirs.endswith(".running_var"):
            counter = _sibling(theirs, _COUNTER[1:])
            converted[counter] = (counters or {}).get(counter, torch.zeros((), dtype=torch.int64))
    return architecture, converted
