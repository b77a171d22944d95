"""Evaluations on the way: none is lost, be it to an interruption or to what the writers do not write."""

import contextlib
from collections.abc import Iterator

from detectron2.engine import TrainerBase, hooks
from detectron2.utils.events import CommonMetricPrinter

from libra_d2.engine.run_writers import RunWriter


@contextlib.contextmanager
def before_the_first_step(trainer: TrainerBase) -> Iterator[None]:
    """Inside, a resumed run is still where its checkpoint was written; what raises leaves it there."""
    done = trainer.start_iter
    trainer.iter = trainer.storage.iter = done - 1
    yield
    trainer.iter = trainer.storage.iter = done


class EvalHook(hooks.EvalHook):
    """Detectron2's, for resumed runs and those that end early.

    A checkpoint is written before the evaluation after the same step. A run that goes on from it begins with that
    evaluation: what depends on it, such as the best checkpoint, is what it would have been without the interruption.
    """

    _evaluated = -1

    def before_train(self):
        trainer = self.trainer
        done = trainer.start_iter
        if self._period > 0 and 0 < done < trainer.max_iter and done % self._period == 0:
            with before_the_first_step(trainer):
                self._do_eval()

    def after_train(self):
        if self.trainer.iter == self._evaluated:  # the run has ended right after an evaluation
            self._eval_after_train = False
        super().after_train()

    def _do_eval(self):
        super()._do_eval()
        self._evaluated = self.trainer.iter


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's, which also writes after each evaluation: it would keep the last one alone of those in a period.

    Terminal and log.txt, to which evaluations tell their results themselves, get the lines that they get there. Runs of
    trackers begin and end with the training.
    """

    def __init__(self, writers, eval_period: int, **kwargs):
        super().__init__(writers, **kwargs)
        self._eval_period = eval_period

    def before_train(self):
        for writer in self._run_writers():
            writer.open(is_resumed=self.trainer.start_iter > 0)
        self._write_evaluation(self.trainer.start_iter)

    def after_step(self):
        super().after_step()
        self._write_evaluation(self.trainer.iter + 1)

    def after_train(self):
        super().after_train()
        for writer in self._run_writers():
            writer.end(is_complete=self.trainer.iter + 1 >= self.trainer.max_iter)

    def _run_writers(self) -> list[RunWriter]:
        return [writer for writer in self._writers if isinstance(writer, RunWriter)]

    def _write_evaluation(self, steps_done: int) -> None:
        if steps_done and self._eval_period > 0 and steps_done % self._eval_period == 0:
            for writer in self._writers:
                if not isinstance(writer, CommonMetricPrinter):
                    writer.write()
