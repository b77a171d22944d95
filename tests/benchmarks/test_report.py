"""benchmarks/accuracy: which cell is chosen, what is not trained again, and what the tables say."""

import math
import sys
from itertools import product

import pytest

SLOW, FAST = (0.0005, 400), (0.001, 800)
SEARCHING = ("baseline", "libra")
FOLDS = ("trees_fold0", "trees_fold1")


@pytest.fixture
def make(accuracy):
    """Results from {(set, arm, cell, seed): AP}."""
    store = accuracy("results")

    def results(aps):
        return [
            store.Result(name, "imagenet", arm, *cell, seed, AP, 2 * AP, AP / 2, *3 * [math.nan])
            for (name, arm, cell, seed), AP in aps.items()
        ]

    return results


def searched(sets):
    return {(name, arm, cell, 0): 1.0 for name, arm, cell in product(sets, SEARCHING, (SLOW, FAST))}


def rows(table):
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[2:]]


def test_an_arm_is_judged_at_the_cell_that_is_best_on_average(accuracy, make):
    choice = accuracy("choice")
    sets = ("facemask", *FOLDS)
    aps = searched(sets)
    aps["facemask", "baseline", SLOW, 0] = 3.0
    aps["facemask", "baseline", FAST, 0] = 3.5  # the best single run
    aps["trees_fold0", "baseline", SLOW, 0] = aps["trees_fold1", "baseline", SLOW, 0] = 2.0
    aps["trees_fold0", "libra", FAST, 0] = 1.5
    assert choice.chosen(make(aps), "baseline", SEARCHING, sets) == SLOW
    assert choice.chosen(make(aps), "libra", SEARCHING, sets) == FAST
    assert choice.search_means(make(aps), "baseline", SEARCHING, sets)[SLOW] == 2.5  # the folds count as one set
    report = accuracy("report")
    aps["facemask", "bfp", SLOW, 1] = 1.0
    cells = report.cells_of(make(aps), "imagenet", SEARCHING)
    assert cells == {"baseline": SLOW, "libra": FAST, "bfp": SLOW}


def test_a_cell_that_someone_lacks_is_not_chosen(accuracy, make):
    choice = accuracy("choice")
    aps = searched(FOLDS)
    aps["trees_fold0", "baseline", FAST, 0] = 9.0
    del aps["trees_fold1", "libra", FAST, 0]
    assert choice.chosen(make(aps), "baseline", SEARCHING, FOLDS) == SLOW
    with pytest.raises(ValueError, match="expected a cell with a result of baseline, libra each, got none"):
        choice.chosen([], "baseline", SEARCHING, FOLDS)
    assert choice.chosen([], "baseline", SEARCHING, FOLDS, FAST) == FAST


def test_what_has_a_result_is_not_trained_again(accuracy, tmp_path):
    jobs, store = accuracy("jobs"), accuracy("results")
    todo, path = jobs.search_jobs("imagenet"), tmp_path / "results.csv"
    assert list(store.remaining(todo, store.read(path))) == todo
    for job in todo[1:3]:
        result = store.Result(
            **vars(job), AP=1.5, AP50=2.0, AP75=1.0, APs=0.5, APm=2.5, APl=math.nan, classes="1.2 1.8"
        )
        store.append(result, path)
    done = store.read(path)
    assert done[0].classes == "1.2 1.8"
    assert done[0].AP50 == 2.0
    assert math.isnan(done[0].APl)
    assert list(store.remaining(todo, done)) == [todo[0], *todo[3:]]
    assert list(store.remaining([*todo[:3], *todo], done)) == [todo[0], *todo[3:]]  # two lists with the same jobs


def test_the_results_that_are_kept_can_be_read_and_name_known_arms(accuracy):
    store, arms, sets = accuracy("results"), accuracy("arms"), accuracy("sets")
    for name, count in (("results.csv", 0), ("trees/results.csv", 92), ("trees/unclipped.csv", 60)):
        kept = store.read(store.RESULTS.parent / name)
        assert len(kept) == count or not count
        assert {result.arm for result in kept} <= {*arms.ARMS, "integrate_balanced_l1_positives"}
        assert {result.set for result in kept} <= set(sets.SETS)
        assert len({result.job() for result in kept}) == len(kept)  # one line a run


def test_a_difference_is_paired_by_seed_and_folds_are_averaged_first(accuracy, make):
    report = accuracy("report")
    aps = {(fold, "baseline", SLOW, seed): 10.0 + 8 * i + seed for i, fold in enumerate(FOLDS) for seed in (1, 2, 3)}
    gains = {1: (1.0, 1.0), 2: (-1.0, 1.0), 3: (3.0, 2.0)}  # of seeds, in each fold: 1, 0 and 2.5 on average
    aps |= {
        (fold, "bfp", SLOW, s): aps[fold, "baseline", SLOW, s] + g[i]
        for s, g in gains.items()
        for i, fold in enumerate(FOLDS)
    }
    aps["trees_fold0", "bfp", SLOW, 4] = 50.0  # a fold without its sister, and without a baseline
    aps["facemask", "bfp", SLOW, 1] = 50.0  # a set that the baseline lacks
    results = make(aps)
    cells = report.cells_of(results, "imagenet", ["baseline"], SLOW)
    runs = {(row["set"], row["arm"]): row for row in rows(report.runs_table(results, cells))}
    assert runs["trees", "baseline"]["AP"] == "16.0 ± 1.0"  # seeds 15, 16, 17
    assert runs["trees", "bfp"]["seeds"] == "3"
    assert runs["trees", "bfp"]["APs"] == ""
    (difference,) = rows(report.differences_table(results, "baseline", "AP"))
    # 1, 0, 2.5: mean 1.167, standard error 0.726, Student's t with two degrees of freedom 4.303
    assert difference["trees"] == "+1.2 ± 0.7 [-2.0, +4.3] (3)"
    assert difference["facemask"] == ""
    (difference,) = rows(report.differences_table(results, "baseline", "AP50"))
    assert difference["trees"].startswith("+2.3 ± 1.5")


def test_each_set_counts_the_same_and_scatters_as_much_as_it_does(accuracy):
    estimate = accuracy("estimate")
    few, many = [1.0, 3.0], [0.1, -0.1, 0.2, -0.2, 0.0, 0.0]
    both = estimate.over_sets({"a": few, "b": many, "c": []})
    alone = [estimate.of_pairs(values) for values in (few, many)]
    assert both.mean == pytest.approx(1.0)  # of 2 and 0, not of all pairs
    assert both.error == pytest.approx(math.hypot(*(of.error for of in alone)) / 2)
    assert both.high - both.mean == pytest.approx(2.4469 * both.error, rel=1e-4)  # Student's t, 8 pairs less 2 sets
    assert both.count == 8


def test_one_pair_has_no_error(accuracy):
    estimate = accuracy("estimate")
    assert str(estimate.of_pairs([1.25])) == "+1.2 (1)"
    assert str(estimate.of_pairs([])) == ""
    assert str(estimate.over_sets({"a": [1.0, 2.0], "b": [0.5]})) == "+1.0 (3)"
    assert str(estimate.over_sets({"a": []})) == ""


def test_search_and_test_seeds_are_told_apart(accuracy, make, tmp_path, monkeypatch, capsys):
    store = accuracy("results")
    path = tmp_path / "r.csv"
    monkeypatch.setattr(sys, "argv", ["report.py", str(path), "--searched-by", *SEARCHING, "--against", "baseline"])
    accuracy("report").main()
    assert capsys.readouterr().out == ""
    aps = searched(FOLDS) | {(fold, "libra", FAST, 1): 7.0 for fold in FOLDS}
    for fold in FOLDS:
        aps[fold, "libra", FAST, 0] = 6.0
    for result in make(aps):
        store.append(result, path)
    accuracy("report").main()
    test, search = capsys.readouterr().out.split("Search seeds")
    assert [(row["arm"], row["seeds"], row["AP"]) for row in rows(test.split("\n\n")[2])] == [("libra", "1", "7.0")]
    assert "6.0" not in test
    assert "| libra | +5.0 (1) | +5.0 (1) |" in search
    assert "| 0.001 | 800 | 1.0 | 6.0 |" in search
