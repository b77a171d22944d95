"""Hooks that keep in a checkpoint what Detectron2 does not, so that a resumed run goes on unchanged."""

import logging

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from libra_d2.data.random_state import rng_state, set_rng_state

logger = logging.getLogger(__name__)

#: a plain attribute of Detectron2's dense detectors, a moving average that their state_dict does not hold
LOSS_NORMALIZER = "loss_normalizer"


class RankState(HookBase):
    """Keeps the random states and the loss normaliser of every rank.

    All ranks have to run it, right before the hook that writes checkpoints on the main one.

    Args:
        periods: iterations after which a checkpoint may be written: the checkpointer's period, and that of evaluation,
            which a signal ends with a checkpoint. 0: never.
    """

    def __init__(self, *periods: int):
        self._periods = [period for period in periods if period > 0]
        self._gathered: dict = {}
        self._loaded: dict | None = None

    def after_step(self):
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.gather()

    def state_dict(self):
        if comm.get_world_size() == 1:  # no other rank has to take part, so it can be done for any checkpoint
            self.gather()
        return self._gathered

    def load_state_dict(self, state):
        self._loaded = state

    def before_train(self):
        state, self._loaded = self._loaded, None
        if state is None:
            return
        ranks = state["ranks"]
        if len(ranks) != comm.get_world_size() or state["iteration"] != self.trainer.start_iter - 1:
            logger.warning(
                f"The checkpoint keeps the random states of {len(ranks)} ranks after iteration {state['iteration']}, "
                f"training goes on with {comm.get_world_size()} ranks from iteration {self.trainer.start_iter}: "
                "the losses will not be those of an uninterrupted run."
            )
            return
        own = ranks[comm.get_rank()]
        set_rng_state(own["rng"], self.trainer.cfg.MODEL.DEVICE)
        if own[LOSS_NORMALIZER] is not None:
            setattr(self._model(), LOSS_NORMALIZER, own[LOSS_NORMALIZER])

    def gather(self):
        """Takes the states of all ranks as they are now; all have to call it."""
        self._gathered = {"iteration": self.trainer.iter, "ranks": comm.gather(self._capture())}

    def _capture(self) -> dict:
        normalizer = getattr(self._model(), LOSS_NORMALIZER, None)
        if isinstance(normalizer, torch.Tensor):
            normalizer = normalizer.item()
        return {"rng": rng_state(self.trainer.cfg.MODEL.DEVICE), LOSS_NORMALIZER: normalizer}

    def _model(self):
        model = self.trainer.model
        return model.module if isinstance(model, DistributedDataParallel) else model


class RecentScalars(HookBase):
    """Keeps the scalars of the last iterations: what is logged are medians over them."""

    WINDOW = 20

    def __init__(self):
        self._loaded: dict = {}

    def state_dict(self):
        storage = self.trainer.storage
        hints = storage.smoothing_hints()
        return {
            name: [(float(value), int(at)) for value, at in history.values()[-self.WINDOW :]]
            for name, history in storage.histories().items()
            if hints[name]
        }

    def load_state_dict(self, state):
        self._loaded = state

    def before_train(self):
        for name, values in self._loaded.items():
            for value, at in values:
                self.trainer.storage.put_scalar(name, value, cur_iter=at)
        self._loaded = {}
