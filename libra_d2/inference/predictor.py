"""Loads trained models: weights that do not fill the model are an error, and no code in their file is run."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import nn

from libra_d2.checkpoint import LibraCheckpointer, summary
from libra_d2.checks import UserError


def load_trained(cfg: CfgNode, *, resume: bool = False, parts: Sequence[str] = ("",)) -> nn.Module:
    """The model that the config describes with the weights of ``MODEL.WEIGHTS``, in evaluation mode.

    Args:
        resume: take the newest checkpoint in ``OUTPUT_DIR`` instead, where there is one.
        parts: prefixes of the weights that have to be there, such as "backbone."; by default all.

    Raises:
        UserError: no weights are named, or they leave these parts of the model at random.
        FileError: they cannot be read.
    """
    return _fill(build_model(cfg), cfg, resume, parts)


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Detectron2's predictor with the model of :func:`load_trained`; raises what that raises."""
    empty = cfg.clone()
    empty.defrost()
    empty.MODEL.WEIGHTS = ""  # Detectron2 would unpickle it, which can run code from the file
    predictor = DefaultPredictor(empty)
    _fill(predictor.model, cfg)
    return predictor


def _fill(model: nn.Module, cfg: CfgNode, resume: bool = False, parts: Sequence[str] = ("",)) -> nn.Module:
    checkpointer = LibraCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    random = [name for name in _random(checkpointer.not_loaded) if name.startswith(tuple(parts))]
    if random:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} is not this detector after training, it lacks {summary(random)}: "
            "add MODEL.WEIGHTS FILE with a trained one, e.g. the model_final.pth that libra-d2 train wrote"
        )
    return model.eval()


def _random(not_loaded: list[str]) -> list[str]:
    """All of it but a balanced pyramid whose gate is new, and so closed: what is behind it does nothing."""
    closed = [name.removesuffix("gate") for name in not_loaded if name.endswith("backbone.gate")]
    harmless = tuple(prefix + part for prefix in closed for part in ("gate", "refine."))
    return [name for name in not_loaded if not name.startswith(harmless)]
