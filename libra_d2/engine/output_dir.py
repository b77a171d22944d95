"""The folder that a run writes to: locked, with a log file for each rank and the config that serves every command."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from libra_d2.checkpoint.atomic import atomic_write, lock_folder
from libra_d2.checks import FileError

logger = logging.getLogger(__name__)

#: whose messages a user gets
LOGGERS = ("fvcore", "detectron2", "libra_d2")


@contextlib.contextmanager
def output_dir(cfg: CfgNode, args) -> Iterator[None]:
    """Does what Detectron2's ``default_setup`` does, on every rank, and keeps other runs out until the block ends.

    Unlike there config.yaml is written whole or not at all. An evaluation may go on beside a run in the same folder,
    and leaves its config.yaml as it is.

    Args:
        args: those of the command: ``resume`` and ``eval_only``, and ``verbose`` shows tracebacks on the terminal, too.

    Raises:
        UserError: another run writes to the folder.
        FileError: nothing can be written there.
    """
    folder, rank = Path(cfg.OUTPUT_DIR), comm.get_rank()
    with contextlib.ExitStack() as stack:
        if comm.is_main_process():
            _make(folder)
            if not args.eval_only:
                stack.enter_context(lock_folder(folder))
        comm.synchronize()  # what the lock refuses is not written to
        _make(folder)
        for name in LOGGERS:
            speaks = bool(logging.getLogger(name).handlers)  # not in a process that a launcher started
            setup_logger(str(folder), distributed_rank=rank, name=name, configure_stdout=not speaks)
            show_tracebacks(name, args.verbose)
        logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
        logger.info(f"Environment info:\n{collect_env_info()}")
        logger.info(f"Command line arguments: {args}")
        if comm.is_main_process():
            _keep_config(cfg, folder, args)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
        if not args.eval_only:
            torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        yield


def log_to_terminal() -> None:
    """For commands without an OUTPUT_DIR: messages, without tracebacks."""
    for name in LOGGERS:
        setup_logger(name=name)
        show_tracebacks(name, False)


def make_output(folder: str) -> None:
    """Makes the folder that ``--output`` names.

    Raises:
        FileError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise FileError(f"--output: expected a folder to write to, got {folder} ({error})") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"OUTPUT_DIR {folder}: expected a folder that can be written to ({e})") from e


def _keep_config(cfg: CfgNode, folder: Path, args) -> None:
    file = folder / "config.yaml"
    logger.info(f"Running with full config:\n{cfg.dump()}")
    if args.eval_only and file.exists():
        return
    if not args.resume and not args.eval_only and any(folder.glob("model_*.pth")):
        logger.warning(
            f"OUTPUT_DIR {folder} holds checkpoints of an earlier run, which this run overwrites one by one: continue "
            "the earlier run with --resume, or choose another OUTPUT_DIR"
        )
    with atomic_write(file, text=True) as f:
        f.write(cfg.dump())
    logger.info(f"Full config saved to {os.fspath(file)}")


def show_tracebacks(name: str, show: bool) -> None:
    """Whether the terminal gets what the log file does."""
    for handler in logging.getLogger(name).handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.filters = [] if show else [_without_traceback]


def _without_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info
