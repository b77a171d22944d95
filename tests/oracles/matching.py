"""Boxes matched one pair at a time, with float32 scalars."""

import numpy as np


def pair_iou(box, gt) -> np.float32:
    """IoU of two XYXY boxes; 0 where a coordinate or the result is not finite."""
    if not np.isfinite([*box, *gt]).all():
        return np.float32(0)
    with np.errstate(all="ignore"):
        width = max(np.minimum(gt[2], box[2]) - np.maximum(gt[0], box[0]), np.float32(0))
        height = max(np.minimum(gt[3], box[3]) - np.maximum(gt[1], box[1]), np.float32(0))
        intersection = width * height
        if not intersection > 0:
            return np.float32(0)
        gt_area = (gt[2] - gt[0]) * (gt[3] - gt[1])
        box_area = (box[2] - box[0]) * (box[3] - box[1])
        iou = intersection / (gt_area + box_area - intersection)
    return np.float32(0) if np.isnan(iou) else iou


def match_image(boxes, gt_boxes, thresholds, labels, allow_low_quality=False):
    """Index, IoU and label of every box of one image; boxes are float32 arrays."""
    ious = [[pair_iou(box, gt) for gt in gt_boxes] for box in boxes]
    matched_idx, matched_iou, matched_label = [], [], []
    for row in ious:
        best = max(row, default=np.float32(0))
        matched_idx.append(row.index(best) if row else 0)
        matched_iou.append(best)
        matched_label.append(labels[sum(best >= np.float32(threshold) for threshold in thresholds)])
    if allow_low_quality:
        for g in range(len(gt_boxes)):
            highest = max((row[g] for row in ious), default=0)
            for i, row in enumerate(ious):
                if row[g] == highest > 0:
                    matched_label[i] = 1
    return matched_idx, matched_iou, matched_label
