"""Which of Detectron2's training steps a config asks for: single or mixed precision."""

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import nn


def build_stepper(cfg: CfgNode, model: nn.Module, data_loader, optimizer) -> SimpleTrainer:
    """Detectron2's SimpleTrainer, or its AMPTrainer where ``SOLVER.AMP.ENABLED`` asks for it.

    AMPTrainer needs CUDA. On the CPU the model's training forward runs in ``torch.autocast``. float16 has its losses
    scaled; bfloat16, whose range is that of float32, does without.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    dtype = getattr(torch, cfg.MODEL.LIBRA.TRAIN.AMP_DTYPE)
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
        return AMPTrainer(model, data_loader, optimizer, grad_scaler=scaler, precision=dtype)
    _AutocastForward(model, dtype)
    return SimpleTrainer(model, data_loader, optimizer)


class _AutocastForward:
    """Runs a module's forward in autocast on the CPU while it trains; backward, as torch advises, is outside."""

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        self._dtype = dtype
        self._entered: list[torch.autocast] = []
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._exit, always_call=True)

    def _enter(self, module, args):
        if module.training:
            self._entered.append(torch.autocast("cpu", self._dtype))
            self._entered[-1].__enter__()

    def _exit(self, module, args, output):
        if self._entered:
            self._entered.pop().__exit__(None, None, None)
