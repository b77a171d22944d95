"""Evaluates a trained model, as ``train --eval-only`` does: COCO AP, overall and of each class.

example:
  libra-d2 eval --config-file output/config.yaml MODEL.WEIGHTS output/model_final.pth
"""

import argparse

from libra_d2.cli import train
from libra_d2.cli.train import run

__all__ = ["argument_parser", "run"]


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = train.argument_parser(prog)
    parser.description = __doc__
    parser.set_defaults(eval_only=True)
    return parser
