"""Online hard example mining, the rival in the paper's table 4."""

import torch

from libra_d2.checks import choice
from libra_d2.modeling.box_predictor import losses_of_each_box
from libra_d2.modeling.box_sampler import BOX_SAMPLER_REGISTRY, Sample
from libra_d2.ops.ragged import image_of_row


@BOX_SAMPLER_REGISTRY.register()
class OHEMSampler:
    """Online hard example mining (Shrivastava et al., CVPR 2016): the boxes with the highest current loss.

    The paper's rival in table 4's setting. Positives and negatives keep Detectron2's quotas; equal losses are taken in
    index order.
    """

    def __init__(self, cfg):
        choice(cfg, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", losses_of_each_box())
        self.num_samples = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        self.num_positive = int(self.num_samples * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)

    def __call__(self, labels, ious, matched_idx, offsets, losses) -> Sample:
        device, num_images = labels.device, len(offsets) - 1
        image = image_of_row(offsets, labels)
        loss = losses()
        row = torch.arange(len(labels), device=device)
        local = row - offsets.to(device, non_blocking=True)[image]

        def hardest(mask, limit):
            """Whether each row is among the ``limit[image]`` rows of ``mask`` with the highest loss in its image."""
            order = torch.argsort(torch.where(mask, loss, -torch.inf), descending=True, stable=True)
            order = order[torch.argsort(image[order], stable=True)]
            rank = torch.empty_like(row).scatter_(0, order, local)
            return mask & (rank < limit[image])

        def count(mask):
            return torch.zeros(num_images, dtype=torch.int64, device=device).index_add_(0, image, mask.long())

        positive = hardest(labels > 0, torch.full((num_images,), self.num_positive, device=device))
        num_positive = count(positive)
        negative = hardest(labels == 0, self.num_samples - num_positive)
        num_negative = count(negative)

        # Ascending within positives, then within negatives; what is not drawn goes to a slot that is cut off.
        slot_of_positive = torch.cumsum(positive, 0) - positive.long()
        slot_of_negative = torch.cumsum(negative, 0) - negative.long()
        first_positive = torch.cumsum(num_positive, 0) - num_positive
        first_negative = torch.cumsum(num_negative, 0) - num_negative - num_positive
        slot = torch.full_like(row, self.num_samples)
        slot = torch.where(positive, slot_of_positive - first_positive[image], slot)
        slot = torch.where(negative, slot_of_negative - first_negative[image], slot)
        indices = torch.full((num_images, self.num_samples + 1), -1, dtype=torch.int64, device=device)
        indices[image, slot] = local
        return indices[:, :-1].contiguous(), num_positive, num_negative
