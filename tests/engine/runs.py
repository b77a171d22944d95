"""Runs of a few iterations, in this process."""

import torch
from detectron2.engine import HookBase

from libra_d2.engine import LibraTrainer


class Losses(HookBase):
    """Keeps the total loss of each iteration, and can stop training as an error would."""

    def __init__(self, stop_before=None):
        self.by_iteration = {}
        self._stop_before = stop_before

    def before_step(self):
        if self.trainer.iter == self._stop_before:
            raise KeyboardInterrupt

    def after_step(self):
        self.by_iteration[self.trainer.iter] = self.trainer.storage.latest()["total_loss"][0]


def train(cfg, *hooks, resume=False, stop_before=None, kind=LibraTrainer):
    """Returns ({iteration: total loss}, trainer)."""
    torch.manual_seed(cfg.SEED)
    trainer = kind(cfg)
    losses = Losses(stop_before)
    trainer.register_hooks([losses, *hooks])
    trainer.resume_or_load(resume=resume)
    try:
        trainer.train()
    except KeyboardInterrupt:
        pass
    return losses.by_iteration, trainer
