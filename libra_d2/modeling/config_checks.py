"""Wrong config values are named when the model is built, with the key and what is allowed."""

from collections.abc import Iterable
from functools import reduce

from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    RetinaNet,
)

BALANCED_L1 = "balanced_l1"
DETECTRON2_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")


def value_of(cfg, key: str):
    """The value behind a dotted key, such as "MODEL.LIBRA.SAMPLER.NAME"."""
    return reduce(getattr, key.split("."), cfg)


def choice(cfg, key: str, allowed: Iterable[str]) -> str:
    """The value of ``key``.

    Raises:
        ValueError: it is not one of ``allowed``.
    """
    value, allowed = value_of(cfg, key), list(allowed)
    if value not in allowed:
        raise ValueError(f"{key}: expected one of {allowed}, got {value!r}")
    return value


def number(cfg, key: str, expected: str, is_allowed) -> float:
    """The value of ``key``.

    Raises:
        ValueError: ``is_allowed`` of it is false; ``expected`` says in words what would be true.
    """
    value = value_of(cfg, key)
    if not is_allowed(value):
        raise ValueError(f"{key}: expected {expected}, got {value!r}")
    return value


def refuse_unusable_parts(cfg) -> None:
    """Refuses combinations that would fail, or silently do nothing, only once training runs.

    Raises:
        ValueError: single-level (C4) or rotated heads, or a box loss that the configured head cannot compute.
    """
    _registered(BACKBONE_REGISTRY, cfg, "MODEL.BACKBONE.NAME")
    choice(cfg, "MODEL.RPN.BBOX_REG_LOSS_TYPE", DETECTRON2_BOX_LOSSES)
    meta_arch = _registered(META_ARCH_REGISTRY, cfg, "MODEL.META_ARCHITECTURE")
    if issubclass(meta_arch, RetinaNet):
        key, remedy = "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "MODEL.META_ARCHITECTURE: LibraRetinaNet"
        _refuse_box_loss(cfg, key, meta_arch, remedy)
    elif issubclass(meta_arch, GeneralizedRCNN):
        for key, name, reason in (
            ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "a C4 model has one feature level, there is nothing to balance"),
            ("MODEL.ROI_HEADS.NAME", "RROIHeads", "rotated boxes are not supported"),
            ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "rotated boxes are not supported"),
        ):
            if value_of(cfg, key) == name:
                raise ValueError(f"{key}: expected a head on an axis-aligned feature pyramid, got {name!r}: {reason}")
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            _registered(PROPOSAL_GENERATOR_REGISTRY, cfg, "MODEL.PROPOSAL_GENERATOR.NAME")
        heads = _registered(ROI_HEADS_REGISTRY, cfg, "MODEL.ROI_HEADS.NAME")
        key, remedy = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "MODEL.ROI_HEADS.NAME: LibraROIHeads"
        _refuse_box_loss(cfg, key, heads, remedy)


def _registered(registry, cfg, key: str):
    return registry.get(choice(cfg, key, sorted(name for name, _ in registry)))


def _refuse_box_loss(cfg, key: str, computed_by: type, remedy: str) -> None:
    can_balance = getattr(computed_by, "has_balanced_l1", False)
    if not can_balance and not computed_by.__module__.startswith("detectron2."):
        return  # somebody's own head may have losses of its own
    if value_of(cfg, key) == BALANCED_L1 and not can_balance:
        raise ValueError(
            f"{key}: expected one of {list(DETECTRON2_BOX_LOSSES)} with Detectron2's own heads, got {BALANCED_L1!r}, "
            f"which needs one of Libra's: set {remedy}"
        )
    choice(cfg, key, (*DETECTRON2_BOX_LOSSES, BALANCED_L1))
