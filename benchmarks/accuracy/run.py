"""Trains what is missing in results.csv, one thread a job; can be stopped and started again at any moment.

    python benchmarks/accuracy/run.py --data DIR [--workers 2] [--minutes 90] [--only facemask imagenet seed1 ...]

--data has coco_person/, facemask/ and deeppcb/ below it (README.md says where to get them). --what chooses between the
test seeds, single changes on the search seeds, many of them at once (the screens of screens.py), the search, and
the long training of the second protocol's detector.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import folds
import jobs
import screens
from arms import PARTS
from jobs import OUTPUT, Job
from results import METRICS, Result, append, read, remaining
from sets import ROOT, SETS, TILES

LISTS = {
    "test": jobs.final_jobs,
    "causes": jobs.cause_jobs,
    **{name: functools.partial(jobs.screen_jobs, screen=name) for name in screens.SCREENS},
    "search": jobs.search_jobs,
}
lock = threading.Lock()
children: set[subprocess.Popen] = set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the data sets; the trees do without")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no job later than this")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="sets, protocols, arms, seedN")
    parser.add_argument("--what", default="test", choices=[*LISTS, "detector"])
    parser.add_argument(
        "--cell", nargs=2, metavar=("RATE", "ITERATIONS"), help="instead of the protocol's; not for the search"
    )
    parser.add_argument("--checkpoint-period", type=int, metavar="N", help="keep every Nth model, for measure.py")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    if args.what == "detector":
        prepare({jobs.DETECTOR_SET}, args.data)
        return train_detector(args.data)
    listed = LISTS[args.what]
    if args.cell:
        if args.what == "search":
            raise SystemExit("--cell: expected another list than --what search, which has cells of its own")
        listed = functools.partial(listed, cell=jobs.cell_of(args.cell))
    todo = [job for protocol in jobs.PROTOCOLS for job in listed(protocol)]
    todo = list(remaining(jobs.only(todo, args.only), read()))
    ready = [job for job in todo if jobs.DETECTOR.exists() or not jobs.PROTOCOLS[job.protocol].weights]
    if len(ready) < len(todo):
        print(f"{jobs.DETECTOR}: not there yet, so its protocols have to wait; --what detector trains it", flush=True)
    todo = ready
    prepare({job.set for job in todo}, args.data)
    with ThreadPoolExecutor(args.workers) as pool:
        for running in [pool.submit(train_one, job, args.data, deadline, args.checkpoint_period) for job in todo]:
            running.result()


def stop(number, frame) -> None:
    """Ends at once, and the runs with it; what has no line in results.csv starts again next time."""
    for child in list(children):
        child.terminate()
    os._exit(128 + number)


def prepare(names: set[str], data: Path | None) -> None:
    """Checks the sets, fetches the ImageNet weights, and cuts the trees, where that is not done yet."""
    for name in sorted(names):
        SETS[name].check(data)
    subprocess.run([sys.executable, "tools/prepare_quickstart.py"], cwd=ROOT, check=True)
    if any(SETS[name].group == "trees" for name in names):
        folds.write(TILES)


def train_one(job: Job, data: Path | None, deadline: float, period: int | None) -> None:
    """Runs a job and appends its result."""
    if time.monotonic() > deadline:
        return
    start = time.monotonic()
    output = OUTPUT / job.name
    train([*command(job, data), *(["SOLVER.CHECKPOINT_PERIOD", str(period)] if period else [])], output)
    seconds = round(time.monotonic() - start)
    found = measured(output / "metrics.json")
    result = Result(**vars(job), **found, seconds=seconds, date=f"{date.today()}", device=gpu())
    with lock:
        append(result)
        print(f"{job.name}: AP {result.AP}, {seconds} s", flush=True)
    if not period:
        (output / "model_final.pth").unlink()


def train_detector(data: Path | None) -> None:
    """Resumes by itself; a detector that is finished is left alone."""
    if jobs.DETECTOR.exists():
        return
    rate, iterations = jobs.DETECTOR_CELL
    opts = [*PARTS["detectron2"], "SOLVER.BASE_LR", str(rate), "SOLVER.MAX_ITER", str(iterations)]
    opts += ["SEED", str(jobs.DETECTOR_SEED), "SOLVER.CHECKPOINT_PERIOD", "500"]
    dataset = SETS[jobs.DETECTOR_SET]
    train(
        ["train_net.py", "--resume", "--config-file", str(dataset.recipe), *dataset.files(data), *opts],
        jobs.DETECTOR.parent,
        resume=True,
    )


def train(arguments: Sequence[str], output: Path, resume: bool = False) -> None:
    """One training in a process of its own, its output in output.txt."""
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        (output / "metrics.json").unlink(missing_ok=True)
    with (output / "output.txt").open("a" if resume else "w") as log:
        child = subprocess.Popen(
            [sys.executable, *arguments, "OUTPUT_DIR", str(output)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        children.add(child)
        code = child.wait()
        children.discard(child)
    if code:
        raise SystemExit(f"{output.name}: train_net.py ended with {code}, expected 0; see {output / 'output.txt'}")


@functools.cache
def gpu() -> str:
    """The name of what train_net.py trains on where there is a GPU; empty where it takes the CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def measured(path: Path) -> dict[str, object]:
    """The last evaluation in a metrics.json."""
    lines = [line for line in map(json.loads, path.read_text().splitlines()) if "bbox/AP" in line]
    if not lines:
        raise SystemExit(f"{path}: expected an evaluation, got none; see output.txt beside it")
    last = lines[-1]
    classes = [f"{value:.2f}" for key, value in last.items() if key.startswith("bbox/AP-")]
    return {name: round(last[f"bbox/{name}"], 2) for name in METRICS} | {"classes": " ".join(classes)}


def command(job: Job, data: Path | None) -> list[str]:
    """train_net.py and its arguments, all but the output folder."""
    dataset = SETS[job.set]
    return ["train_net.py", "--config-file", str(dataset.recipe), *dataset.files(data), *job.opts()]


if __name__ == "__main__":
    main()
