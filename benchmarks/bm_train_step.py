"""A training step of Libra R-CNN beside Detectron2's Faster R-CNN: time, its parts and peak memory, as Markdown tables.

python benchmarks/bm_train_step.py [--objects 8 100 1000] [--size 800 1088] [--turns 3]
python benchmarks/bm_train_step.py --objects 8 100 1000 3000 5000 --turns 2 --draw docs/images/step.png
python benchmarks/bm_train_step.py --kind "R50-FPN, recommended"
python benchmarks/bm_train_step.py --device cuda --amp --images 2 --turns 30

A model of --kind with random weights, forward and backward; --images is the batch. The sides take turns in one process.
The peak of each is measured in a process of its own, with malloc told to give memory back, or is what torch holds of a
GPU's. Set OMP_NUM_THREADS for the number of threads. --draw leaves a picture of time and memory over the objects.
Takes two to five minutes for each number and turn.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from detectors import CONFIGS, SIDES, SIZES, build, by_parts, on_gpu, picture, step
from side_by_side import cuda_peak_mib, machine, markdown, peak_mib, progress

from libra_d2.visualize.style import BLUE, ORANGE, new_figure, save, styled


def peak_of_second_step(side: str, num_gts: int, args: argparse.Namespace) -> float:
    """In MiB."""
    model = build(side, "MODEL.DEVICE", args.device, kind=args.kind).train()
    batch = [picture(num_gts, args.size)] * args.images
    step(model, batch, args.amp)
    return (cuda_peak_mib if on_gpu(model) else peak_mib)(lambda: step(model, batch, args.amp))


def weigh(side: str, num_gts: int, args: argparse.Namespace) -> float | None:
    """That peak; None where it does not fit."""
    if args.device != "cpu":
        try:
            return peak_of_second_step(side, num_gts, args)
        except torch.OutOfMemoryError:
            return None
    command = [sys.executable, __file__, *sys.argv[1:], "--weigh", side, "--objects", str(num_gts)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, -signal.SIGKILL) and "can't allocate memory" not in done.stderr:
        raise RuntimeError(done.stderr)
    return float(done.stdout) if done.returncode == 0 else None


@styled
def draw(file: Path, num_gts: list[int], seconds: dict[str, list], mib: dict[str, list]) -> None:
    """Two panels over the number of objects: seconds of a step, and GiB of its peak; None where it did not fit."""
    figure, (times, peaks) = new_figure(2, 9.0, 3.6)
    for side, color in zip(SIDES, (BLUE, ORANGE), strict=True):
        for axes, values, unit in ((times, seconds[side], 1), (peaks, mib[side], 1024)):
            values = [math.nan if value is None else value / unit for value in values]
            axes.plot(num_gts, values, "o-", color=color, linewidth=2, markersize=5, label=side)
    for axes, title in ((times, "Seconds of a training step"), (peaks, "Peak of its memory, GiB")):
        axes.set(xscale="log", xlabel="objects in the image", xticks=num_gts)
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
        axes.set_title(title)
    times.legend()
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--kind", choices=list(CONFIGS), default="R50-FPN")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="a PNG to write")
    parser.add_argument("--weigh", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = tuple(args.size or SIZES[args.kind])
    if args.weigh:
        print(peak_of_second_step(args.weigh, args.objects[0], args))
        return
    height, width = args.size
    setting = f"{args.images} x {height} x {width} px{', mixed precision' * args.amp}"
    print(machine(args.device), args.kind, setting, sep=", ")
    wholes, parts = [], {}
    seconds, mib = ({side: [] for side in SIDES} for _ in range(2))
    for num_gts in args.objects:
        progress(f"{num_gts:,} objects: memory")
        weights = {side: weigh(side, num_gts, args) for side in SIDES}
        progress(f"{num_gts:,} objects: time")
        fitting = [side for side in SIDES if weights[side] is not None]
        models = {side: build(side, "MODEL.DEVICE", args.device, kind=args.kind).train() for side in fitting}
        batch = [picture(num_gts, args.size)] * args.images
        found = by_parts(models, lambda model, batch=batch: step(model, batch, args.amp), args.turns)
        del models
        for side in SIDES:
            mib[side].append(weights[side])
            seconds[side].append(found[side]["whole"] if side in found else None)
        for side, of_parts in found.items():
            for part, value in of_parts.items():
                parts.setdefault(part, {})[num_gts, side] = 1e3 * value
        cells = [seconds[side][-1] for side in SIDES] + [mib[side][-1] for side in SIDES]
        ratio = "" if None in cells else f"{cells[0] / cells[1]:.3f}"
        cells = ["did not fit" if cell is None else cell for cell in cells]
        wholes.append([f"{num_gts:,}", *cells[:2], ratio, *cells[2:]])
    columns = ["libra_d2, s", "Detectron2, s", "ratio", "libra_d2, peak MiB", "Detectron2, peak MiB"]
    print(markdown(["objects", *columns], wholes))
    print()
    cells = [(num_gts, side) for num_gts in args.objects for side in SIDES]
    header = ["ms", *(f"{num_gts:,}, {side}" for num_gts, side in cells)]
    print(markdown(header, [[part, *(found.get(cell, "") for cell in cells)] for part, found in parts.items()]))
    if args.draw:
        draw(args.draw, args.objects, seconds, mib)


if __name__ == "__main__":
    main()
