"""Trained models and what they predict."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.inference.predictor import build_predictor, load_trained

__all__ = ["build_predictor", "load_trained"]
