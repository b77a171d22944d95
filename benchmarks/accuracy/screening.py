"""Which single changes matter, all at once: each run switches half of them on, and every run tells about all of them.

    python benchmarks/accuracy/screening.py [--metric AP75]

A fractional factorial design (Box, Hunter and Hunter, "Statistics for Experimenters", chapter 6): eight runs a set for
seven factors, every factor on in four of them, every pair of factors balanced. One change at a time would need four
times as many runs for the same standard error. Every other set has all levels turned round, so that, taken together,
no factor is mixed up with the joint effect of two others, as far as the sets agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
import statsmodels.api
from changes import (
    AGNOSTIC_BOXES,
    BALANCED_L1,
    DOUBLE_WEIGHT,
    FEW_PROPOSALS,
    GATED_PYRAMID,
    HALF_WEIGHT,
    MANY_PROPOSALS,
    NEGATIVES,
    PISA,
    POSITIVES,
    RPN_LIMITED,
    RPN_PLAIN,
    SEESAW,
)

# factor -> (off, on); the last pair of a key counts
Factors = dict[str, tuple[list[str], list[str]]]
SCREENS: dict[str, Factors] = {
    "screen": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "positives": ([], POSITIVES),
        "negatives": ([], NEGATIVES),
        "balanced_l1": ([], BALANCED_L1),
        "pyramid": ([], GATED_PYRAMID),
        "box_weight": ([], DOUBLE_WEIGHT),
        "proposals": ([], MANY_PROPOSALS),
    },
    # What the first one spoke for or left open, what it spoke against the other way round, and two rivals
    "second": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "pyramid": ([], GATED_PYRAMID),
        "balanced_l1": ([], BALANCED_L1),
        "half_weight": ([], HALF_WEIGHT),
        "few_proposals": ([], FEW_PROPOSALS),
        "pisa": ([], PISA),
        "seesaw": ([], SEESAW),
    },
    # Libra's parts again, in batches of eight (batch8), with the rival that the second one had nothing against
    "third": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "positives": ([], POSITIVES),
        "negatives": ([], NEGATIVES),
        "balanced_l1": ([], BALANCED_L1),
        "pyramid": ([], GATED_PYRAMID),
        "pisa": ([], PISA),
        "agnostic_boxes": ([], AGNOSTIC_BOXES),
    },
}


def design(screen: str, turned: bool = False) -> list[tuple[str, ...]]:
    """The factors that are on, run by run. Seven columns from three: a, b, c, ab, ac, bc and abc."""
    sign = -1 if turned else 1
    runs = []
    for a, b, c in product((-1, 1), repeat=3):
        levels = (a, b, c, a * b, a * c, b * c, a * b * c)
        runs.append(tuple(name for name, level in zip(SCREENS[screen], levels, strict=True) if sign * level > 0))
    return runs


def name_of(screen: str, on: Sequence[str]) -> str:
    return "+".join([screen, *on])


def arms(baseline: Sequence[str]) -> dict[str, list[str]]:
    """{arm: KEY VALUE pairs} of every run of every screen."""
    return {
        name_of(screen, on): [*baseline, *(pair for name, levels in factors.items() for pair in levels[name in on])]
        for screen, factors in SCREENS.items()
        for turned in (False, True)
        for on in design(screen, turned)
    }


def effects(
    rows: Sequence[tuple[str, str, float]], factors: Sequence[str]
) -> dict[str, tuple[float, float, float, float]]:
    """{factor: (effect, standard error, low, high)} of (block, arm, value); a block is a set with one seed.

    Least squares with a mean for each block; sets scatter differently, hence the HC2 covariance.
    """
    blocks = sorted({block for block, _, _ in rows})
    columns = [[block == other for other in blocks] for block, _, _ in rows]
    on = [[(name in arm.split("+")) - 0.5 for name in factors] for _, arm, _ in rows]
    fit = statsmodels.api.OLS([value for *_, value in rows], np.hstack([columns, on]).astype(float)).fit(
        cov_type="HC2", use_t=True
    )
    bounds = fit.conf_int(0.05)
    places = dict(zip(factors, range(len(blocks), len(blocks) + len(factors)), strict=True))
    return {name: (fit.params[k], fit.bse[k], *bounds[k]) for name, k in places.items()}


def difference(rows: Sequence[tuple[str, str, float]], name: str) -> float:
    """The mean of the runs with a factor less that of those without."""
    on, off = ([value for _, arm, value in rows if (name in arm.split("+")) is wanted] for wanted in (True, False))
    return np.mean(on) - np.mean(off)


def main() -> None:
    from jobs import PROTOCOLS
    from results import METRICS, read
    from sets import ROOT

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from side_by_side import markdown

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="AP", choices=METRICS)
    metric = parser.parse_args().metric
    for protocol, (screen, factors) in product(PROTOCOLS, SCREENS.items()):
        runs = [r for r in read() if r.protocol == protocol and r.arm.split("+")[0] == screen]
        rows = [(f"{r.set} seed {r.seed}", r.arm, getattr(r, metric)) for r in runs]
        counts = {block: sum(block == other for other, *_ in rows) for block, *_ in rows}
        rows = [row for row in rows if counts[row[0]] == len(design(screen))]
        if not rows:
            continue
        blocks = list(dict.fromkeys(block for block, *_ in rows))
        table = {
            name: [f"{difference([row for row in rows if row[0] == block], name):+.1f}" for block in blocks]
            for name in factors
        }
        if len(blocks) > 1:  # the eight runs of one block leave nothing to tell chance by
            for name, (effect, error, low, high) in effects(rows, list(factors)).items():
                table[name].append(f"{effect:+.1f} ± {error:.1f} [{low:+.1f}, {high:+.1f}]")
        print(f"## {protocol}, {screen}: {metric}, on less off, {len(rows)} runs\n")
        header = ["factor", *blocks, *(["all"] if len(blocks) > 1 else [])]
        print(markdown(header, [[name, *cells] for name, cells in table.items()]))


if __name__ == "__main__":
    main()
