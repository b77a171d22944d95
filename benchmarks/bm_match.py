"""ops.match_boxes beside Detectron2's pairwise_iou + Matcher: time and memory, as Markdown tables.

python benchmarks/bm_match.py            # all tables
python benchmarks/bm_match.py --quick    # one row of each
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from side_by_side import machine, markdown, median_ms, peak_mib, weigh

from libra_d2 import ops

HEIGHT, WIDTH = 800, 1344
STRIDES = (4, 8, 16, 32, 64)
RPN = ([0.3, 0.7], [0, -1, 1], True)
ROI = ([0.5], [0, 1], False)


def rpn_anchors() -> torch.Tensor:
    """The anchors of an FPN at 800 x 1344."""
    generator = DefaultAnchorGenerator(
        sizes=[[8 * stride] for stride in STRIDES], aspect_ratios=[[0.5, 1.0, 2.0]], strides=list(STRIDES)
    )
    levels = [torch.empty(1, 1, -(-HEIGHT // stride), -(-WIDTH // stride)) for stride in STRIDES]
    return Boxes.cat(generator(levels)).tensor


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes of 12 to 400 pixels, uniform in the logarithm of their size, anywhere in the image."""
    size = 12 * torch.exp(torch.rand(count, 2, generator=generator) * 3.5)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    boxes[:, 0::2].clamp_(0, WIDTH)
    boxes[:, 1::2].clamp_(0, HEIGHT)
    return boxes


def detectron2_match(images, gts, thresholds, labels, allow_low_quality):
    """What RPN.label_and_sample_anchors and ROIHeads.label_and_sample_proposals do for each image."""
    matcher = Matcher(thresholds, labels, allow_low_quality)
    return [matcher(pairwise_iou(Boxes(gt), Boxes(boxes))) for boxes, gt in zip(images, gts, strict=True)]


def offsets_of(parts) -> torch.Tensor:
    return torch.tensor([0, *map(len, parts)]).cumsum(0)


def anchor_case(num_gts: int):
    anchors, gts = rpn_anchors(), random_boxes(num_gts, torch.Generator().manual_seed(num_gts))
    gt_offsets = offsets_of([gts])
    return (
        lambda: ops.match_boxes(anchors, gts, None, gt_offsets, *RPN),
        lambda: detectron2_match([anchors], [gts], *RPN),
    )


def proposal_case(images: int, rows: int, num_gts: int):
    generator = torch.Generator().manual_seed(num_gts)
    boxes = [random_boxes(rows, generator) for _ in range(images)]
    gts = [random_boxes(num_gts, generator) for _ in range(images)]
    packed = (torch.cat(boxes), torch.cat(gts), offsets_of(boxes), offsets_of(gts))
    return lambda: ops.match_boxes(*packed, *ROI), lambda: detectron2_match(boxes, gts, *ROI)


def detectron2_gib(rows: int, num_gts: int) -> float:
    """Three temporaries of [G, R, 2] float32 are alive at once in pairwise_iou."""
    return 6 * 4 * rows * num_gts / 2**30


def available_gib() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def time_row(name: str, case, rows: int, num_gts: int) -> list[object]:
    ours, theirs = case
    if detectron2_gib(rows, num_gts) > 0.6 * available_gib():
        return [name, median_ms({"ours": ours})["ours"], "does not fit", ""]
    times = median_ms({"ours": ours, "theirs": theirs})
    return [name, times["ours"], times["theirs"], f"{times['theirs'] / times['ours']:.0f}x"]


def time_table(counts: list[int], proposal_counts: list[int]) -> str:
    anchors = len(rpn_anchors())
    rows = [time_row(f"{anchors:,} shared anchors x {g:,}", anchor_case(g), anchors, g) for g in counts]
    for g in proposal_counts:
        rows.append(time_row(f"16 images x 2,000 proposals x {g:,}", proposal_case(16, 2000, g), 2000, g))
    return markdown(["work", "libra_d2, ms", "Detectron2, ms", "ratio"], rows)


def memory_table(counts: list[int]) -> str:
    """Each cell in a process of its own: what an allocator keeps would hide the next peak."""
    anchors = len(rpn_anchors())
    rows = []
    for num_gts in counts:
        fits = detectron2_gib(anchors, num_gts) < 0.6 * available_gib()
        theirs = weigh(__file__, "theirs", num_gts) if fits else "does not fit"
        rows.append([f"{anchors:,} shared anchors x {num_gts:,}", weigh(__file__, "ours", num_gts), theirs])
    return markdown(["work", "libra_d2, peak MiB", "Detectron2, peak MiB"], rows)


def one_thread_table(counts: list[int]) -> str:
    """Against the plain loop of plain_loop.cpp; the boxes in random order leave nothing to skip."""
    plain = _compile_plain_loop()
    anchors = rpn_anchors()
    generator = torch.Generator().manual_seed(0)
    anywhere = random_boxes(len(anchors), generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for num_gts in counts:
        gts = random_boxes(num_gts, generator)
        gt_offsets = offsets_of([gts])
        for name, boxes in (("anchors", anchors), ("boxes in random order", anywhere)):
            times = median_ms(
                {
                    "ours": lambda boxes=boxes, gts=gts, o=gt_offsets: ops.match_boxes(boxes, gts, None, o, *RPN),
                    "rows": lambda boxes=boxes, gts=gts, o=gt_offsets: ops.match_boxes(boxes, gts, None, o, *ROI),
                    "plain": plain(boxes, gts),
                }
            )
            rate = {key: len(boxes) * num_gts / ms / 1e6 for key, ms in times.items()}
            cells = [rate["ours"], rate["rows"], rate["plain"], f"{100 * rate['ours'] / rate['plain']:.0f} %"]
            rows.append([f"{len(boxes):,} {name} x {num_gts}", *cells])
    torch.set_num_threads(threads)
    header = ["one thread, G IoU/s", "libra_d2, RPN labels", "libra_d2, RoI labels", "plain loop", "RPN / plain"]
    return markdown(header, rows)


def _compile_plain_loop():
    folder = tempfile.mkdtemp()
    source, library = Path(__file__).with_name("plain_loop.cpp"), Path(folder) / "plain_loop.so"
    compiler = os.environ.get("CXX", "c++")
    flags = ["-O3", "-march=native", "-ffast-math", "-fPIC"]
    # Linked without -ffast-math, which would switch this whole process to flushing denormals.
    subprocess.run([compiler, *flags, "-c", source, "-o", f"{folder}/plain_loop.o"], check=True)
    subprocess.run([compiler, "-shared", f"{folder}/plain_loop.o", "-o", library], check=True)
    function = ctypes.CDLL(str(library)).plain_match

    def prepare(boxes: torch.Tensor, gts: torch.Tensor):
        x1, y1, x2, y2 = (column.contiguous() for column in boxes.unbind(1))
        area = (x2 - x1) * (y2 - y1)
        best, index = torch.empty_like(area), torch.empty_like(area, dtype=torch.int32)
        column_max = gts.new_empty(len(gts))

        def pointer(tensor):
            return ctypes.c_void_p(tensor.data_ptr())

        def run():
            function(
                *map(pointer, (x1, y1, x2, y2, area)),
                ctypes.c_int64(len(boxes)),
                pointer(gts),
                ctypes.c_int64(len(gts)),
                *map(pointer, (best, index, column_max)),
            )
            return best

        return run

    return prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one row of each table")
    parser.add_argument("--weigh", nargs=2, metavar=("RIVAL", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weigh:
        ours, theirs = anchor_case(int(args.weigh[1]))
        proposal_case(1, 10, 1)[0 if args.weigh[0] == "ours" else 1]()  # what the first call alone allocates
        print(peak_mib(ours if args.weigh[0] == "ours" else theirs))
        return
    print(f"{machine()}, ops backend {ops.backend()}\n")
    print(time_table([50] if args.quick else [7, 50, 300, 1000, 2000, 5000], [50] if args.quick else [7, 50, 300]))
    print()
    print(memory_table([50] if args.quick else [50, 300, 2000, 5000]))
    print()
    print(one_thread_table([50] if args.quick else [7, 50, 300]))


if __name__ == "__main__":
    main()
