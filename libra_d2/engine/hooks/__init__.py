"""What happens between the steps of training."""

from libra_d2.engine.hooks.average import WeightAverage, averaged_model
from libra_d2.engine.hooks.best import BestCheckpointer, EndOfPatience
from libra_d2.engine.hooks.diverged import DivergedError, StepWatch
from libra_d2.engine.hooks.evaluation import EvalHook, PeriodicWriter
from libra_d2.engine.hooks.progress import ProgressBar
from libra_d2.engine.hooks.resume import RankState, RecentScalars
from libra_d2.engine.hooks.stop import StopOnSignal

__all__ = [
    "BestCheckpointer",
    "DivergedError",
    "EndOfPatience",
    "EvalHook",
    "PeriodicWriter",
    "ProgressBar",
    "RankState",
    "RecentScalars",
    "StepWatch",
    "StopOnSignal",
    "WeightAverage",
    "averaged_model",
]
