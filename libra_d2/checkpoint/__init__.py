"""Reading and writing weights and checkpoints."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.checkpoint.checkpointer import LibraCheckpointer, summary
from libra_d2.checkpoint.weights import WeightsCheckpointer

__all__ = ["LibraCheckpointer", "WeightsCheckpointer", "summary"]
