"""Refuses configs whose parts do not go together when the model is built, naming the key and the remedy."""

from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    RetinaNet,
)

from libra_d2.checks import UserError, choice, value_of
from libra_d2.losses.registry import BOX_LOSS_REGISTRY

DETECTRON2_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")


def check_compatibility(cfg) -> None:
    """Refuses combinations that would fail, or silently do nothing, only once training runs.

    Raises:
        UserError: single-level (C4) or rotated heads, or a box loss that the configured head cannot compute.
    """
    _registered(BACKBONE_REGISTRY, cfg, "MODEL.BACKBONE.NAME")
    choice(cfg, "MODEL.RPN.BBOX_REG_LOSS_TYPE", DETECTRON2_BOX_LOSSES)
    meta_arch = _registered(META_ARCH_REGISTRY, cfg, "MODEL.META_ARCHITECTURE")
    if issubclass(meta_arch, RetinaNet):
        key, remedy = "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "MODEL.META_ARCHITECTURE: LibraRetinaNet"
        _refuse_box_loss(cfg, key, meta_arch, remedy)
        _refuse_class_losses(cfg, "RetinaNet has no RoI heads")
    elif issubclass(meta_arch, GeneralizedRCNN):
        for key, name, reason in (
            ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "a C4 model has one feature level, there is nothing to balance"),
            ("MODEL.ROI_HEADS.NAME", "RROIHeads", "rotated boxes are not supported"),
            ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "rotated boxes are not supported"),
        ):
            if value_of(cfg, key) == name:
                raise UserError(f"{key}: expected a head on an axis-aligned feature pyramid, got {name!r}: {reason}")
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            _registered(PROPOSAL_GENERATOR_REGISTRY, cfg, "MODEL.PROPOSAL_GENERATOR.NAME")
        heads = _registered(ROI_HEADS_REGISTRY, cfg, "MODEL.ROI_HEADS.NAME")
        key, remedy = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "MODEL.ROI_HEADS.NAME: LibraROIHeads"
        _refuse_box_loss(cfg, key, heads, remedy)
        if heads.__module__.startswith("detectron2."):
            _refuse_class_losses(cfg, f"{heads.__name__} has Detectron2's own loss: set {remedy}")


def _registered(registry, cfg, key: str):
    return registry.get(choice(cfg, key, sorted(name for name, _ in registry)))


def _refuse_class_losses(cfg, reason: str) -> None:
    """What the RoI heads of libra_d2 alone look at would be ignored without a word."""
    for key, off in (
        ("MODEL.LIBRA.CLASS_LOSS.NAME", "cross_entropy"),
        ("MODEL.LIBRA.CLASS_LOSS.WEIGHTS", []),
        ("MODEL.LIBRA.PISA.ENABLED", False),
    ):
        if value_of(cfg, key) != off:
            raise UserError(f"{key}: expected {off!r}, got {value_of(cfg, key)!r}: {reason}")


def _refuse_box_loss(cfg, key: str, computed_by: type, remedy: str) -> None:
    takes_ours = getattr(computed_by, "takes_box_losses", False)
    if not takes_ours and not computed_by.__module__.startswith("detectron2."):
        return  # a user's own head may have its own losses
    if value_of(cfg, key) in BOX_LOSS_REGISTRY and not takes_ours:
        raise UserError(
            f"{key}: expected one of {list(DETECTRON2_BOX_LOSSES)} with Detectron2's own heads, "
            f"got {value_of(cfg, key)!r}, which needs one of Libra's: set {remedy}"
        )
    choice(cfg, key, (*DETECTRON2_BOX_LOSSES, *BOX_LOSS_REGISTRY))
