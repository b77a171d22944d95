"""Reading MMDetection's checkpoint files without MMDetection or MMEngine, and without running code from them."""

import re

import torch

from libra_d2.checkpoint.safe_load import load_file
from libra_d2.checkpoint.state_dict import plain, unwrapped
from libra_d2.mmdet.names import WHY_NOT_1X, CheckpointError, detector_and_classes

__all__ = ["STAND_INS", "read_mmdet", "read_published", "read_tensors"]

#: What a runner's own checkpoint holds besides tensors: its log and its random state. None of it is needed.
STAND_INS = {
    "mmengine.logging.history_buffer": ["HistoryBuffer"],
    "mmengine.config.config": ["Config", "ConfigDict"],
    "addict.addict": ["Dict"],
    "builtins": ["getattr"],  # by which HistoryBuffer names its methods
    "numpy": ["ndarray", "dtype"],
    **{f"numpy.{core}.multiarray": ["_reconstruct", "scalar"] for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": ["_frombuffer"] for core in ("core", "_core")},
}


def read_tensors(path, key: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The state dict in a file, and what else the file holds.

    Args:
        path: a checkpoint whose entry ``key`` is the state dict, or a bare state dict; ``.pth`` or ``.safetensors``.
        key: "state_dict" in MMDetection's files, "model" in Detectron2's.

    Raises:
        CheckpointError: the file holds no state dict.
        UserError: see :func:`libra_d2.checkpoint.safe_load.load_file`.
    """
    content = plain(load_file(path, STAND_INS), str(path))
    tensors, rest = (content[key], content) if key in content else (content, {})
    tensors = plain(tensors, str(path)) if isinstance(tensors, dict) else {"": None}
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()):
        found = ", ".join(map(str, list(content)[:4])) or "nothing"
        raise CheckpointError(f"{path}: expected an entry {key!r} with weights, or weights alone, got {found}")
    return unwrapped(tensors, str(path)), rest


def read_mmdet(path) -> dict[str, torch.Tensor]:
    """The first half of what :func:`read_published` returns; raises what that raises."""
    return read_published(path)[0]


def read_published(path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights of a file that MMDetection >= 2.0 published, of a runner's own checkpoint, or a bare one.

    Returns:
        the state dict, and the names of the classes where the file has them.

    Raises:
        CheckpointError: the file holds no state dict, or says that MMDetection 1.x made it.
        UserError: see :func:`libra_d2.checkpoint.safe_load.load_file`.
    """
    tensors, rest = read_tensors(path, "state_dict")
    meta = rest.get("meta")
    if isinstance(meta, dict) and (reason := _made_by_1x(tensors, meta)):
        raise CheckpointError(f"{path}: expected weights of MMDetection 2.0 or later, got 1.x ({reason}): {WHY_NOT_1X}")
    return tensors, _class_names(meta)


def _class_names(meta: object) -> list[str]:
    meta = meta if isinstance(meta, dict) else {}
    of_data = meta.get("dataset_meta")  # 3.x
    names = of_data.get("classes", ()) if isinstance(of_data, dict) else meta.get("CLASSES", ())
    known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if known else []


def _made_by_1x(tensors: dict[str, torch.Tensor], meta: dict) -> str:
    """Why a file is held to be MMDetection 1.x's, whose RetinaNet has the very names of 2.x; "" where it is not.

    The config in the file decides where there is one: 1.x counts the background as a class, 2.x with its Legacy classes
    runs converted 1.x weights. The version does not: weights trained just before 2.0 was tagged may say 1.x.
    """
    config, version = str(meta.get("config", "")), str(meta.get("mmdet_version", ""))
    said = {int(number) for number in re.findall(r"num_classes\s*=\s*(\d+)", config)}
    if "Legacy" in config:
        return "its config has Legacy classes"
    if not said:
        return version if version.startswith(("0.", "1.")) else ""
    _, classes = detector_and_classes(tensors, side=0)
    return f"its config counts {classes + 1} classes" if classes + 1 in said and classes not in said else ""
