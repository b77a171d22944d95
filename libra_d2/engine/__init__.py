"""Training: a finished config, the trainer and its hooks."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.engine.freed_memory import keep_freed_memory
from libra_d2.engine.setup import setup
from libra_d2.engine.trainer import LibraTrainer

__all__ = ["LibraTrainer", "keep_freed_memory", "setup"]
