"""Prints results.csv, or another such file, as tables: the runs, differences that are paired by seed, and the search.

    python benchmarks/accuracy/report.py [FILE.csv] [--against detectron2] [--metric AP]

A difference is "mean ± standard error [95 % interval] (pairs)"; where there is one pair, it has neither.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import choice
import results as store
from arms import ARMS, PARTS
from estimate import of_pairs, over_sets
from jobs import PROTOCOLS, SEARCH_SEEDS, TEST_SEEDS, Cell, cell_of
from results import METRICS, Result
from sets import GROUPS, ROOT, SETS

sys.path.insert(0, str(ROOT / "benchmarks"))

from side_by_side import markdown  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=store.RESULTS, metavar="FILE.csv")
    parser.add_argument("--against", default="detectron2", choices=ARMS, help="what is subtracted")
    parser.add_argument("--metric", default="AP", choices=METRICS)
    parser.add_argument(
        "--searched-by", nargs="+", default=list(PARTS), choices=ARMS, help="the others take the first's"
    )
    parser.add_argument(
        "--cell", nargs=2, metavar=("RATE", "ITERATIONS"), help="all arms at this one, whatever was found"
    )
    args = parser.parse_args()
    for protocol in PROTOCOLS:
        found = [result for result in store.read(args.results) if result.protocol == protocol]
        if found:
            cells = cells_of(found, protocol, args.searched_by, cell_of(args.cell))
            print(f"## {protocol}\n")
            print(tables(found, cells, args.against, args.metric, args.searched_by))


def cells_of(
    results: Sequence[Result], protocol: str, searching: Sequence[str], given: Cell | None = None
) -> dict[str, Cell]:
    """Where each arm is judged: at its own cell if it searched, at that of the first who did otherwise."""
    sets = searched_sets(results)
    default = PROTOCOLS[protocol].search[0]
    return {
        arm: given or choice.chosen(results, arm if arm in searching else searching[0], searching, sets, default)
        for arm in dict.fromkeys(result.arm for result in results)
    }


def searched_sets(results: Sequence[Result]) -> list[str]:
    """The sets that the file is about; a search that covers all of them is complete."""
    present = {result.set for result in results}
    return [name for name in SETS if name in present]


def tables(
    results: Sequence[Result], cells: Mapping[str, Cell], against: str, metric: str, searching: Sequence[str]
) -> str:
    """All tables of one protocol that have something to show."""
    parts = []
    for title, seeds in (("Test seeds", TEST_SEEDS), ("Search seeds", SEARCH_SEEDS)):
        there = choice.at(results, cells, seeds)
        if there:
            parts += [f"{title}\n\n{runs_table(there, cells)}"]
            parts += [f"{metric} less that of {against}\n\n{differences_table(there, against, metric)}"]
    means = {arm: choice.search_means(results, arm, searching, searched_sets(results)) for arm in searching}
    if any(len(found) > 1 for found in means.values()):
        rows = [[f"{r:g}", n, *(f"{means[a][r, n]:.1f}" for a in searching)] for r, n in means[searching[0]]]
        parts += ["The search, mean of the sets\n\n" + markdown(["learning rate", "iterations", *searching], rows)]
    return "\n\n".join(parts) + "\n"


def runs_table(results: Sequence[Result], cells: Mapping[str, Cell]) -> str:
    """Each metric of each arm on each set: mean ± standard deviation of the seeds."""
    values = {metric: choice.by_group(results, metric) for metric in METRICS}
    rows = []
    for group in GROUPS:
        for arm in ordered(values["AP"]):
            seeds = values["AP"][arm].get(group, {})
            if seeds:
                metrics = [spread(list(values[metric][arm][group].values())) for metric in METRICS]
                rows.append([group, arm, "{:g} x {}".format(*cells[arm]), len(seeds), *metrics])
    return markdown(["set", "arm", "rate x iterations", "seeds", *METRICS], rows)


def differences_table(results: Sequence[Result], against: str, metric: str) -> str:
    """What each arm has more than another with the same seed, for each set and in the mean of the sets."""
    values = choice.by_group(results, metric)
    groups = [group for group in GROUPS if any(group in sets for sets in values.values())]
    rows = []
    for arm in ordered(values):
        if arm != against:
            pairs = paired(values[arm], values.get(against, {}), groups)
            rows.append([arm, *(of_pairs(pairs[group]) for group in groups), over_sets(pairs)])
    return markdown(["arm", *groups, "mean of the sets"], rows)


def paired(
    arm: Mapping[str, Mapping[int, float]], other: Mapping[str, Mapping[int, float]], groups: Collection[str]
) -> dict[str, list[float]]:
    """{set: differences with one seed each} between two arms."""
    return {
        group: [value - other[group][seed] for seed, value in sorted(arm[group].items()) if seed in other[group]]
        if group in arm and group in other
        else []
        for group in groups
    }


def ordered(arms: Collection[str]) -> list[str]:
    """Arms in the order of arms.py."""
    return [arm for arm in ARMS if arm in arms]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; nothing where a file lacks the metric."""
    if any(map(math.isnan, values)):
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
