"""Checks a COCO json and its images, one fault a line.

example:
  libra-d2 check annotations.json images

Exits with 1 where training would crash or learn something wrong, with 0 where there is nothing or only warnings.
"""

import argparse
import collections
import os

from libra_d2.checks import FileError
from libra_d2.data.validate import find_faults


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", metavar="ANNOTATIONS.json")
    parser.add_argument("images", metavar="IMAGE_DIR")
    return parser


def run(args) -> int:
    for path, exists in ((args.annotations, os.path.isfile), (args.images, os.path.isdir)):
        if not exists(path):
            raise FileError(f"there is no {path}")
    counts = collections.Counter()
    for fault in find_faults(args.annotations, args.images):
        counts[fault.severity] += 1
        print(fault)
    print(f"{args.annotations}: {counts['error']} errors, {counts['warning']} warnings")
    return 1 if counts["error"] else 0
