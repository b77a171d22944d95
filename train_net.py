#!/usr/bin/env python
"""Trains, resumes and evaluates; takes Detectron2's arguments and one's own COCO json files.

train_net.py --config-file configs/libra_faster_rcnn_R_50_FPN_1x.yaml --num-gpus 8
train_net.py --config-file ... --train-json A.json --train-images DIR --val-json B.json --val-images DIR
train_net.py --config-file ... --num-gpus 4 MODEL.DEVICE cpu        (four processes without a GPU)
"""

import logging
import os
import sys

import torch
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.config import add_libra_config
from libra_d2.data import check_paths, check_validation, complete_config, register_datasets
from libra_d2.engine import LibraTrainer, argument_parser, given_keys, load_config


def build_config(args):
    """The config that the command line describes; own data sets, their classes and class names included."""
    cfg = load_config(args.config_file, args.opts)
    for key in ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"):
        cfg.MODEL.LIBRA.DATA[key] = getattr(args, key.lower()) or cfg.MODEL.LIBRA.DATA[key]
    check_paths(cfg, train=not args.eval_only)
    complete_config(cfg, given_keys(args.opts))
    check_validation(cfg)
    cfg.freeze()
    return cfg


def main(args, cfg):
    """Runs on every rank."""
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    add_libra_config(cfg)  # a process that the launcher started has empty registries
    register_datasets(cfg)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="libra_d2")
    default_setup(cfg, args)

    if args.eval_only:
        model = LibraTrainer.build_model(cfg)
        LibraCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return LibraTrainer.test(cfg, model)

    trainer = LibraTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    logging.getLogger("libra_d2").info(
        f"Try it: demo.py --config-file {cfg.OUTPUT_DIR}/config.yaml --input IMAGE --output FOLDER "
        f"--opts MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth"
    )
    return results


if __name__ == "__main__":
    args = argument_parser().parse_args()
    try:
        cfg = build_config(args)
    except (ValueError, OSError) as error:
        sys.exit(f"train_net.py: error: {error}")
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus * args.num_machines > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the launcher starts gloo processes where it sees no GPU
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args, cfg))
