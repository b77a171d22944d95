"""A training step of Libra R-CNN beside Detectron2's Faster R-CNN: time, its parts and peak memory, as Markdown tables.

python benchmarks/bm_train_step.py [--objects 8 100 1000] [--size 800 1088] [--turns 5]

R50-FPN with random weights, one image, forward and backward. The sides take turns in one process; the peak of each is
measured in a process of its own, with malloc told to give memory back. Set OMP_NUM_THREADS for the number of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from detectors import SIDES, SIZE, Stopwatch, build, picture
from detectron2.utils.events import EventStorage
from side_by_side import machine, markdown, peak_mib


def step(model, batch: list[dict]) -> float:
    """Forward and backward; returns the seconds of the backward pass."""
    with EventStorage(1):  # a step that logs nothing
        loss = sum(model(batch).values())
    start = time.perf_counter()
    loss.backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds


def times(num_gts: int, size: tuple[int, int], turns: int) -> dict[str, dict[str, float]]:
    """{side: {part: median seconds}}, the whole step among the parts."""
    models = {side: build(side).train() for side in SIDES}
    watches = {side: Stopwatch(model) for side, model in models.items()}
    batch, seen = [picture(num_gts, size)], {side: [] for side in SIDES}
    for _ in range(turns + 1):
        for side, model in models.items():
            start = time.perf_counter()
            backward = step(model, batch)
            whole = time.perf_counter() - start
            seen[side].append({**watches[side].read(), "backward": backward, "step": whole})
    return {
        side: {part: statistics.median(turn[part] for turn in runs[1:]) for part in runs[0]}
        for side, runs in seen.items()
    }


def weigh(side: str, num_gts: int, size: tuple[int, int]) -> str:
    """Peak of the second step in MiB, in a process of its own."""
    command = [sys.executable, __file__, "--weigh", side, "--objects", str(num_gts), "--size", *map(str, size)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return f"{float(done.stdout):,.0f}" if done.returncode == 0 else "did not fit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--weigh", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = tuple(args.size)
    if args.weigh:
        model, batch = build(args.weigh).train(), [picture(args.objects[0], size)]
        step(model, batch)
        print(peak_mib(lambda: step(model, batch)))
        return
    print(machine(), f"{size[0]} x {size[1]} px", sep=", ")
    wholes, parts = [], {}
    for num_gts in args.objects:
        found = times(num_gts, size, args.turns)
        ours, theirs = (found[side]["step"] for side in SIDES)
        memory = [weigh(side, num_gts, size) for side in SIDES]
        wholes.append([f"{num_gts:,}", ours, theirs, f"{ours / theirs:.3f}", *memory])
        for side in SIDES:
            for part, seconds in found[side].items():
                parts.setdefault(part, {})[num_gts, side] = 1e3 * seconds
    columns = ["libra_d2, s", "Detectron2, s", "ratio", "libra_d2, peak MiB", "Detectron2, peak MiB"]
    print(markdown(["objects", *columns], wholes))
    print()
    cells = [(num_gts, side) for num_gts in args.objects for side in SIDES]
    header = ["ms", *(f"{num_gts:,}, {side}" for num_gts, side in cells)]
    print(markdown(header, [[part, *(found.get(cell, "") for cell in cells)] for part, found in parts.items()]))


if __name__ == "__main__":
    main()
