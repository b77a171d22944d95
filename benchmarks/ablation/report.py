"""Prints results.csv, or another such file, as the tables of README.md.

The search, the variants of Libra, the parts, the baseline where Libra trains, and few boxes:

    python benchmarks/ablation/report.py [benchmarks/ablation/unclipped.csv]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import experiment
from experiment import Job, Result
from folds import FOLDS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from side_by_side import markdown  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=experiment.RESULTS, metavar="FILE.csv")
    results = experiment.read(parser.parse_args().results)
    print(search_table(results))
    if not experiment.search_means(results, "baseline"):
        return  # nothing is chosen yet
    print(f"\n{doubled(results)}\n\n{variants_table(results)}")
    print(f"\n{arms_table(results, experiment.final_jobs(results), 'baseline')}")
    print(f"\n{arms_table(results, experiment.control_jobs(results), 'baseline')}")
    print(f"\n{arms_table(results, experiment.few_jobs(results), 'few_baseline')}")


def search_table(results: Sequence[Result]) -> str:
    """AP of the arms that search, averaged over the folds, by learning rate and length."""
    arms = experiment.SEARCHING
    means = [experiment.search_means(results, arm) for arm in arms]
    rows = [[f"{rate:g}", length, *(number(of[rate, length]) for of in means)] for rate, length in means[0]]
    return markdown(["learning rate", "iterations", *arms], rows)


def variants_table(results: Sequence[Result]) -> str:
    """AP of each variant of Libra in the search, averaged over the folds, beside that of Libra and of the baseline."""
    rows = []
    for arm in [*experiment.SEARCHING, *experiment.VARIANTS]:
        runs = searched(results, arm, *experiment.chosen(results, "baseline" if arm == "baseline" else "libra"))
        if runs:
            rows.append([arm, *(number(mean) for metric in METRICS for mean in over_folds(runs, metric))])
    return markdown(["arm", *METRICS], rows)


def doubled(results: Sequence[Result]) -> str:
    """What the baseline gains from twice as many iterations as it chose, averaged over the folds."""
    rate, iterations = experiment.chosen(results, "baseline")
    means = [
        f"AP {mean:.2f} after {length} iterations"
        for length in (iterations, 2 * iterations)
        for mean in over_folds(searched(results, "baseline", rate, length), "AP")
    ]
    return f"baseline: {', '.join(means)}"


def searched(results: Sequence[Result], arm: str, rate: float, iterations: int) -> list[Result]:
    cell = (arm, rate, iterations, experiment.SEARCH_SEED)
    return [r for r in results if (r.arm, r.learning_rate, r.iterations, r.seed) == cell]


def arms_table(results: Sequence[Result], jobs: Sequence[Job], baseline: str) -> str:
    """The jobs' arms: AP averaged over the folds, seed by seed; and the differences from one of them, run by run."""
    wanted = set(jobs)
    done = [result for result in results if result.job() in wanted]
    other = {(result.fold, result.seed): result for result in done if result.arm == baseline}
    rows = []
    for arm in dict.fromkeys(job.arm for job in jobs):
        runs = [result for result in done if result.arm == arm]
        row = [arm, len(runs), *(spread(over_folds(runs, metric)) for metric in METRICS)]
        if arm != baseline:
            pairs = [(run, other[run.fold, run.seed]) for run in runs if (run.fold, run.seed) in other]
            row += [spread([getattr(a, metric) - getattr(b, metric) for a, b in pairs], "+") for metric in METRICS]
            row += [f"{sum(a.AP > b.AP for a, b in pairs)} of {len(pairs)}"]
        rows.append(row + [""] * (len(HEADER) - len(row)))
    return markdown(HEADER, rows)


def over_folds(runs: Sequence[Result], metric: str) -> list[float]:
    """A metric averaged over the folds, for each seed with which all of them were run."""
    seeds: dict[int, list[float]] = {}
    for run in runs:
        seeds.setdefault(run.seed, []).append(getattr(run, metric))
    return [statistics.mean(values) for values in seeds.values() if len(values) == len(FOLDS)]


METRICS = ("AP", "AP50", "AP75")
HEADER = ["arm", "runs", *METRICS, *(f"paired {metric}" for metric in METRICS), "better AP"]


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation."""
    if len(values) < 2:
        return number(values[0], sign) if values else ""
    return f"{number(statistics.mean(values), sign)} ± {number(statistics.stdev(values))}"


def number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.1f}"


if __name__ == "__main__":
    main()
