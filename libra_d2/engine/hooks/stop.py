"""The hook that ends training where a signal asked for it, with a checkpoint that training goes on from."""

import torch
import torch.distributed as dist
from detectron2.checkpoint import Checkpointer
from detectron2.engine import HookBase
from detectron2.utils import comm

from libra_d2.engine import stop_signals
from libra_d2.engine.hooks.resume import RankState


class StopOnSignal(HookBase):
    """Stops all ranks after the same step, as soon as one of them was asked to.

    They agree once a step by an all-reduce of one integer on the CPU. All ranks have to run the hook, after the hooks
    that change what a checkpoint keeps, and before the one that evaluates: an evaluation is given up at once, and the
    step before it is the one that is kept.
    """

    def __init__(self, checkpointer: Checkpointer, rank_state: RankState):
        self._checkpointer = checkpointer
        self._rank_state = rank_state
        self._group = None
        self._done: int | None = None

    def before_train(self):
        if comm.get_world_size() > 1:
            self._group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def before_step(self):
        self._done = None

    def after_step(self):
        self._done = self.trainer.iter
        signum = self._agreed()
        if signum and not self._is_last():
            self._rank_state.gather()
            self._save()
            comm.synchronize()  # a launcher ends all ranks when the first has ended
            raise stop_signals.Stopped(signum)

    def after_train(self):
        if stop_signals.requested() and self._done is not None and not self._is_last():
            self._save()

    def _is_last(self) -> bool:
        return self._done + 1 >= self.trainer.max_iter

    def _agreed(self) -> int:
        signum = torch.tensor(stop_signals.requested())
        if self._group is not None:
            dist.all_reduce(signum, dist.ReduceOp.MAX, group=self._group)
        return int(signum)

    def _save(self) -> None:
        name = f"model_{self._done:07d}"
        if comm.is_main_process() and not self._checkpointer.get_checkpoint_file().endswith(f"/{name}.pth"):
            self._checkpointer.save(name, iteration=self._done)
