"""A signal ends training after a step, with a checkpoint, from which it goes on as if nothing had happened."""

import os
import signal
from types import SimpleNamespace

import pytest
from detectron2.engine import HookBase

from libra_d2.checks import UserError
from libra_d2.engine import LibraTrainer, stop_signals
from libra_d2.engine.hooks import RankState
from libra_d2.engine.stop_signals import Stopped
from tests.engine.runs import train


@pytest.fixture(autouse=True)
def heeded():
    """Tests that run in the background ignore SIGINT, as their shell made them do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) in (signal.default_int_handler, signal.SIG_IGN)


def send(signum):
    os.kill(os.getpid(), signum)


class SendInStep(HookBase):
    def __init__(self, signum, at):
        self._signum, self._at = signum, at

    def before_step(self):
        if self.trainer.iter == self._at:
            send(self._signum)
            send(self._signum)  # as a terminal and a launcher do together


class SendInEvaluation(LibraTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        evaluator = super().build_evaluator(cfg, dataset_name)
        evaluator.process = lambda inputs, outputs: send(signal.SIGTERM)
        return evaluator


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_step_is_finished_and_training_resumes_with_the_same_losses(signum, status, config, tmp_path):
    whole, _ = train(config("whole"))
    with pytest.raises(Stopped) as stopped:
        train(config("cut"), SendInStep(signum, at=2))
    assert stopped.value.code == status
    assert {path.name for path in (tmp_path / "cut").glob("*.pth")} == {"model_0000002.pth"}
    rest, _ = train(config("cut"), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in (3, 4, 5)}, rel=1e-5)


def test_an_evaluation_is_given_up_and_the_step_before_it_kept(config, tmp_path):
    overrides = {"TEST": {"EVAL_PERIOD": 3}}
    whole, _ = train(config("whole", **overrides))
    with pytest.raises(Stopped) as stopped:
        train(config("cut", **overrides), kind=SendInEvaluation)
    assert stopped.value.code == 143
    assert {path.name for path in (tmp_path / "cut").glob("*.pth")} == {"model_0000002.pth"}
    rest, _ = train(config("cut", **overrides), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in (3, 4, 5)}, rel=1e-5)


def test_the_random_states_of_all_ranks_are_gathered_before_an_evaluation(monkeypatch):
    """After a signal in it, the ranks do not meet any more."""
    hook, gathered = RankState(4, 3), []
    monkeypatch.setattr(hook, "gather", lambda: gathered.append(hook.trainer.iter + 1))
    for i in range(10):
        hook.trainer = SimpleNamespace(iter=i, max_iter=10)
        hook.after_step()
    assert gathered == [3, 4, 6, 8, 9, 10]


def test_a_signal_in_the_last_step_does_not_cost_the_final_checkpoint(config, tmp_path):
    with pytest.raises(Stopped):
        train(config("cut"), SendInStep(signal.SIGTERM, at=5))
    assert {path.name for path in (tmp_path / "cut").glob("*.pth")} == {"model_final.pth"}


def test_ignored_signals_stay_ignored():
    """As in background jobs of a shell script, and SIGINT under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_signals.caught():
        send(signal.SIGINT)
        assert not stop_signals.requested()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def fail_after_signals(*signals, error=None):
    with stop_signals.caught():
        for signum in signals:
            send(signum)
            assert stop_signals.requested() == signum
        if error:
            raise error


def test_who_waited_and_asks_again_is_not_made_to_wait(monkeypatch):
    fail_after_signals(signal.SIGTERM, signal.SIGTERM)
    monkeypatch.setattr(stop_signals, "REPEATED_WITHIN", 0.0)
    with pytest.raises(Stopped):
        fail_after_signals(signal.SIGTERM, signal.SIGTERM)
    assert not stop_signals.requested(), "or the next evaluation in this process would end at once"


@pytest.mark.parametrize(
    ("signals", "error", "raised"),
    [
        ([signal.SIGTERM], RuntimeError("Connection closed by peer"), Stopped),
        ([signal.SIGTERM], UserError("the disk is full"), UserError),
        ([], RuntimeError("a bug"), RuntimeError),
    ],
)
def test_what_fails_after_a_signal_has_stopped_but_for_what_the_user_can_mend(signals, error, raised):
    with pytest.raises(raised):
        fail_after_signals(*signals, error=error)
