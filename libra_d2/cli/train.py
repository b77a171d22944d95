"""Trains, resumes and evaluates; takes Detectron2's arguments and your own COCO json files.

example:
  libra-d2 train --config-file finetune/libra_faster_rcnn_R_50_FPN_1x.yaml \\
      --train-json A.json --train-images DIR --val-json B.json --val-images DIR

--config-file takes a path or the name of a config that comes with libra_d2. --num-gpus 4 MODEL.DEVICE cpu starts four
processes on a machine without a GPU; torchrun --nproc-per-node 4 train_net.py ... does so on one machine or several.
"""

import argparse
import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from libra_d2.engine.agreement import check_agreement
from libra_d2.engine.batch_scaling import changes, scaled
from libra_d2.engine.check_run import check_run
from libra_d2.engine.freed_memory import keep_freed_memory
from libra_d2.engine.launch import launch
from libra_d2.engine.output_dir import output_dir, show_tracebacks
from libra_d2.engine.setup import enter_process, setup
from libra_d2.engine.trainer import LibraTrainer
from libra_d2.inference import load_trained

logger = logging.getLogger(__name__)


def argument_parser(prog: str) -> argparse.ArgumentParser:
    """Detectron2's training arguments and the four that name your own COCO json files."""
    parser = default_argument_parser()
    parser.prog, parser.description, parser.epilog = prog, __doc__, None
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--dist-timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT.total_seconds(),
        metavar="SECONDS",
        help="how long a rank waits for another before the run ends; longer than the slowest evaluation (%(default)g)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks, which log.txt has in any case")
    own = parser.add_argument_group("own data (COCO json; class names and their number are read from it unless given)")
    own.add_argument("--train-json", default="", metavar="FILE", help="annotations to train on")
    own.add_argument("--train-images", default="", metavar="DIR", help="folder of the training images")
    own.add_argument("--val-json", default="", metavar="FILE", help="annotations to evaluate on")
    own.add_argument("--val-images", default="", metavar="DIR", help="folder of the images to evaluate on")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 1 to 1e6, got {text}")
    return value


def run(args) -> int:
    return start(args, prepare(args))


def prepare(args) -> CfgNode:
    """The config of the run, its data checked."""
    rank = int(os.environ.get("RANK", 0))  # torchrun's; the first one checks the data for all
    setup_logger(name="libra_d2", distributed_rank=rank)
    show_tracebacks("libra_d2", args.verbose)
    reads = ("VAL",) if args.eval_only else ("TRAIN", "VAL")
    return setup(args, reads=reads if rank == 0 else (), any_classes=not args.eval_only)


def start(args, cfg: CfgNode) -> int:
    """Runs on all ranks; returns the exit status."""
    return launch(_on_each_rank, args, cfg, run=args, device=cfg.MODEL.DEVICE)


def _on_each_rank(args, cfg):
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    keep_freed_memory(cfg)
    enter_process(cfg)
    world_size, given = comm.get_world_size(), cfg
    if not args.eval_only:
        cfg = scaled(cfg, world_size)
    check_run(cfg, world_size, train=not args.eval_only)
    check_agreement(cfg)
    with output_dir(cfg, args):
        if what := changes(given, cfg):
            logger.info(f"Scaled to the batch of this run: {what}")
        _train_or_evaluate(args, cfg)


def _train_or_evaluate(args, cfg):
    if args.eval_only:
        return _evaluate(cfg, load_trained(cfg, resume=args.resume))

    trainer = LibraTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    logger.info(
        f"Try it: libra-d2 predict --config-file {cfg.MODEL.LIBRA.LAZY.FILE or f'{cfg.OUTPUT_DIR}/config.yaml'} "
        f"--input IMAGE --output FOLDER --opts MODEL.WEIGHTS {cfg.OUTPUT_DIR}/{_best_or_last(cfg)}"
    )
    return results


def _best_or_last(cfg) -> str:
    best = "model_best.pth"
    is_kept = cfg.MODEL.LIBRA.TRAIN.BEST_METRIC and os.path.exists(os.path.join(cfg.OUTPUT_DIR, best))
    return best if is_kept else "model_final.pth"


def _evaluate(cfg, model) -> dict:
    """As Detectron2's train_net.py does, with ``TEST.AUG`` and ``TEST.EXPECTED_RESULTS``."""
    results = LibraTrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(LibraTrainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
