"""Which learning rate and length an arm is judged at: what the listed search found best, the same for everyone."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence

from jobs import SEARCH_SEEDS, Cell, Job
from results import Result
from sets import GROUPS, SETS


def search_means(results: Iterable[Result], arm: str, searching: Collection[str], sets: Collection[str]):
    """{(learning rate, iterations): AP averaged over the sets} for each cell that all who search have been run in.

    The folds of one set count as one set.
    """
    cells: dict[Cell, dict[Job, float]] = {}
    for result in results:
        if result.arm in searching and result.set in sets and result.seed == SEARCH_SEEDS[0]:
            cells.setdefault((result.learning_rate, result.iterations), {})[result.job()] = result.AP
    return {
        cell: over_groups({job.set: AP for job, AP in runs.items() if job.arm == arm})
        for cell, runs in sorted(cells.items())
        if len(runs) == len(sets) * len(searching)
    }


def over_groups(values: dict[str, float]) -> float:
    """The mean of the sets' values, those of the folds of one set averaged first."""
    groups = {name: [values[fold] for fold in folds if fold in values] for name, folds in GROUPS.items()}
    return statistics.mean(statistics.mean(found) for found in groups.values() if found)


def chosen(
    results: Sequence[Result], arm: str, searching: Collection[str], sets: Collection[str], default: Cell | None = None
) -> Cell:
    """The cell at which ``arm`` had the best AP in the search; ``default`` before any cell is complete."""
    means = search_means(results, arm, searching, sets)
    if not means:
        if default is None:
            who = ", ".join(searching)
            raise ValueError(f"{arm}: expected a cell with a result of {who} each, got none; run the search first")
        return default
    return max(means.items(), key=lambda item: item[1])[0]


def at(results: Iterable[Result], cells: dict[str, Cell], seeds: Collection[int]) -> list[Result]:
    """The results of each arm at its cell, with certain seeds."""
    return [r for r in results if r.seed in seeds and cells.get(r.arm) == (r.learning_rate, r.iterations)]


def by_group(results: Iterable[Result], metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """{arm: {set: {seed: metric}}}; folds are averaged, and a seed that lacks one of them is left out."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for result in results:
        key = result.arm, SETS[result.set].group, result.seed
        found.setdefault(key, {})[result.set] = getattr(result, metric)
    table: dict[str, dict[str, dict[int, float]]] = {}
    for (arm, group, seed), values in found.items():
        if len(values) == len(GROUPS[group]):
            table.setdefault(arm, {}).setdefault(group, {})[seed] = statistics.mean(values.values())
    return table
