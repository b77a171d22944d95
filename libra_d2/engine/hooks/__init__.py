"""What happens between the steps of training."""

from libra_d2.engine.hooks.diverged import DivergedError, StepWatch
from libra_d2.engine.hooks.resume import RankState, RecentScalars
from libra_d2.engine.hooks.stop import StopOnSignal

__all__ = ["DivergedError", "RankState", "RecentScalars", "StepWatch", "StopOnSignal"]
