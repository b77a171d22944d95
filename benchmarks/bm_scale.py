"""What a training step sends between processes, Libra R-CNN beside Detectron2's Faster R-CNN, as a Markdown table.

python benchmarks/bm_scale.py [--processes 1 2 4 8] [--size 128 160]

R50-FPN with random weights, one small image a process, gloo. A hook of DistributedDataParallel counts the bytes of the
gradients, torch's profiler the collectives of the whole step; neither depends on the size of the image.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from detectors import SIDES, build, picture
from detectron2.utils.events import EventStorage
from side_by_side import markdown, progress
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile


def count(rank: int, processes: int, side: str, size: tuple[int, int], folder: str) -> None:
    """One process: trains a step, and rank 0 writes down what the second one sent."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    model, sent = build(side).train(), Counter()
    if processes > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)  # as Detectron2's trainer wraps it

        def hook(state, bucket):
            sent["gradients"] += bucket.buffer().nbytes
            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, hook)

    def step() -> None:
        with EventStorage(1):
            sum(model([picture(8, size)]).values()).backward()
        model.zero_grad()

    step()
    sent.clear()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    sent["collectives"] = sum(event.name.startswith("gloo:") for event in profiled.events())
    if rank == 0:
        Path(folder, "sent").write_text(f"{sent['gradients']} {sent['collectives']}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, nargs=2, default=(128, 160), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    rows = []
    for processes in args.processes:
        row = [processes]
        for side in SIDES:
            progress(f"{processes} processes, {side}")
            with tempfile.TemporaryDirectory() as folder:
                spawn(count, (processes, side, tuple(args.size), folder), nprocs=processes)
                gradients, collectives = map(int, Path(folder, "sent").read_text().split())
            # a ring sends each byte 2 (N - 1) / N times from each process
            row += [gradients / 2**20, gradients * 2 * (processes - 1) / processes / 2**20, collectives]
        rows.append(row)
    columns = ("gradients, MiB", "sent by a process in a ring, MiB", "collectives")
    print(markdown(["processes", *(f"{side}: {column}" for side in SIDES for column in columns)], rows))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
