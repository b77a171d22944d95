"""Means of paired differences with standard errors and 95 % intervals, as scipy and statsmodels compute them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import statsmodels.api
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean of ``count`` differences. What cannot be told from so few is NaN."""

    mean: float
    error: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return ""
        if math.isnan(self.error):
            return f"{self.mean:+.1f} ({self.count})"
        return f"{self.mean:+.1f} ± {self.error:.1f} [{self.low:+.1f}, {self.high:+.1f}] ({self.count})"


def of_pairs(differences: Sequence[float]) -> Estimate:
    """Student's t interval of one set's differences, seed by seed."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return Estimate(values.mean() if len(values) else math.nan, math.nan, math.nan, math.nan, len(values))
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Estimate(values.mean(), stats.sem(values), interval.low, interval.high, len(values))


def over_sets(differences: Mapping[str, Sequence[float]]) -> Estimate:
    """The mean of the sets' means; each set counts the same and scatters as much as it does.

    Least squares with a mean for each set and the HC2 covariance, which amounts to the sets' own squared standard
    errors added up; the degrees of freedom are the pairs less the sets. It speaks of these sets, not of others. A set
    with one pair has no scatter, so that there is no interval then.
    """
    sets = {name: list(values) for name, values in differences.items() if len(values)}
    counts = [len(values) for values in sets.values()]
    if not sets:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    if min(counts) < 2:
        mean = float(np.mean([np.mean(values) for values in sets.values()]))
        return Estimate(mean, math.nan, math.nan, math.nan, sum(counts))
    which = np.repeat(np.eye(len(sets)), counts, axis=0)
    fit = statsmodels.api.OLS(np.concatenate(list(sets.values())), which).fit(cov_type="HC2", use_t=True)
    contrast = fit.t_test(np.full((1, len(sets)), 1 / len(sets)))
    (low, high) = contrast.conf_int(0.05)[0]
    return Estimate(contrast.effect.item(), contrast.sd.item(), low, high, sum(counts))
