"""What happens between the steps of training."""

from libra_d2.engine.hooks.resume import RankState, RecentScalars

__all__ = ["RankState", "RecentScalars"]
