"""The best weights are kept, and a run that does not get better ends; both as without an interruption."""

import pytest
import torch

from libra_d2.engine.hooks import BestCheckpointer
from tests.engine.hooks.test_evaluation import Scripted, evaluations


def settings(metric="bbox/AP", patience=0, **solver):
    return {
        "TEST": {"EVAL_PERIOD": 2},
        "SOLVER": {"MAX_ITER": 12, "CHECKPOINT_PERIOD": 2, "STEPS": [], **solver},
        "MODEL": {"LIBRA": {"TRAIN": {"BEST_METRIC": metric, "PATIENCE": patience}}},
    }


def scripted(aps, metric="bbox/AP"):
    """A trainer whose n-th evaluation finds the n-th AP, also where it is resumed."""

    class OfWeights(Scripted):
        by_weights: dict = {}

        @classmethod
        def test(cls, cfg, model, evaluators=None):
            weights = sum(p.sum() for p in model.parameters()).item()
            if weights not in cls.by_weights:
                cls.by_weights[weights] = aps[len(cls.by_weights)]
            return {cls.task: {cls.metric: cls.by_weights[weights]}}

    OfWeights.task, OfWeights.metric = metric.split("/")
    return OfWeights


def best(folder):
    content = torch.load(folder / "model_best.pth", weights_only=True)
    return content["iteration"], content["model"]


def numbered(folder, iteration):
    return torch.load(folder / f"model_{iteration:07d}.pth", weights_only=True)["model"]


def test_the_weights_with_the_best_metric_are_kept(config, tmp_path):
    scripted([3.0, 9.0, float("nan"), 9.0, 7.0, 8.0]).run(config(**settings()))
    iteration, weights = best(tmp_path / "out")
    assert iteration == 3
    torch.testing.assert_close(weights, numbered(tmp_path / "out", 3), rtol=0, atol=0)
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    assert "trainer" not in torch.load(tmp_path / "out" / "model_best.pth"), "nothing that a resume would need"


def test_a_run_ends_where_patience_does(config, tmp_path):
    _, trainer = scripted([3.0, 9.0, 8.0, 9.0, 10.0, 11.0]).run(config(**settings(patience=2)))
    out = tmp_path / "out"
    assert evaluations(out) == [(1, 3), (3, 9), (5, 8), (7, 9)], "the last one is that of the final weights"
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert final["iteration"] == final["trainer"]["iteration"] == 7
    torch.testing.assert_close(final["model"], numbered(out, 7), rtol=0, atol=0)
    assert best(out)[0] == 3
    assert trainer._last_eval_results["bbox"]["AP"] == 9


def test_of_losses_the_lowest_is_the_best(config, tmp_path):
    loss = "validation_loss/total_loss"
    scripted([3.0, 1.0, float("nan"), 1.0, 0.5, 2.0], loss).run(config(**settings(loss, patience=2)))
    assert best(tmp_path / "out")[0] == 3, "patience ends the run before 0.5"


def test_a_run_that_patience_has_ended_is_not_taken_up_again_but_with_more_of_it(config, tmp_path):
    kind = scripted([3.0, 2.0, 1.0, 4.0, 4.0, 4.0])
    kind.run(config(**settings(patience=2)))
    losses, _ = kind.run(config(**settings(patience=2)), resume=True)
    assert losses == {}
    assert torch.load(tmp_path / "out" / "model_final.pth")["trainer"]["iteration"] == 5
    losses, _ = kind.run(config(**settings(patience=3)), resume=True)
    assert set(losses) == {6, 7, 8, 9, 10, 11}
    assert best(tmp_path / "out")[0] == 7


APS = [3.0, 9.0, 8.0, 7.0, 9.5, 9.0]


@pytest.mark.parametrize("stop_before", [4, 6, 9])
def test_after_a_kill_at_any_step_it_goes_on_as_without(stop_before, config, tmp_path):
    kind = scripted(APS)
    whole, reference = kind.run(config("whole", **settings(patience=3, CHECKPOINT_PERIOD=3)))
    options = settings(patience=3, CHECKPOINT_PERIOD=3)
    kind.run(config("cut", **options), stop_before=stop_before)
    rest, resumed = kind.run(config("cut", **options), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in rest}, rel=1e-5)
    states = [next(h for h in t._hooks if isinstance(h, BestCheckpointer)).state_dict() for t in (reference, resumed)]
    assert states[0] == states[1]
    assert best(tmp_path / "cut")[0] == best(tmp_path / "whole")[0] == 9
