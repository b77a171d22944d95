#!/usr/bin/env python
"""``libra-d2 train`` under the name that Detectron2's projects have for it."""

import sys

from libra_d2.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train", prog="train_net.py"))
