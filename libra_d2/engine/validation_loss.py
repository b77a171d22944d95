"""The losses on validation images: what training minimises, where it has not been minimised."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from libra_d2.data.random_state import seeded_rng
from libra_d2.data.validation_loader import build_validation_loader
from libra_d2.engine.hooks.resume import LOSS_NORMALIZER
from libra_d2.evaluation.metrics import VALIDATION_LOSS

logger = logging.getLogger(__name__)


class ValidationLoss:
    """Mean losses over ``MODEL.LIBRA.TRAIN.VALIDATION_LOSS`` images of each set of ``DATASETS.TEST``.

    An image is a batch of its own and has a seed of its own for what is sampled from it. So the losses of two
    evaluations differ by the weights alone, and their mean is the same for every number of ranks.

    Args:
        trained: the model that is trained, whose moving averages count.

    Raises:
        UserError: a data set has no images for it.
    """

    def __init__(self, cfg: CfgNode, trained: nn.Module):
        self._trained = trained
        limit = cfg.MODEL.LIBRA.TRAIN.VALIDATION_LOSS
        self._loaders = {name: build_validation_loader(cfg, name, limit) for name in cfg.DATASETS.TEST}

    def results(self, model: nn.Module) -> dict[str, dict]:
        """``{"validation_loss": {name: mean}}``; with several data sets such a dict by the name of each.

        On every rank; all have to call it. A loss can be NaN or infinite.

        Args:
            model: the one that is trained or its average; it is left as it was.
        """
        if isinstance(model, DistributedDataParallel):
            model = model.module
        by_set = {}
        for name, loader in self._loaders.items():
            found = comm.all_gather(self._losses(model, loader))
            losses = _mean([of_image for rank in found for of_image in rank])
            logger.info(f"Losses on {name}: " + ", ".join(f"{loss} {value:.4g}" for loss, value in losses.items()))
            by_set[name] = {VALIDATION_LOSS: losses}
        return by_set if len(by_set) > 1 else next(iter(by_set.values()))

    @torch.no_grad()
    def _losses(self, model: nn.Module, loader) -> list[dict[str, float]]:
        """Of each image that falls to this rank."""
        device, found = next(model.parameters()).device, []
        for batch in loader:
            with _in_training_mode(model), seeded_rng(device, batch[0]["position"]), EventStorage(1):
                if hasattr(self._trained, LOSS_NORMALIZER):
                    setattr(model, LOSS_NORMALIZER, getattr(self._trained, LOSS_NORMALIZER))
                try:
                    losses = model.forward(batch)  # not by __call__: the model's hooks watch the steps of training
                except FloatingPointError as error:  # Detectron2's, of boxes that are not finite
                    logger.warning(f"The losses on {batch[0]['file_name']} are not finite: {error}")
                    losses = {}
            values = torch.stack([loss.float() for loss in losses.values()]).tolist() if losses else [float("nan")]
            found.append({"total_loss": sum(values), **dict(zip(losses, values, strict=False))})
        return found


def _mean(losses: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for of_image in losses for name in of_image)
    return {name: sum(of.get(name, float("nan")) for of in losses) / len(losses) for name in names}


@contextlib.contextmanager
def _in_training_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model returns losses; after it, nothing in the model has changed.

    Modules without children run as in prediction: batch normalisation by its running statistics, no dropout.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]  # RetinaNet's normaliser is one
    buffers = [(module, name, b, b.clone()) for module in modules for name, b in module.named_buffers(recurse=False)]
    try:
        for module in modules:
            module.training = any(True for _ in module.children())
        yield
    finally:
        for module, before in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(before)
        for module, name, buffer, before in buffers:
            setattr(module, name, buffer.copy_(before))
