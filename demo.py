#!/usr/bin/env python
"""``libra-d2 predict`` under the name that Detectron2 has for it."""

import sys

from libra_d2.cli.main import run

if __name__ == "__main__":
    sys.exit(run("predict", prog="demo.py"))
