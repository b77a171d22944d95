"""Every evaluation is made and reaches metrics.json, also around an interruption."""

import json

import pytest

from libra_d2.engine import LibraTrainer
from tests.engine.runs import train

EVALUATED = {"TEST": {"EVAL_PERIOD": 3}, "SOLVER": {"MAX_ITER": 10, "CHECKPOINT_PERIOD": 3, "STEPS": []}}


class Scripted(LibraTrainer):
    """The n-th evaluation of a run finds an AP of n; nothing is predicted."""

    APS = range(100)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.made.append(next(cls.aps))
        return {"bbox": {"AP": float(cls.made[-1])}}

    @classmethod
    def run(cls, cfg, *hooks, **kwargs):
        cls.aps, cls.made = iter(cls.APS), []
        return train(cfg, *hooks, kind=cls, **kwargs)


def evaluations(folder):
    """[(iteration, AP)] of the lines of metrics.json."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [(line["iteration"], line["bbox/AP"]) for line in lines if "bbox/AP" in line]


def test_every_evaluation_reaches_the_metrics(config, tmp_path):
    Scripted.run(config(**EVALUATED))
    assert evaluations(tmp_path / "out") == [(2, 0), (5, 1), (8, 2), (10, 3)]


def test_a_run_that_is_killed_leaves_its_evaluations(config, tmp_path):
    Scripted.run(config(**EVALUATED), stop_before=4)
    assert evaluations(tmp_path / "out") == [(2, 0)]


@pytest.mark.parametrize(("stop_before", "rest"), [(4, [2, 5, 8, 10]), (6, [5, 8, 10]), (7, [5, 8, 10])])
def test_a_resumed_run_begins_with_the_evaluation_that_may_be_missing(stop_before, rest, config, tmp_path):
    Scripted.run(config(**EVALUATED), stop_before=stop_before)
    before = evaluations(tmp_path / "out")
    Scripted.run(config(**EVALUATED), resume=True)
    assert evaluations(tmp_path / "out")[len(before) :] == [(iteration, i) for i, iteration in enumerate(rest)]


def test_nothing_is_evaluated_before_the_first_step_or_after_the_last_but_once(config, tmp_path):
    Scripted.run(config(**EVALUATED))
    assert len(Scripted.made) == 4
    Scripted.run(config(**EVALUATED), resume=True)
    assert len(Scripted.made) == 1, "a run that had ended evaluates, as Detectron2's does"
