"""What a run diverged on: the step, its images and losses, and what to do about it."""

import collections
import os
import statistics
from dataclasses import dataclass, field

import torch
from detectron2.checkpoint import Checkpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from libra_d2.checks import UserError
from libra_d2.engine.step_dump import StepState, write_step

_EXPLODED = 100


class DivergedError(UserError, FloatingPointError):
    """Losses, weights or the optimizer's state became infinite or NaN."""


@dataclass
class _Step:
    iteration: int
    batch: list[dict]
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    #: before the step, where a dump was asked for
    state: StepState | None = None


class StepWatch(HookBase):
    """Ends a run whose losses are not finite, and names what it diverged on.

    To be registered with Detectron2's SimpleTrainer. It raises on the rank whose losses they are, which knows the
    images, before the main rank finds that the mean over the ranks is not finite.

    Args:
        model: the one that the trainer calls.
        checkpointer: the one that has the last good checkpoint.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, checkpointer: Checkpointer):
        self._cfg, self._model, self._checkpointer = cfg, checkpointer.model, checkpointer
        self._steps: collections.deque[_Step] = collections.deque(maxlen=2)
        self._totals: collections.deque[tuple[int, float]] = collections.deque(maxlen=1000)
        model.register_forward_pre_hook(self._before_forward)
        model.register_forward_hook(self._after_forward)

    def _before_forward(self, model, args):
        if model.training:
            state = StepState.of(self._model, self._cfg) if self._cfg.MODEL.LIBRA.TRAIN.DUMP_DIVERGED else None
            self._steps.append(_Step(self.trainer.iter, args[0], state=state))

    def _after_forward(self, model, args, losses):
        if model.training:
            self._steps[-1].losses = {name: loss.detach() for name, loss in losses.items()}

    def after_backward(self):
        step = self._steps[-1]
        if not _are_finite(step.losses.values()):
            raise FloatingPointError("the losses of this rank are not finite")
        self._totals.append((step.iteration, sum(step.losses.values()).item()))

    def error(self, cause: FloatingPointError) -> UserError:
        """What to tell the user about the step that ``cause`` comes from; keeps that step if the config asks for it."""
        if not self._steps:
            return DivergedError(f"training has diverged: {cause}")
        step, what = self._culprit()
        images = ", ".join(f"{image.get('image_id')} ({image.get('file_name')})" for image in step.batch)
        losses = ", ".join(f"{name} {loss.item():.4g}" for name, loss in step.losses.items())
        checkpoint = self._last_good_checkpoint()
        then = f"continue with --resume from {checkpoint}, the last good checkpoint" if checkpoint else "start over"
        if step.state is None:
            kept = "MODEL.LIBRA.TRAIN.DUMP_DIVERGED True would keep what reproduces the step"
        else:
            kept = os.path.join(self._cfg.OUTPUT_DIR, f"diverged_rank{comm.get_rank()}.pth")
            write_step(kept, step.state, step.batch, step.iteration, self._cfg)
            kept += " reproduces the step: libra_d2.engine.step_dump.replay_step"
        rate = self._cfg.SOLVER.BASE_LR
        return DivergedError(
            f"training has diverged: {what} iteration {step.iteration}, on rank {comm.get_rank()} with the images "
            f"{images}; its losses are {losses or 'not known'}. Reduce SOLVER.BASE_LR (now {rate:g}) or set "
            f"SOLVER.CLIP_GRADIENTS.ENABLED True, and {then}; {kept}"
        )

    def _last_good_checkpoint(self) -> str:
        """The newest whose weights went into a step with a usual loss, made the one to resume from; "": there is none.

        Weights can be beyond help long before they are infinite. That the run has diverged is certain here, so where it
        began may be a guess: with losses of more than a hundred times the usual.
        """
        if not self._totals:
            return self._checkpointer.get_checkpoint_file()
        usual = statistics.median_low(total for _, total in self._totals)
        sane = max(iteration for iteration, total in self._totals if total <= usual + _EXPLODED * abs(usual))
        return self._checkpointer.go_back_to(sane - 1)

    def _culprit(self) -> tuple[_Step, str]:
        """The step that made the first value that is not finite, and which values those are."""
        step = self._steps[-1]
        if _are_finite(self._model.parameters()):
            return step, "the model's outputs are not finite in" if not step.losses else "the losses are not finite in"
        was_updated = step.losses and _are_finite(step.losses.values())  # the error came from saving the weights
        return step if was_updated else self._steps[0], "the weights are not finite after"


def _are_finite(tensors) -> bool:
    return all(tensor.isfinite().all() for tensor in tensors)
