"""ops.bucketed_sample beside Detectron2's subsample_labels and MMDetection's samplers, as Markdown tables.

python benchmarks/bm_sample.py            # all tables
python benchmarks/bm_sample.py --quick    # one row of each
"""

import argparse
import types

import torch
from detectron2.modeling.sampling import subsample_labels
from mmdet_samplers import load
from side_by_side import machine, markdown, median_ms, peak_mib, weigh

from libra_d2 import ops

POSITIVE_FRACTION = 0.25
POSITIVE_IOU = 0.5
RIVALS = ("ours", "detectron2", "mmdet")


class Batch:
    """Boxes as a matcher leaves them: most IoUs low, some positives, spread over the ground truths."""

    def __init__(self, images: int, rows: int, num_gts: int):
        generator = torch.Generator().manual_seed(num_gts)
        total = images * rows
        self.ious = torch.rand(total, generator=generator).pow_(3)
        self.labels = (self.ious >= POSITIVE_IOU).to(torch.int8)
        self.matched_idx = torch.randint(0, num_gts, (total,), generator=generator)
        self.offsets = torch.arange(images + 1) * rows
        self.images = [slice(n * rows, (n + 1) * rows) for n in range(images)]


def rivals(batch: Batch, num_samples: int, fraction: float, **options) -> dict:
    """The three ways to draw; MMDetection's is `sample` of its BaseSampler without the bookkeeping around it."""
    positive_sampler, negative_sampler = load()
    most = int(num_samples * fraction)
    # A new sampler an image, as its authors do; floor_thr -1 changes the object at its first use.
    mmdet_images = [
        types.SimpleNamespace(
            gt_inds=torch.where(batch.labels[rows] > 0, batch.matched_idx[rows] + 1, 0), max_overlaps=batch.ious[rows]
        )
        for rows in batch.images
    ]

    def ours():
        return ops.bucketed_sample(
            batch.labels, batch.ious, batch.matched_idx, batch.offsets, num_samples, fraction, **options
        )

    def detectron2():
        return [subsample_labels(batch.labels[rows], num_samples, fraction, 0) for rows in batch.images]

    def mmdet():
        drawn = []
        for image in mmdet_images:
            positive = positive_sampler(num_samples, fraction)._sample_pos(image, most).unique()
            wanted = num_samples - positive.numel()
            drawn.append((positive, negative_sampler(num_samples, fraction)._sample_neg(image, wanted).unique()))
        return drawn

    return dict(zip(RIVALS, (ours, detectron2, mmdet), strict=True))


BALANCED = {"positive": "instance_balanced", "negative": "iou_balanced"}
RANDOM = {"positive": "random", "negative": "random"}
HEADER = ["Detectron2 (random)", "MMDetection (balanced)"]


def time_table(counts: list[int]) -> str:
    rows = []
    for num_gts in counts:
        every = rivals(Batch(16, 2000, num_gts), 512, POSITIVE_FRACTION, **BALANCED)
        rows.append(_time_row(f"16 x 2,000 -> 512, balanced, {num_gts:,} ground truths", every))
    for options, name in ((RANDOM, "random"), (BALANCED, "balanced")):
        every = rivals(Batch(2, 268_569, 50), 256, 0.5, **options)
        rows.append(_time_row(f"2 x 268,569 -> 256, {name}, 50 ground truths", every))
    header = ["work", "libra_d2, ms", *(f"{name}, ms" for name in HEADER), "to Detectron2", "to MMDetection"]
    return markdown(header, rows)


def _time_row(name: str, every: dict) -> list[object]:
    times = median_ms(every)
    ratios = [f"{times[rival] / times['ours']:.1f}x" for rival in RIVALS[1:]]
    return [name, *(times[rival] for rival in RIVALS), *ratios]


def memory_table(counts: list[int]) -> str:
    rows = [
        [
            f"16 x 2,000 -> 512, balanced, {num_gts:,} ground truths",
            *(weigh(__file__, rival, num_gts) for rival in RIVALS),
        ]
        for num_gts in counts
    ]
    return markdown(["work", "libra_d2, peak MiB", *(f"{name}, peak MiB" for name in HEADER)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one row of each table")
    parser.add_argument("--weigh", nargs=2, metavar=("RIVAL", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weigh:
        rival, num_gts = args.weigh[0], int(args.weigh[1])
        rivals(Batch(1, 20, 2), 8, POSITIVE_FRACTION, **BALANCED)[rival]()  # what the first call alone allocates
        print(peak_mib(rivals(Batch(16, 2000, num_gts), 512, POSITIVE_FRACTION, **BALANCED)[rival]))
        return
    counts = [50] if args.quick else [10, 50, 500, 5000]
    print(f"{machine()}, ops backend {ops.backend()}\n")
    print(time_table(counts))
    print()
    print(memory_table(counts))


if __name__ == "__main__":
    main()
