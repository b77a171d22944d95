"""Online hard example mining, the rival in the paper's table 4."""

import torch

from libra_d2.checks import choice
from libra_d2.modeling.box_predictor import losses_of_each_box
from libra_d2.modeling.box_sampler import BOX_SAMPLER_REGISTRY, Sample
from libra_d2.ops.ragged import image_of_row
from libra_d2.ops.ranking import count_in_image, pack_sample, smallest


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
        image = image_of_row(offsets, labels)
        row = torch.arange(len(labels), device=labels.device)
        by_loss = torch.argsort(losses(), descending=True, stable=True)
        rank = torch.empty_like(row).scatter_(0, by_loss, row)  # 0: the highest loss of the batch
        num_images = len(offsets) - 1

        positive = smallest(image, labels > 0, rank, rank.new_full((num_images,), self.num_positive))
        num_positive = count_in_image(image, positive, num_images)
        negative = smallest(image, labels == 0, rank, self.num_samples - num_positive)
        num_negative = count_in_image(image, negative, num_images)
        local = row - offsets.to(row.device, non_blocking=True)[image]
        indices = pack_sample(image, local, positive, negative, num_positive, self.num_samples)
        return indices, num_positive, num_negative
