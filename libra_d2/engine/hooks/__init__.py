"""What happens between the steps of training."""

from libra_d2.engine.hooks.resume import RankState, RecentScalars
from libra_d2.engine.hooks.stop import StopOnSignal

__all__ = ["RankState", "RecentScalars", "StopOnSignal"]
