"""Trains what is missing in results.csv, several jobs at a time; can be stopped and started again at any moment.

    python benchmarks/ablation/run.py [--workers 2] [--minutes 90]

Each job is one thread of one train_net.py. First the search for a learning rate and a length, then the baseline twice
as long, every part, the baseline where Libra trains, the variants of Libra, and balanced picks of few boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import experiment
import folds
from experiment import Job, Result
from folds import ROOT

DATA = ROOT / ".cache" / "ablation"
OUTPUT = ROOT / "output" / "ablation"
# One thread, and memory that glibc keeps instead of returning it to the system in every iteration: 8 % faster
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
lock = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no job later than this")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes

    prepare()
    if not train(experiment.search_jobs(), args.workers, deadline):
        return
    results = experiment.read()
    follow = (
        experiment.doubled_jobs,
        experiment.final_jobs,
        experiment.control_jobs,
        experiment.variant_jobs,
        experiment.few_jobs,
    )
    train([job for jobs in follow for job in jobs(results)], args.workers, deadline)


def prepare() -> None:
    """Fetches the photographs and the ImageNet weights, and cuts the folds, where that is not done yet."""
    subprocess.run([sys.executable, "tools/prepare_quickstart.py"], cwd=ROOT, check=True)
    folds.write(DATA)


def train(jobs: Iterable[Job], workers: int, deadline: float) -> bool:
    """Runs the jobs that have no result; says whether all of them have one in the end."""
    todo = list(experiment.remaining(jobs, experiment.read()))
    with ThreadPoolExecutor(workers) as pool:
        for running in [pool.submit(train_one, job, deadline) for job in todo]:
            running.result()
    return not any(experiment.remaining(todo, experiment.read()))


def train_one(job: Job, deadline: float) -> None:
    if time.monotonic() > deadline:
        return
    start = time.monotonic()
    output = OUTPUT / job.name
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").unlink(missing_ok=True)
    with (output / "output.txt").open("w") as log:
        code = subprocess.run(
            [sys.executable, *command(job), "OUTPUT_DIR", str(output)],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdout=log,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        raise SystemExit(f"{job.name}: train_net.py failed, see {output / 'output.txt'}")
    metrics = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    result = Result(**vars(job), **{name: round(metrics[f"bbox/{name}"], 2) for name in ("AP", "AP50", "AP75")})
    with lock:
        experiment.append(result)
        print(f"{job.name}: AP {result.AP}, {time.monotonic() - start:.0f} s", flush=True)
    (output / "model_final.pth").unlink()


def command(job: Job) -> list[str]:
    half = DATA / f"fold{job.fold}"
    data = ["--train-json", f"{half}_train.json", "--train-images", f"{half}_train"]
    data += ["--val-json", f"{half}_val.json", "--val-images", f"{half}_val"]
    return ["train_net.py", "--config-file", str(experiment.RECIPE), *data, *job.opts()]


if __name__ == "__main__":
    main()
