"""What a RoI head trains on, recorded while it runs over data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from libra_d2 import ops
from libra_d2.checks import UserError


@dataclass(frozen=True)
class Record:
    """The training boxes of some images, on the CPU.

    Attributes:
        negatives: float32 [R], the IoU of every negative proposal with its best ground truth.
        random: float32, the IoUs of negatives picked at random.
        balanced: float32, the IoUs of negatives picked by IoU-balanced sampling.
        errors: float32 [P, 4], |predicted - target| box deltas of the sampled positives, in the units of the loss.
        bins: the edges of the IoU intervals, ``num_bins + 1`` of them.
        num_images: how many images it took.
    """

    negatives: Tensor
    random: Tensor
    balanced: Tensor
    errors: Tensor
    bins: list[float]
    num_images: int


@torch.no_grad()
def record_training_boxes(model: nn.Module, batches: Iterable[list[dict]], sampling: dict, seed: int = 0) -> Record:
    """Runs a Libra R-CNN over batches as in training, without training it.

    Args:
        model: a GeneralizedRCNN whose RoI head is LibraROIHeads or LibraCascadeROIHeads (the first stage is looked at).
        batches: lists of Detectron2's training samples, with annotations, and with proposals where the model has no
            proposal generator.
        sampling: keyword arguments of :func:`libra_d2.ops.bucketed_sample`; both ways of picking differ in ``negative``
            alone.
        seed: of all picks.

    Raises:
        UserError: the model has no such RoI head, or there is no batch.
    """
    heads = getattr(model, "roi_heads", None)
    if not hasattr(heads, "box_sampler"):
        raise UserError(
            f"expected a model with LibraROIHeads or LibraCascadeROIHeads, got {type(heads or model).__name__}: "
            "RetinaNet and Detectron2's own heads do not sample boxes in a way that can be looked at"
        )
    spy = _Spy(sampling, seed)
    errors, num_images, was_training = [], 0, model.training
    sampler, heads.box_sampler = heads.box_sampler, spy
    try:
        model.train()
        with EventStorage():
            for batch in batches:
                errors.append(_regression_errors(model, batch))
                num_images += len(batch)
    finally:
        heads.box_sampler = sampler
        model.train(was_training)
    if not num_images:
        raise UserError("expected at least one batch of annotated images, got none")

    picked = {name: torch.cat(ious) for name, ious in spy.ious.items()}
    upper = sampling["bin_upper"]
    if isinstance(upper, str):  # differs between images
        upper = float(picked["negatives"].max()) if len(picked["negatives"]) else 1.0
    lower = max(sampling["floor_thr"], 0.0)
    bins = torch.linspace(lower, upper, sampling["num_bins"] + 1).tolist()
    return Record(**picked, errors=torch.cat(errors), bins=bins, num_images=num_images)


class _Spy:
    """A box sampler that records which negatives both ways of picking take, and returns the balanced ones."""

    def __init__(self, sampling: dict, seed: int):
        self.sampling = sampling
        self.seed = seed
        self.ious: dict[str, list[Tensor]] = {"negatives": [], "random": [], "balanced": []}

    def __call__(self, labels, ious, matched_idx, offsets, losses):
        self.ious["negatives"].append(ious[labels == 0].cpu())
        for name, negative in (("random", "random"), ("balanced", "iou_balanced")):
            options = {**self.sampling, "negative": negative}
            seed = torch.tensor(self.seed, device=labels.device)
            picked = ops.bucketed_sample(labels, ious, matched_idx, offsets, **options, seed=seed)
            indices, num_positive, _ = picked
            rank = torch.arange(indices.shape[1], device=indices.device)
            is_negative = (rank >= num_positive[:, None]) & (indices >= 0)
            rows = indices + offsets[:-1].to(indices.device)[:, None]
            self.ious[name].append(ious[rows[is_negative]].cpu())
        self.seed += 1
        return picked


def _regression_errors(model: nn.Module, batch: list[dict]) -> Tensor:
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    targets = [sample["instances"].to(model.device) for sample in batch]
    if model.proposal_generator is None:  # Fast R-CNN
        proposals = [sample["proposals"].to(model.device) for sample in batch]
    else:
        proposals, _ = model.proposal_generator(images, features, targets)
    heads = model.roi_heads
    proposals = heads.label_and_sample_proposals(proposals, targets)
    box_head, box_predictor = heads.first_stage()
    boxes = [p.proposal_boxes for p in proposals]
    predictions = box_predictor(box_head(heads.box_pooler([features[f] for f in heads.box_in_features], boxes)))
    gt_boxes = [p.gt_boxes if p.has("gt_boxes") else Boxes(p.proposal_boxes.tensor) for p in proposals]
    return box_predictor.regression_errors(
        predictions,
        Boxes.cat(boxes).tensor,
        Boxes.cat(gt_boxes).tensor,
        torch.cat([p.gt_classes for p in proposals]),
    ).cpu()
