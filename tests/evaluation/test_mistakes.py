"""Each kind of mistake is told from the others."""

import contextlib
import io

import numpy as np
import pytest

from libra_d2.evaluation.coco_tables import coco_tables
from libra_d2.evaluation.mistakes import best_threshold, count, judge
from tests.evaluation.scene import coco, random_scene, result

CAT, DOG = [10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 40.0, 40.0]
TRUTH = [(1, 3, CAT), (1, 8, DOG), (1, 3, [200.0, 200.0, 100.0, 100.0], 1), (2, 8, CAT)]


def judged(*results, truth=TRUTH):
    return judge(coco(truth, 2), [result(1, *of_result) for of_result in results])


@pytest.mark.parametrize(
    ("results", "kinds"),
    [
        ([(3, CAT, 0.9)], ["correct"]),
        ([(3, CAT, 0.9), (3, [12.0, 10.0, 40.0, 40.0], 0.95)], ["correct", "duplicate"]),
        ([(8, CAT, 0.9)], ["class"]),
        ([(3, [30.0, 10.0, 40.0, 40.0], 0.9)], ["localisation"]),
        ([(8, [30.0, 10.0, 40.0, 40.0], 0.9)], ["background"]),
        ([(3, [300.0, 10.0, 40.0, 40.0], 0.9)], ["background"]),
        ([(3, [210.0, 210.0, 20.0, 20.0], 0.9)], [""]),
        ([], []),
    ],
)
def test_kinds(results, kinds):
    assert judged(*results)[0].kinds == kinds


def test_the_counts_and_what_is_taken_for_what():
    results = [(3, CAT, 0.9), (3, CAT, 0.8), (3, DOG, 0.7), (9, [300.0, 10.0, 40.0, 40.0], 0.6), (8, DOG, 0.1)]
    mistakes = count(judged(*results), [3, 8, 9], 0.5)
    assert mistakes.kinds == {"correct": 1, "localisation": 0, "class": 1, "duplicate": 1, "background": 1}
    assert mistakes.missed == 2, "the dog of image 1, which was called a cat, and that of image 2"
    expected = [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert mistakes.confusion.tolist() == expected, "a dog was found as a cat, one not; a cat and an owl are nothing"
    assert mistakes.worst == [(1, 4), (2, 1)]
    lower = count(judged(*results), [3, 8, 9], 0.1)
    assert lower.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [2, 0, 1, 0]]


def test_the_threshold_is_that_of_the_highest_f1():
    images = judged((3, CAT, 0.9), (3, [300.0, 10.0, 40.0, 40.0], 0.8), (8, DOG, 0.6), (8, [0.0, 300.0, 9.0, 9.0], 0.2))
    assert best_threshold(images) == 0.6
    assert best_threshold(judged((3, DOG, 0.9))) == 0
    assert best_threshold([]) == 0


def test_correct_detections_are_those_of_coco():
    """At an IoU of 0.5 and with as many detections, recall is the same."""
    truth, results = random_scene(seed=3)
    for annotation in truth.anns.values():
        annotation["iscrowd"] = 0
    mistakes = count(judge(truth, results), [3, 8, 9], 0.0)
    objects = len(truth.anns)
    with contextlib.redirect_stdout(io.StringIO()):
        tables = coco_tables(truth, results)
    assert mistakes.kinds["correct"] + mistakes.missed == objects
    assert mistakes.confusion[:-1].sum() == objects
    assert sum(mistakes.kinds.values()) == len(results) == mistakes.confusion[:, :-1].sum()
    reached = [np.flatnonzero(np.nan_to_num(tables.precision[0.5]) > 0).max() / 100]
    assert mistakes.kinds["correct"] / objects == pytest.approx(reached[0], abs=0.25)
