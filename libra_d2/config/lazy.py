"""Models of LazyConfigs, Detectron2's Python configs, for commands that go by a yacs config.

``MODEL.META_ARCHITECTURE`` "LazyModel" builds what the ``model`` of ``MODEL.LIBRA.LAZY.FILE`` says. That runs the file;
so it has to be named by whoever runs the command, and not by a config that came with weights.
"""

import contextlib
import difflib
import inspect
import os
from collections.abc import Iterator, Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from libra_d2.checks import UserError, require_detectron2, value_of

require_detectron2()

from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.registry import locate

from libra_d2.data.class_names import publish_class_names

NAME = "LazyModel"

# What commands ask a config for, by the part of the model that has it; all the box predictors of a cascade are meant.
_RCNN = {
    "MODEL.ROI_HEADS.NUM_CLASSES": ("roi_heads", "num_classes"),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("roi_heads.box_predictor", "test_score_thresh"),
    "TEST.DETECTIONS_PER_IMAGE": ("roi_heads.box_predictor", "test_topk_per_image"),
    "INPUT.FORMAT": ("", "input_format"),
}
_RETINANET = {
    "MODEL.RETINANET.NUM_CLASSES": ("", "num_classes"),
    "MODEL.RETINANET.SCORE_THRESH_TEST": ("", "test_score_thresh"),
    "TEST.DETECTIONS_PER_IMAGE": ("", "max_detections_per_image"),
    "INPUT.FORMAT": ("", "input_format"),
}

_trusted: set[str] = set()


def trust(file: str) -> None:
    """Lets this process run a LazyConfig: the user has named it."""
    _trusted.add(os.path.abspath(file))


@META_ARCH_REGISTRY.register()
def LazyModel(cfg: CfgNode) -> nn.Module:
    """The model of ``MODEL.LIBRA.LAZY.FILE``, with the number of classes and so on that ``cfg`` says.

    Raises:
        UserError: nobody has asked for this file to be run, or it cannot be loaded.
    """
    model = _trusted_model(cfg)
    publish_class_names(cfg)
    _fill_in(model, cfg)
    return instantiate(model)


def meta_architecture(cfg: CfgNode) -> type:
    """The class of the model that a config describes; raises what :func:`LazyModel` does."""
    if cfg.MODEL.META_ARCHITECTURE != NAME:
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    target = _trusted_model(cfg)["_target_"]
    return locate(target) if isinstance(target, str) else target


def _trusted_model(cfg: CfgNode) -> DictConfig:
    file = cfg.MODEL.LIBRA.LAZY.FILE
    if os.path.abspath(file) not in _trusted:
        raise UserError(
            f"MODEL.LIBRA.LAZY.FILE: expected a config that no code is run for, got {file!r}: add --config-file {file} "
            "to the command, in place of a config that names it"
        )
    return load_lazy(file, cfg.MODEL.LIBRA.LAZY.OVERRIDES)[0]


def load_lazy(file: str, overrides: Sequence[str] = ()) -> tuple[DictConfig, str]:
    """Runs a LazyConfig.

    Args:
        overrides: such as "model.roi_heads.batch_size_per_image=256".

    Returns:
        its ``model``, and its ``recipe``, the name of a config with all that is no model; "" where it has none.

    Raises:
        UserError: it fails, it has no ``model``, or an override names nothing in it.
    """
    try:
        model, recipe = LazyConfig.load(file, ("model", "recipe"))
    except KeyError as error:
        if error.args != ("recipe",):
            raise UserError(f"{file}: expected a LazyConfig with a model, got none ({error})") from error
        model, recipe = LazyConfig.load(file, "model"), ""
    except Exception as error:
        raise UserError(f"{file}: cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())})") from error
    if not isinstance(model, DictConfig) or "_target_" not in model:
        raise UserError(f"{file}: expected a model that LazyCall has made, got {type(model).__name__}")
    if not overrides:
        return model, recipe
    known = list(_keys(model, "model."))
    for key in (override.partition("=")[0] for override in overrides):
        if key not in known:
            near = " or ".join(difflib.get_close_matches(key, known, n=3))
            raise UserError(f"{file}: unknown key {key}{near and f'; did you mean {near}?'}")
    try:
        whole = OmegaConf.create({"model": model}, flags={"allow_objects": True})
        return LazyConfig.apply_overrides(whole, list(overrides)).model, recipe
    except (OmegaConfBaseException, HydraException) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from error


def _keys(node, prefix: str) -> Iterator[str]:
    """Dotted names of all that a DictConfig holds, and of the other arguments of what it calls."""
    if not isinstance(node, DictConfig):
        return
    for name in {*map(str, node), *_arguments(node.get("_target_"))}:
        yield prefix + name
        yield from _keys(node.get(name), f"{prefix}{name}.")


def _arguments(target) -> Iterator[str]:
    target = locate(target) if isinstance(target, str) else target
    for called in target.__mro__[:-1] if isinstance(target, type) else [target]:
        with contextlib.suppress(TypeError, ValueError):  # it is none of Python's
            yield from inspect.signature(called).parameters


def describe(model: DictConfig, cfg: CfgNode) -> None:
    """Writes into ``cfg`` what commands ask it about a model."""
    cfg.MODEL.META_ARCHITECTURE = NAME
    cfg.MODEL.MASK_ON = "mask_head" in (model.get("roi_heads") or ())
    for key, node, name in _fields(model):
        if name in node:
            cfg.merge_from_list([key, node[name]])


def _fill_in(model: DictConfig, cfg: CfgNode) -> None:
    """The other way round; what the model leaves to its class is Detectron2's default."""
    defaults = get_detectron2_cfg()
    for key, node, name in _fields(model):
        if name in node or value_of(cfg, key) != value_of(defaults, key):
            node[name] = value_of(cfg, key)


def _fields(model: DictConfig) -> Iterator[tuple[str, DictConfig, str]]:
    """(key of the config, node of the model, name in it)."""
    for key, (where, name) in (_RCNN if "roi_heads" in model else _RETINANET).items():
        single, several = (OmegaConf.select(model, where + end) if where else model for end in ("", "s"))
        for node in [single] if single is not None else several or ():
            yield key, node, name
