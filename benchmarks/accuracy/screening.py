"""What each change of a screen (screens.py) was worth.

python benchmarks/accuracy/screening.py [--metric AP75]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
import statsmodels.api
from jobs import PROTOCOLS
from results import METRICS, read
from screens import SCREENS, design
from sets import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from side_by_side import markdown  # noqa: E402


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
