"""Starts a command's ranks, or joins those that torchrun has started, and says in a sentence why they ended.

Detectron2's launcher does the starting. Around it: signals reach every rank, no rank outlives its launcher, and what a
user can mend comes back from a rank as a :class:`UserError`, while its traceback goes to the rank's log file.
"""

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_ranks
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checks import UserError
from libra_d2.engine import stop_signals
from libra_d2.engine.failures import is_lost_rank, remedy

logger = logging.getLogger(__name__)

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(main: Callable, *args, run, device: str) -> int:
    """Runs ``main(*args)`` on every rank, and returns the exit status: 0, or 143 or 130 where a signal ended it.

    Args:
        run: has Detectron2's ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``, and ``dist_timeout``,
            the seconds that a rank waits for another.
        device: ``MODEL.DEVICE``; "cpu" starts gloo ranks, on machines with GPUs as well.

    Raises:
        UserError: what a rank raised, or what its end tells the user.
    """
    timeout = timedelta(seconds=run.dist_timeout)
    if all(name in os.environ for name in _TORCHRUN):
        _join_torchrun(run, device, timeout)
        stop_signals.watch_parent()
        with _explained():
            main(*args)
        _end_process_group()
        return 0
    if run.num_gpus * run.num_machines <= 1:
        with _explained():
            main(*args)
        return 0
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the launcher starts gloo processes where it sees no GPU
    where = run.num_gpus, run.num_machines, run.machine_rank, run.dist_url
    with tempfile.TemporaryDirectory(prefix="libra_d2_ranks_") as reports, _forwarded() as signals:
        try:
            launch_ranks(_report, *where, args=(reports, main, args), timeout=timeout)
        except ProcessException as failure:
            return _status(reports, failure, signals)
        return 128 + signals[0] if signals else 0


def _join_torchrun(run, device: str, timeout: timedelta) -> None:
    if run.num_gpus * run.num_machines > 1:
        raise UserError(
            "torchrun has started the ranks of this run: leave out --num-gpus and --num-machines, and say how many "
            "with torchrun's --nproc-per-node and --nnodes"
        )
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda and local_size > torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node: expected at most one rank for each of the {torch.cuda.device_count()} GPUs of this "
            f"machine, got {local_size}; MODEL.DEVICE cpu trains without them"
        )
    if is_cuda:
        torch.cuda.set_device(local_rank)
    with _explained():
        dist.init_process_group("nccl" if is_cuda else "gloo", timeout=timeout)
        sizes = set(comm.all_gather(local_size))
    if len(sizes) > 1:
        raise UserError(f"--nproc-per-node: expected the same on every machine, got {sorted(sizes)}")
    comm.create_local_process_group(local_size)


def _end_process_group() -> None:
    """Joins the group's threads: one that still drops tensors when the interpreter ends aborts the process.

    They live as long as something refers to the group, which Detectron2 does in a cache, and DDP in what is garbage.
    """
    comm._get_global_gloo_group.cache_clear()
    gc.collect()
    dist.destroy_process_group()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Keeps an error's traceback in the log file, and raises a UserError instead where there is a remedy."""
    try:
        yield
    except Exception as error:
        logger.info("The run has failed:", exc_info=True)  # the terminal shows no tracebacks, see output_dir.py
        if not isinstance(error, UserError) and (what := remedy(error)):
            raise UserError(what) from error
        raise


def _report(reports: str, main: Callable, args: tuple) -> None:
    """Runs in each rank that the launcher starts; how it ended is told in a file, as an exit status is too short."""
    stop_signals.watch_parent()
    try:
        with _explained():
            main(*args)
        return
    except stop_signals.Stopped as stopped:
        kind, status, text = "stopped", stopped.code, ""
    except KeyboardInterrupt:
        kind, status, text = "stopped", 128 + signal.SIGINT, ""
    except Exception as error:
        is_users = isinstance(error, UserError)
        kind = "bug" if not is_users else "lost" if is_lost_rank(error) else "user"
        status, text = 1, str(error) if is_users else traceback.format_exc()
    # The launcher terminates this rank, and reads what there is, as soon as another one has ended.
    with atomic_write(Path(reports) / f"{comm.get_rank()}.json", text=True) as file:
        json.dump({"kind": kind, "status": status, "text": text}, file)
    raise SystemExit(status)


def _status(reports: str, failure: ProcessException, signals: list[int]) -> int:
    """The exit status of a run whose ranks did not all end well, unless there is an error to raise."""
    by_kind: dict[str, list[dict]] = {"user": [], "bug": [], "stopped": [], "lost": []}
    for file in sorted(Path(reports).glob("*.json")):
        report = json.loads(file.read_text())
        by_kind[report["kind"]].append(report)
    killed = failure.exit_code if isinstance(failure, ProcessExitedException) and failure.exit_code < 0 else 0
    if by_kind["user"]:
        raise UserError("; ".join(dict.fromkeys(report["text"] for report in by_kind["user"])))
    if by_kind["bug"]:
        raise RuntimeError(f"a rank has failed:\n{by_kind['bug'][0]['text']}") from None
    if signals:
        return 128 + signals[0]
    if by_kind["stopped"]:
        return by_kind["stopped"][0]["status"]
    if -killed in stop_signals.SIGNALS:  # before training there is nothing to keep, so nothing catches it
        return 128 - killed
    if killed:
        raise UserError(
            f"rank {failure.error_index} of this machine (process {failure.error_pid}) was ended by "
            f"{failure.signal_name}; if it is SIGKILL, memory may have run out: reduce SOLVER.IMS_PER_BATCH or "
            "DATALOADER.NUM_WORKERS, and continue with --resume"
        )
    if by_kind["lost"]:
        raise UserError(by_kind["lost"][0]["text"])
    if what := remedy(failure):
        raise UserError(what) from failure
    raise failure


@contextlib.contextmanager
def _forwarded() -> Iterator[list[int]]:
    """Passes signals on to the ranks, and yields those received; a second one, from somebody who waited, kills them."""
    received: list[int] = []
    since = time.monotonic()

    def forward(signum, frame):
        nonlocal since
        insists = bool(received) and time.monotonic() - since > stop_signals.REPEATED_WITHIN
        if not received:
            since = time.monotonic()
        received.append(signum)
        for rank in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL if insists else signum)

    with stop_signals.handled_by(forward):
        yield received
