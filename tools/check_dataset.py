#!/usr/bin/env python
"""Checks a COCO json and its images, one fault a line.

    tools/check_dataset.py ANNOTATIONS.json IMAGE_DIR

Exits with 1 where a training would crash or learn something wrong, with 0 where there is nothing or only warnings.
"""

import argparse
import collections
import os
import sys

from libra_d2.data.faults import find_faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a COCO json and its images, one fault a line.")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json")
    parser.add_argument("images", metavar="IMAGE_DIR")
    args = parser.parse_args()
    for path, exists in ((args.annotations, os.path.isfile), (args.images, os.path.isdir)):
        if not exists(path):
            print(f"error: there is no {path}")
            return 1
    counts = collections.Counter()
    for fault in find_faults(args.annotations, args.images):
        counts[fault.severity] += 1
        print(fault)
    print(f"{args.annotations}: {counts['error']} errors, {counts['warning']} warnings")
    return 1 if counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
