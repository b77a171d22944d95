"""Proposal files: the boxes of another model's RPN, for Fast R-CNN to train on, read without running what they say.

Detectron2 reads ``DATASETS.PROPOSAL_FILES_*`` with a pickle that runs what is in it, so it never gets to see them here:
its loaders get data sets whose records have their proposals already.
"""

import itertools
import logging
import os
import zipfile
from collections.abc import Collection
from typing import BinaryIO

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from libra_d2.checkpoint.file_kind import identify
from libra_d2.checkpoint.safe_load import load_pickle
from libra_d2.checks import FileError, UserError

__all__ = [
    "check_proposal_files",
    "evaluation_records",
    "proposals_of",
    "read_proposals",
    "training_records",
    "without_proposals",
    "write_npz",
]

logger = logging.getLogger(__name__)

_EXPECTED = "proposals, as libra-d2 proposals writes them (.npz or .pkl)"
_KEYS = ("ids", "boxes", "objectness_logits")


def training_records(cfg: CfgNode) -> list[dict]:
    """The records of ``DATASETS.TRAIN`` as Detectron2's training loader has them, with their proposals.

    Raises:
        UserError: see :func:`read_proposals`; or there is not one file for each data set, or not every image is in it.
    """
    options = {
        "filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "min_keypoints": cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
    }
    if not cfg.MODEL.LOAD_PROPOSALS:
        return get_detection_dataset_dicts(cfg.DATASETS.TRAIN, **options)
    records = []
    for name, file in proposals_of(cfg, "TRAIN").items():
        records += _add(get_detection_dataset_dicts(name, **options), file)
    check_metadata_consistency("thing_classes", cfg.DATASETS.TRAIN)
    return records


def evaluation_records(cfg: CfgNode, name: str) -> list[dict]:
    """The same for the data set ``name`` of ``DATASETS.TEST``; images without objects stay."""
    records = get_detection_dataset_dicts(name, filter_empty=False)
    return _add(records, proposals_of(cfg, "TEST")[name]) if cfg.MODEL.LOAD_PROPOSALS else records


def proposals_of(cfg: CfgNode, split: str) -> dict[str, str]:
    """The proposal file of each data set of ``DATASETS.TRAIN`` or ``TEST``.

    Raises:
        UserError: there is not one for each.
    """
    names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(names) != len(files):
        raise UserError(
            f"DATASETS.PROPOSAL_FILES_{split}: expected a file for each of the {len(names)} data sets of "
            f"DATASETS.{split}, because MODEL.LOAD_PROPOSALS is True, got {len(files)}; libra-d2 proposals writes them"
        )
    return dict(zip(names, files, strict=True))


def check_proposal_files(cfg: CfgNode, splits: Collection[str]) -> None:
    """Finds out before a run whether the proposal files of these splits, "TRAIN" or "TEST", are there.

    Raises:
        UserError: one is not, or is no file of proposals.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        for split in splits:
            for file in proposals_of(cfg, split).values() if cfg.DATASETS[split] else ():
                _kind(_local(file))


def read_proposals(path: str) -> dict:
    """What Detectron2 reads from its proposal files: ids, boxes, objectness_logits and bbox_mode.

    Args:
        path: an ``.npz`` file of :func:`write_npz`, or a pickle of Detectron2 or Detectron.

    Returns:
        ``ids``: a text for each image; ``boxes``: a float32 array [R, 4] for each image; ``objectness_logits``: an
        array [R] for each; ``bbox_mode``: a BoxMode.

    Raises:
        UserError: the file names anything but arrays, or holds something other than proposals.
        FileError: it cannot be read, is truncated or damaged.
    """
    local = _local(path)
    content = _read_npz(local) if _kind(local) == "npz" else load_pickle(local)
    if isinstance(content, dict):  # Detectron has other names
        content = {{"indexes": "ids", "scores": "objectness_logits"}.get(key, key): v for key, v in content.items()}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list | np.ndarray) for key in _KEYS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(f"{path}: expected {_EXPECTED} with {', '.join(_KEYS)}, got {found[:200] or 'nothing'}")
    ids, boxes, logits = (list(content[key]) for key in _KEYS)
    if not len(ids) == len(boxes) == len(logits):
        raise UserError(
            f"{path}: expected boxes and objectness_logits of {len(ids)} images, got {len(boxes)} and {len(logits)}"
        )
    mode = content.get("bbox_mode", 0)
    if not isinstance(mode, int | np.integer) or mode not in [known.value for known in BoxMode]:
        raise UserError(f"{path}: expected a bbox_mode of Detectron2's BoxMode, got {type(mode).__name__} {mode!s:.20}")
    return {
        "ids": [str(i) for i in ids],
        "boxes": [_array(b, 2, path, i) for b, i in zip(boxes, ids, strict=True)],
        "objectness_logits": [
            _array(scores, 1, path, i, len(b)) for scores, b, i in zip(logits, boxes, ids, strict=True)
        ],
        "bbox_mode": BoxMode(int(mode)),
    }


def write_npz(content: dict, file: BinaryIO) -> None:
    """Writes proposals, as :func:`read_proposals` has them, without a pickle: five arrays, the images' rows in one."""
    boxes = [np.asarray(b, np.float32).reshape(-1, 4) for b in content["boxes"]]
    np.savez(
        file,
        ids=np.asarray(content["ids"]) if len(content["ids"]) else np.zeros(0, np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
        objectness_logits=np.concatenate([np.zeros(0, np.float32), *content["objectness_logits"]]),
        offsets=np.cumsum([0, *map(len, boxes)]),
        bbox_mode=np.int64(content["bbox_mode"]),
    )


def _local(path: str) -> str:
    try:
        return PathManager.get_local_path(path)
    except OSError as e:
        raise FileError(f"{path}: expected {_EXPECTED}, the file cannot be fetched ({e})") from e


def _kind(path: str) -> str:
    kind = identify(path, _EXPECTED)
    if kind not in ("npz", "pickle"):
        raise FileError(f"{path}: expected {_EXPECTED}, got weights ({kind})")
    return kind


def _read_npz(path: str | os.PathLike) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {info.filename.removesuffix(".npy"): _read_npy(archive, info) for info in archive.infolist()}
        bounds = arrays["offsets"].tolist()
        if arrays["offsets"].dtype.kind != "i" or bounds[:1] != [0] or bounds != sorted(bounds):
            raise ValueError("offsets that are none")
        if not len(arrays["boxes"]) == len(arrays["objectness_logits"]) == bounds[-1]:
            raise ValueError("offsets of other rows")
        rows = [slice(start, end) for start, end in itertools.pairwise(bounds)]
        return {
            "ids": arrays["ids"].tolist(),
            "boxes": [arrays["boxes"][part] for part in rows],
            "objectness_logits": [arrays["objectness_logits"][part] for part in rows],
            "bbox_mode": arrays["bbox_mode"].item(),
        }
    except MemoryError:
        raise
    except Exception as e:  # a damaged file fails in whatever way its bytes happen to say
        raise FileError(
            f"{path} is truncated or damaged, or holds other arrays ({type(e).__name__}: {str(e)[:100]}): expected "
            f"{_EXPECTED}"
        ) from None


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        size = dtype.itemsize
        for length in shape:
            size *= length
        if dtype.kind not in "biufU" or size > info.file_size:  # NumPy would reserve what the header says
            raise ValueError(f"an array of {dtype} {shape}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _array(value, ndim: int, path: str, image: object, rows: int | None = None) -> np.ndarray:
    expected = "boxes [R, 4]" if ndim == 2 else f"{rows} objectness_logits"
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "iuf"
    fits = numbers and value.ndim == ndim and (value.shape[1:] == (4,) if ndim == 2 else len(value) == rows)
    if not fits or not np.isfinite(value).all():
        got = f"an array {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise UserError(f"{path}: expected {expected} of finite numbers for image {image!s:.80}, got {got}")
    return value.astype(np.float32, copy=False)


def _add(records: list[dict], file: str) -> list[dict]:
    """Detectron2's ``load_proposals_into_dataset``: the best first."""
    logger.info(f"Reading proposals from {file}")
    content = read_proposals(file)
    row = {image: i for i, image in enumerate(content["ids"])}
    missing = [str(record["image_id"]) for record in records if str(record["image_id"]) not in row]
    if missing:
        raise UserError(
            f"{file}: expected proposals for every image, got none for {len(missing)} of {len(records)}, the first "
            f"of them {missing[0]}; they belong to another data set, or to a part of this one"
        )
    for record in records:
        i = row[str(record["image_id"])]
        order = content["objectness_logits"][i].argsort()[::-1]
        record["proposal_boxes"] = content["boxes"][i][order]
        record["proposal_objectness_logits"] = content["objectness_logits"][i][order]
        record["proposal_bbox_mode"] = content["bbox_mode"]
    return records


def without_proposals(cfg: CfgNode) -> CfgNode:
    """A copy by which Detectron2 builds its loaders without opening a proposal file."""
    copy = cfg.clone()
    copy.defrost()
    copy.MODEL.LOAD_PROPOSALS = False
    return copy
