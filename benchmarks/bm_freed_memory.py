"""A CPU's memory kept, as our commands do, or given back, beside Detectron2: seconds, and the most that was held.

python benchmarks/bm_freed_memory.py [--turns 3] [--kind "R50-FPN, recommended" quickstart] [--work prediction]
python benchmarks/bm_freed_memory.py --quick    # few small images, to see that it runs

Random weights and sizes: shorter sides of 480 to 800 px as in Detectron2's training, other kinds in proportion; two
images a training step, one a prediction. What malloc was told holds for a process, so each cell is one of its own;
they take turns. Set OMP_NUM_THREADS for the number of threads. Takes a quarter of an hour with two.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import product

import torch
from detectors import CONFIGS, SIZES, build, config, picture, step
from side_by_side import machine, markdown, progress

from libra_d2.engine.freed_memory import keep_freed_memory

WORK = {"training step": 2, "prediction": 1}  # images at once
# (whose model, MODEL.LIBRA.KEEP_FREED_MEMORY)
CELLS = {"kept": ("libra_d2", True), "given back": ("libra_d2", False), "Detectron2": ("Detectron2", False)}
WARM_UP, COUNTED = 2, 8


def measure(kind: str, work: str, cell: str, quick: bool) -> tuple[float, float]:
    """(median seconds, peak of resident memory in MiB), in this process."""
    side, keep = CELLS[cell]
    keep_freed_memory(config("libra_d2", "MODEL.LIBRA.KEEP_FREED_MEMORY", keep, kind=kind))
    model = build(side, kind=kind)
    run = partial(step, model.train()) if work == "training step" else partial(_predict, model.eval())
    rng, seconds = random.Random(1), []
    for _ in range(2 if quick else WARM_UP + COUNTED):
        batch = [_picture(kind, rng, quick) for _ in range(WORK[work])]
        start = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return statistics.median(seconds[1 if quick else WARM_UP :]), peak


def _picture(kind: str, rng: random.Random, quick: bool) -> dict:
    short = round(min(SIZES[kind]) * rng.uniform(0.6, 1.0)) // (4 if quick else 1)
    sides = short, min(round(short * rng.uniform(1.0, 1.6)), short * 5 // 3)
    return picture(8, sides if rng.random() < 0.7 else sides[::-1])


def _predict(model: torch.nn.Module, batch: list[dict]) -> None:
    with torch.no_grad():
        model([{key: value for key, value in image.items() if key != "instances"} for image in batch])


def measured(*cell: str, quick: bool) -> list[float]:
    command = [sys.executable, __file__, "--cell", *cell, *["--quick"][: int(quick)]]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=list(CONFIGS), default=["R50-FPN, recommended", "quickstart"])
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few small images and one turn, to see that it runs")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "WORK", "CELL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(*measure(*args.cell, args.quick))
        return
    print(machine(), "\n")
    rows = []
    for kind, work in product(args.kind, args.work):
        turns = {cell: [] for cell in CELLS}
        for turn in range(1 if args.quick else args.turns):
            progress(f"{kind}, {work}, turn {turn + 1}")
            for cell, found in turns.items():
                found.append(measured(kind, work, cell, quick=args.quick))
        seconds, mib = ([statistics.median(turn[k] for turn in found) for found in turns.values()] for k in (0, 1))
        rows.append([f"{kind}, {work}", *seconds, *(f"{seconds[0] / other:.2f}" for other in seconds[1:]), *mib])
    header = [f"{cell}, s" for cell in CELLS] + [f"kept / {cell}" for cell in list(CELLS)[1:]]
    print(markdown(["work", *header, *(f"{cell}, peak MiB" for cell in CELLS)], rows))


if __name__ == "__main__":
    main()
