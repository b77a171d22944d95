"""Detectron2's DefaultPredictor with a trained model in it, or an error."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from libra_d2.checkpoint import LibraCheckpointer, by_module


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """A predictor whose weights, ``MODEL.WEIGHTS``, were read without running pickled code.

    Raises:
        ValueError: the file leaves weights of the model at random.
        OSError: it cannot be read.
    """
    empty = cfg.clone()
    empty.defrost()
    empty.MODEL.WEIGHTS = ""
    predictor = DefaultPredictor(empty)
    checkpointer = LibraCheckpointer(predictor.model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    random = _random(checkpointer.not_loaded)
    if random:
        raise ValueError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} is not this detector after training, it lacks {by_module(random)}: "
            "name a trained one by MODEL.WEIGHTS FILE, e.g. the model_final.pth that train_net.py wrote"
        )
    return predictor


def _random(not_loaded: list[str]) -> list[str]:
    """All of it but a balanced pyramid whose gate is new, and so closed: what is behind it does nothing."""
    closed = [name.removesuffix("gate") for name in not_loaded if name.endswith("backbone.gate")]
    harmless = tuple(prefix + part for prefix in closed for part in ("gate", "refine."))
    return [name for name in not_loaded if not name.startswith(harmless)]
