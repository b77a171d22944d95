"""Loads trained models: weights that do not fill the model are an error, and no code in their file is run."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model
from detectron2.modeling.test_time_augmentation import DatasetMapperTTA
from PIL import Image
from torch import nn

from libra_d2.checkpoint import LibraCheckpointer, summary
from libra_d2.checkpoint.saved_classes import class_names_in
from libra_d2.checks import UserError, choice
from libra_d2.config.lazy import meta_architecture
from libra_d2.inference.tiles import check_tiles, in_tiles, unresized

# what detectron2.data.detection_utils.read_image can make of an image besides BGR and RGB
_CONVERTED = ("L", "YUV-BT.601")


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
    """Detectron2's predictor with the model of :func:`load_trained`; raises what that raises.

    Like Detectron2's it takes BGR images, whatever ``INPUT.FORMAT`` the model was trained with. With
    ``TEST.AUG.ENABLED`` it predicts as Detectron2's augmented evaluation does, with ``MODEL.LIBRA.TILES.SIZE`` in
    tiles.
    """
    check_augmented_test(cfg)
    check_tiles(cfg)
    empty = unresized(cfg).clone()
    empty.defrost()
    empty.MODEL.WEIGHTS = ""  # Detectron2 would unpickle it, which can run code from the file
    kind = DefaultPredictor
    if choice(cfg, "INPUT.FORMAT", ("BGR", "RGB", *_CONVERTED)) in _CONVERTED:
        kind, empty.INPUT.FORMAT = _ConvertingPredictor, "BGR"
    predictor = kind(empty)
    predictor.input_format = cfg.INPUT.FORMAT
    _fill(predictor.model, cfg)
    if cfg.TEST.AUG.ENABLED:
        mapper = (DatasetMapperTTA if cfg.INPUT.FORMAT.startswith("YUV") else _EightBits)(cfg)
        predictor.model = GeneralizedRCNNWithTTA(cfg, predictor.model, mapper).eval()
    predictor.model = in_tiles(cfg, predictor.model)
    return predictor


def check_augmented_test(cfg: CfgNode) -> None:
    """Raises UserError where Detectron2's test-time augmentation is asked for and cannot do this model."""
    if not cfg.TEST.AUG.ENABLED:
        return
    meta_arch = meta_architecture(cfg)
    if not issubclass(meta_arch, GeneralizedRCNN) or cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "TEST.AUG.ENABLED: expected False: Detectron2's test-time augmentation is for R-CNNs that make their own "
            f"proposals, got True with {meta_arch.__name__} and MODEL.LOAD_PROPOSALS {cfg.MODEL.LOAD_PROPOSALS}"
        )


class _EightBits(DatasetMapperTTA):
    """Resizes what Detectron2's evaluation does, where DefaultPredictor has made floats of it."""

    def __call__(self, dataset_dict):
        return super().__call__({**dataset_dict, "image": dataset_dict["image"].to(torch.uint8)})


class _ConvertingPredictor(DefaultPredictor):
    """For the formats that the training loader reads and DefaultPredictor refuses."""

    def __call__(self, original_image: np.ndarray) -> dict:
        image = Image.fromarray(np.ascontiguousarray(original_image[:, :, ::-1]))
        return super().__call__(convert_PIL_to_numpy(image, self.input_format))


def _fill(model: nn.Module, cfg: CfgNode, resume: bool = False, parts: Sequence[str] = ("",)) -> nn.Module:
    checkpointer = LibraCheckpointer(model, cfg.OUTPUT_DIR)
    rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    random = [name for name in _random(checkpointer.not_loaded) if name.startswith(tuple(parts))]
    if random:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} is not this detector after training, it lacks {summary(random)}: "
            "add MODEL.WEIGHTS FILE with a trained one, e.g. the model_final.pth that libra-d2 train wrote"
        )
    if "" in parts:
        _refuse_other_classes(cfg, class_names_in(rest))
    return model.eval()


def _refuse_other_classes(cfg: CfgNode, trained: list[str]) -> None:
    """Outputs have the order of the names that training had; other names for them would be wrong."""
    names = list(cfg.MODEL.LIBRA.DATA.CLASS_NAMES)
    if trained and names and names != trained:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} was trained on the classes {trained}, the config has {names} "
            "(MODEL.LIBRA.DATA.CLASS_NAMES); use the config.yaml that was saved beside the weights"
        )


def _random(not_loaded: list[str]) -> list[str]:
    """All of it but a balanced pyramid whose gate is new, and so closed: what is behind it does nothing."""
    closed = [name.removesuffix("gate") for name in not_loaded if name.endswith("backbone.gate")]
    harmless = tuple(prefix + part for prefix in closed for part in ("gate", "refine."))
    return [name for name in not_loaded if not name.startswith(harmless)]
