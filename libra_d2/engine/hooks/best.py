"""The best weights so far, and the end of a run that does not get better."""

import logging

from detectron2.checkpoint import Checkpointer
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm

from libra_d2.checkpoint import WeightsCheckpointer
from libra_d2.engine.hooks.evaluation import before_the_first_step
from libra_d2.engine.hooks.resume import RankState
from libra_d2.evaluation.metrics import lower_is_better

logger = logging.getLogger(__name__)


class EndOfPatience(BaseException):
    """Ends the loop of a run early. No Exception, which Detectron2 would log as an error."""


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, by ``MODEL.LIBRA.TRAIN.BEST_METRIC``, with ``MODEL.LIBRA.TRAIN.PATIENCE``.

    It goes on in a resumed run as it would have without the interruption. All ranks have to run it, after the hooks
    that evaluate; those get the metric from the main one.

    Args:
        weights: writes model_best.pth, of the model whose metric it is.
        checkpointer: writes model_final.pth where patience ends the run.
    """

    def __init__(self, cfg: CfgNode, weights: WeightsCheckpointer, checkpointer: Checkpointer, rank_state: RankState):
        metric = cfg.MODEL.LIBRA.TRAIN.BEST_METRIC
        super().__init__(cfg.TEST.EVAL_PERIOD, weights, metric, "min" if lower_is_better(metric) else "max")
        self._patience = cfg.MODEL.LIBRA.TRAIN.PATIENCE
        self._run_checkpointer, self._rank_state = checkpointer, rank_state
        self._last, self._without_gain = -1, 0

    def state_dict(self):
        return {
            "best_metric": self.best_metric,
            "best_iter": self.best_iter,
            "last_evaluation": self._last,
            "without_gain": self._without_gain,
        }

    def load_state_dict(self, state):
        self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]
        self._last, self._without_gain = state["last_evaluation"], state["without_gain"]

    def before_train(self):
        done = self.trainer.start_iter
        if not 0 < done < self.trainer.max_iter:
            return
        with before_the_first_step(self.trainer):
            if self._period > 0 and done % self._period == 0:  # EvalHook has begun with an evaluation
                self._best_checking()
            self._end_if_in_vain()

    def after_step(self):
        super().after_step()
        self._end_if_in_vain()

    def _best_checking(self):
        if self.trainer.iter <= self._last:  # a resumed run repeats an evaluation that counts already
            return
        self._last = self.trainer.iter
        self._share_metric()
        before = self.best_iter
        super()._best_checking()
        self._without_gain = 0 if self.best_iter != before else self._without_gain + 1

    def _share_metric(self) -> None:
        found = comm.all_gather(self.trainer.storage.latest().get(self._val_metric))[0]
        if found and not comm.is_main_process():
            self.trainer.storage.put_scalar(self._val_metric, found[0], smoothing_hint=False)

    def _end_if_in_vain(self) -> None:
        if not self._patience or self._without_gain < self._patience:
            return
        iteration = self.trainer.iter
        logger.info(
            f"{self._val_metric} has not become better in {self._without_gain} evaluations "
            f"(MODEL.LIBRA.TRAIN.PATIENCE): the run ends after iteration {iteration}; the best is that of iteration "
            f"{self.best_iter}, in {self._checkpointer.save_dir}/model_best.pth"
        )
        self.trainer.max_iter = iteration + 1  # what others do after the last iteration is done after this one
        self._rank_state.gather()
        self._run_checkpointer.save("model_final", iteration=iteration)
        raise EndOfPatience
