"""Trains, resumes and evaluates; takes Detectron2's arguments and your own COCO json files.

example:
  libra-d2 train --config-file finetune/libra_faster_rcnn_R_50_FPN_1x.yaml \\
      --train-json A.json --train-images DIR --val-json B.json --val-images DIR

--config-file takes a path or the name of a config that comes with libra_d2. --num-gpus 4 MODEL.DEVICE cpu starts four
processes on a machine without a GPU.
"""

import argparse
import logging
import os

import torch
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from libra_d2.config.files import find_config_file
from libra_d2.engine.agreement import check_agreement
from libra_d2.engine.check_run import check_run
from libra_d2.engine.setup import enter_process, setup
from libra_d2.engine.trainer import LibraTrainer
from libra_d2.inference import load_trained


def argument_parser(prog: str) -> argparse.ArgumentParser:
    """Detectron2's training arguments and the four that name your own COCO json files."""
    parser = default_argument_parser()
    parser.prog, parser.description, parser.epilog = prog, __doc__, None
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    own = parser.add_argument_group("own data (COCO json; class names and their number are read from it unless given)")
    own.add_argument("--train-json", default="", metavar="FILE", help="annotations to train on")
    own.add_argument("--train-images", default="", metavar="DIR", help="folder of the training images")
    own.add_argument("--val-json", default="", metavar="FILE", help="annotations to evaluate on")
    own.add_argument("--val-images", default="", metavar="DIR", help="folder of the images to evaluate on")
    return parser


def run(args) -> int:
    cfg = setup(args, reads=("VAL",) if args.eval_only else ("TRAIN", "VAL"))
    check_run(cfg, args.num_gpus * args.num_machines, train=not args.eval_only)
    if args.config_file:
        args.config_file = find_config_file(args.config_file)  # Detectron2 logs what is in it
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus * args.num_machines > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the launcher starts gloo processes where it sees no GPU
    launch(_on_each_rank, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args, cfg))
    return 0


def _on_each_rank(args, cfg):
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    enter_process(cfg)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="libra_d2")
    check_agreement(cfg)
    default_setup(cfg, args)

    if args.eval_only:
        return _evaluate(cfg, load_trained(cfg, resume=args.resume))

    trainer = LibraTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    logging.getLogger("libra_d2").info(
        f"Try it: libra-d2 predict --config-file {cfg.OUTPUT_DIR}/config.yaml --input IMAGE --output FOLDER "
        f"--opts MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth"
    )
    return results


def _evaluate(cfg, model) -> dict:
    """As Detectron2's train_net.py does, with ``TEST.AUG`` and ``TEST.EXPECTED_RESULTS``."""
    results = LibraTrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(LibraTrainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
