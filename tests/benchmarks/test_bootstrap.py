"""benchmarks/accuracy/bootstrap.py: intervals over images, from predictions whose AP is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

IMAGES = 12


@pytest.fixture
def runs(accuracy, monkeypatch, tmp_path):
    """{arm: Evaluated} of two arms: one finds all boxes, one misses those of every third image."""
    store, jobs, bootstrap = accuracy("results"), accuracy("jobs"), accuracy("bootstrap")
    monkeypatch.setattr(jobs, "OUTPUT", tmp_path)
    boxes = [{"image_id": i, "category_id": 1, "bbox": [5, 5, 10 + i, 20]} for i in range(1, IMAGES + 1)]
    truth = {
        "images": [{"id": i, "width": 50, "height": 50} for i in range(1, IMAGES + 1)],
        "annotations": [{"id": i, "iscrowd": 0, "area": 200, **box} for i, box in enumerate(boxes, 1)],
        "categories": [{"id": 1, "name": "face"}],
        "info": {},
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))

    def make(arm, found, AP):
        result = store.Result("facemask", "imagenet", arm, 0.0005, 600, 1, AP, 0, 0, 0, 0, 0)
        path = bootstrap.predictions(result)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([{**box, "score": 0.9} for box in found]))
        return result

    results = [make("libra", boxes, 100.0), make("baseline", [b for i, b in enumerate(boxes) if i % 3], 66.34)]
    return bootstrap, tmp_path / "val.json", results


def test_only_runs_whose_predictions_are_there_are_paired(runs, tmp_path):
    bootstrap, _, (libra, baseline) = runs
    both = ["libra", "baseline"]
    assert bootstrap.matching_runs([baseline, libra], "facemask", "imagenet", both) == [[libra, baseline]]
    assert bootstrap.matching_runs([baseline, libra], "deeppcb", "imagenet", both) == []
    bootstrap.predictions(baseline).unlink()
    assert bootstrap.matching_runs([baseline, libra], "facemask", "imagenet", both) == []


def test_an_image_that_is_drawn_twice_counts_twice(runs):
    bootstrap, val, (_, baseline) = runs
    run = bootstrap.Evaluated(val, baseline)
    assert run.ap(np.array([1, 2, 4, 5])) == pytest.approx(100)  # all found
    assert run.ap(np.array([0, 3, 6, 9])) == pytest.approx(0)
    # one found, one missed: precision is 1 up to recall 0.5, 51 of COCO's 101 points
    assert run.ap(np.array([0, 1])) == pytest.approx(100 * 51 / 101)
    assert run.ap(np.array([0, 1, 1, 1])) == pytest.approx(100 * 76 / 101)


def test_the_interval_of_equal_runs_is_zero_and_that_of_a_clear_winner_is_above_it(runs):
    bootstrap, val, results = runs
    libra, baseline = (bootstrap.Evaluated(val, result) for result in results)
    assert bootstrap.interval([(baseline, baseline)], 20).startswith("+0.00 [+0.00, +0.00]")
    mean, low, high = bootstrap.interval([(libra, baseline)], 200).replace(",", "").split()[:3]
    assert float(mean) == pytest.approx(100 - 66.34, abs=0.01)
    assert 0 < float(low[1:]) < float(mean) < float(high[:-1])
    assert bootstrap.interval([(libra,)], 20).startswith("+100.00 [+100.00, +100.00]")  # AP itself


def test_predictions_that_do_not_have_the_ap_of_the_table_are_refused(runs):
    bootstrap, val, (libra, _) = runs
    path = bootstrap.predictions(libra)
    with pytest.raises(SystemExit, match=f"{path.name}: expected AP 99.5, as results.csv has it, got 100.000"):
        bootstrap.Evaluated(val, replace(libra, AP=99.5))
