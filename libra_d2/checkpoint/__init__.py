"""Reading and writing weights and checkpoints."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.checkpoint.checkpointer import LibraCheckpointer, summary

__all__ = ["LibraCheckpointer", "summary"]
