"""The compiled core beside the pure-torch path, which torch 2.4 to 2.9 have alone, as a Markdown table.

python benchmarks/bm_fallback.py
"""

from unittest import mock

import torch
from bm_match import ROI, RPN, offsets_of, random_boxes, rpn_anchors
from side_by_side import machine, markdown, median_ms

from libra_d2 import ops
from libra_d2.ops import _library, _reference


def pure_torch(run):
    def run_it():
        with mock.patch.object(_library, "ops", _reference):
            return run()

    return run_it


def works() -> dict:
    """What label assignment of two images asks for: anchors and proposals, matched and sampled."""
    generator = torch.Generator().manual_seed(0)
    anchors, gts = rpn_anchors(), [random_boxes(50, generator) for _ in range(2)]
    proposals = [random_boxes(2000, generator) for _ in gts]
    gt_boxes, gt_offsets = torch.cat(gts), offsets_of(gts)
    boxes, box_offsets = torch.cat(proposals), offsets_of(proposals)
    anchor_offsets = torch.arange(3) * len(anchors)
    index, iou, label = (part.flatten() for part in ops.match_boxes(anchors, gt_boxes, None, gt_offsets, *RPN))
    index_, iou_, label_ = ops.match_boxes(boxes, gt_boxes, box_offsets, gt_offsets, *ROI)
    at_random = {"positive": "random", "negative": "random"}
    return {
        "match 2 x anchors": lambda: ops.match_boxes(anchors, gt_boxes, None, gt_offsets, *RPN),
        "sample 2 x anchors": lambda: ops.bucketed_sample(label, iou, index, anchor_offsets, 256, 0.5, **at_random),
        "match 2 x 2,000 proposals": lambda: ops.match_boxes(boxes, gt_boxes, box_offsets, gt_offsets, *ROI),
        "sample 2 x 2,000 proposals": lambda: ops.bucketed_sample(label_, iou_, index_, box_offsets, 512, 0.25),
    }


def main() -> None:
    print(f"{machine()}, ops backend {ops.backend()}\n")
    rows = []
    for name, run in works().items():
        times = median_ms({"core": run, "torch": pure_torch(run)})
        rows.append([name, times["core"], times["torch"], f"{times['torch'] / times['core']:.1f}x"])
    print(markdown(["work, 50 ground truths an image", "core, ms", "pure torch, ms", "ratio"], rows))


if __name__ == "__main__":
    main()
