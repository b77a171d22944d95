"""The moving average of the weights (EMA), which often detects better than the weights themselves."""

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from libra_d2.checkpoint import WeightsCheckpointer


def averaged_model(cfg: CfgNode, model: nn.Module) -> AveragedModel | None:
    """What :class:`WeightAverage` keeps up to date; None where ``MODEL.LIBRA.TRAIN.EMA_DECAY`` is 0.

    Buffers, such as the statistics of batch normalisation, are averaged too.

    Args:
        model: as it was built, without hooks and not inside DistributedDataParallel.
    """
    decay = cfg.MODEL.LIBRA.TRAIN.EMA_DECAY
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).requires_grad_(False)


class WeightAverage(HookBase):
    """Averages the weights after each step, the first of which it begins with, and saves model_final_ema.pth.

    To be run before the hooks that write checkpoints and evaluate.

    Args:
        model: the one that is trained.
        checkpointer: that of the averaged model.
    """

    def __init__(self, averaged: AveragedModel, model: nn.Module, checkpointer: WeightsCheckpointer):
        self._averaged, self._model, self._checkpointer = averaged, model, checkpointer

    def after_step(self):
        self._averaged.update_parameters(self._model)

    def after_train(self):
        if self.trainer.iter + 1 >= self.trainer.max_iter and self._averaged.n_averaged > 0:
            self._checkpointer.save("model_final_ema", iteration=self.trainer.max_iter - 1)
