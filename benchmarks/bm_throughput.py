"""Images a second of a short training and of its loader alone, Detectron2 beside libra_d2, as Markdown tables.

python benchmarks/bm_throughput.py [--part training loader] [--workers 0 2 4]
python benchmarks/bm_throughput.py --quick    # small images, few of them

Training is each side's trainer with its hooks and the quickstart's model, from the third step to the last but one: the
last saves a checkpoint. The loader reads files of 480 x 640 pixels as COCO's recipe has it: decoding, resizing to 640
to 800, a flip. Ours seeds every sample by its place in the stream, which a resumed run enters anywhere. Takes about
five minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from detectors import SIDES, SIZES, Data, config, write_data
from detectron2.engine import DefaultTrainer, HookBase
from side_by_side import machine, markdown, progress

from libra_d2.engine import LibraTrainer

TRAINERS = {"libra_d2": LibraTrainer, "Detectron2": DefaultTrainer}
UNCOUNTED = 2  # steps, or batches, during which workers start


class Clock(HookBase):
    """When each step ended."""

    def __init__(self):
        self.ends: list[float] = []

    def after_step(self):
        self.ends.append(time.perf_counter())


def options(workers: int, folder: str) -> list[object]:
    return ["DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", folder, "SOLVER.IMS_PER_BATCH", 2]


def training(size: tuple[int, int], data: Data, steps: int, side: str, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        opts = [*options(workers, folder), "SOLVER.MAX_ITER", UNCOUNTED + steps + 1, "SOLVER.STEPS", ()]
        opts += ["DATASETS.TEST", (), "INPUT.MIN_SIZE_TRAIN", (min(size),), "SOLVER.BASE_LR", 1e-5]
        if side == "libra_d2":  # what Detectron2's trainer has no key for
            opts += ["INPUT.VERTICAL_FLIP", False, "INPUT.COLOR_AUG", 0.0, "SOLVER.OPTIMIZER", "SGD"]
        cfg = config(side, *opts, kind="quickstart", data=data)
        trainer = TRAINERS[side](cfg)
        clock = Clock()
        trainer.register_hooks([clock])
        trainer.train()
    return cfg.SOLVER.IMS_PER_BATCH * steps / (clock.ends[-2] - clock.ends[UNCOUNTED - 1])


def loading(sizes: tuple[int, ...], data: Data, batches: int, side: str, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        cfg = config(side, *options(workers, folder), "INPUT.MIN_SIZE_TRAIN", sizes, data=data)
        stream = iter(TRAINERS[side].build_train_loader(cfg))
        for _ in range(UNCOUNTED):
            next(stream)
        start = time.perf_counter()
        count = sum(len(batch) for batch in itertools.islice(stream, batches))
        return count / (time.perf_counter() - start)


def table(what: str, workers: list[int], rounds: int, measure) -> str:
    """The median over rounds, in which the sides take turns."""
    rows = []
    for number in workers:
        rates = {side: [] for side in SIDES}
        for turn in range(rounds):
            progress(f"{what}, {number} workers, round {turn + 1} of {rounds}")
            for side in SIDES:
                rates[side].append(measure(side, number))
        ours, theirs = (statistics.median(rates[side]) for side in SIDES)
        rows.append([number, ours, theirs, f"{ours / theirs:.2f}"])
    return markdown([f"{what}, workers", *(f"{side}, images/s" for side in SIDES), "ratio"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["training", "loader"], default=["training", "loader"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--steps", type=int, default=20, help="of a training that are timed (%(default)d)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (%(default)d)")
    parser.add_argument("--quick", action="store_true", help="small images and one round, to see that it runs")
    args = parser.parse_args()
    size, steps, rounds = ((96, 128), 6, 1) if args.quick else (SIZES["quickstart"], args.steps, args.rounds)
    photograph, sizes = ((48, 64), (64, 80)) if args.quick else ((480, 640), (640, 672, 704, 736, 768, 800))
    print(machine(), "\n")
    with tempfile.TemporaryDirectory() as folder:
        if "training" in args.part:
            data = write_data(Path(folder, "training"), 32, size, 1)
            measure = functools.partial(training, size, data, steps)
            print(table("training", args.workers, rounds, measure), "\n")
        if "loader" in args.part:
            data = write_data(Path(folder, "photographs"), 32, photograph, 80)
            batches = 4 if args.quick else 100
            measure = functools.partial(loading, sizes, data, batches)
            print(table("loader", args.workers, rounds, measure))


if __name__ == "__main__":
    main()
