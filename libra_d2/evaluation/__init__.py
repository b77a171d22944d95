"""Evaluation of detections."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.evaluation.evaluators import build_evaluator

__all__ = ["build_evaluator"]
