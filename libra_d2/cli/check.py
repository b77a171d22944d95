"""Checks a COCO json and its images, one fault a line, and describes the data and the settings that follow from them.

example:
  libra-d2 check annotations.json images
  libra-d2 check annotations.json images --config-file CONFIG.yaml --opts INPUT.MIN_SIZE_TRAIN "(1200,)"

Exits with 1 where training would crash or learn something wrong, with 0 where there is nothing or only warnings. The
description is for the sizes, anchors and schedule of the config, by default those of fine-tuning.
"""

import argparse
import collections
import os

from libra_d2.checks import FileError
from libra_d2.config.files import load_config
from libra_d2.data.profile import profile
from libra_d2.data.validate import content_faults, read_content

CONFIG = "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml"


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", metavar="ANNOTATIONS.json")
    parser.add_argument("images", metavar="IMAGE_DIR")
    parser.add_argument("--config-file", default=CONFIG, metavar="FILE", help="what the data are for (%(default)s)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that override the config")
    return parser


def run(args) -> int:
    for path, exists in ((args.annotations, os.path.isfile), (args.images, os.path.isdir)):
        if not exists(path):
            raise FileError(f"there is no {path}")
    cfg = load_config(args.config_file, args.opts)
    counts = collections.Counter()
    content, faults = read_content(args.annotations)
    for fault in faults or content_faults(content, args.annotations, args.images):
        counts[fault.severity] += 1
        print(fault)
    print(f"{args.annotations}: {counts['error']} errors, {counts['warning']} warnings")
    if counts["error"]:
        return 1
    print(f"\n{profile(content, cfg)}")
    return 0
