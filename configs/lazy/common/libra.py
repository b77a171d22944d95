"""What makes a detector of detectron2.model_zoo's common models Libra's."""

from detectron2.config import LazyCall as L

from libra_d2.losses import balanced_l1_of
from libra_d2.modeling import LibraFastRCNNOutputLayers, LibraRetinaNet, LibraRPN
from libra_d2.modeling.backbone import BalancedFeaturePyramid
from libra_d2.modeling.samplers import BalancedSampler


def add_pyramid(model):
    """Wraps the backbone in the balanced feature pyramid."""
    model.backbone = L(BalancedFeaturePyramid)(bottom_up=model.backbone)


def to_libra_rcnn(model, heads):
    """The paper's: the pyramid, balanced sampling, the balanced L1 loss and the RPN of the authors' recipe.

    Args:
        heads: the class of the RoI heads.
    """
    to_recommended_rcnn(model, heads)
    add_pyramid(model)
    model.proposal_generator.update(normalizer="sampled", post_nms_topk=(2000, 1000))
    model.proposal_generator.sampling.neg_pos_ub = 5.0
    model.roi_heads.box_sampler.update(positive="instance_balanced", negative="iou_balanced")


def to_recommended_rcnn(model, heads):
    """The balanced L1 loss alone, for short trainings and little data.

    Args:
        heads: the class of the RoI heads.
    """
    _freeze_as_yaml(model)
    model.proposal_generator.update(
        _target_=LibraRPN,
        sampling={"positive": "random", "negative": "random", "neg_pos_ub": -1.0},
        normalizer="fixed",
    )
    model.roi_heads.update(
        _target_=heads,
        box_sampler=L(BalancedSampler)(
            num_samples="${..batch_size_per_image}",
            positive_fraction="${..positive_fraction}",
            bin_upper=0.5,
            positive="random",
            negative="random",
        ),
    )
    for predictor in model.roi_heads.get("box_predictors") or [model.roi_heads.box_predictor]:
        predictor.update(_target_=LibraFastRCNNOutputLayers, box_loss=L(balanced_l1_of)())


def to_recommended_retinanet(model):
    """The balanced L1 loss alone."""
    _freeze_as_yaml(model)
    model.update(_target_=LibraRetinaNet, box_loss=L(balanced_l1_of)(beta=0.11))


def without_masks(model):
    for name in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(name)


def _freeze_as_yaml(model):
    """No more of the ResNet is trained than by the yaml configs."""
    model.backbone.bottom_up.freeze_at = 2
