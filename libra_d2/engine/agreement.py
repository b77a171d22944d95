"""Ranks that train one model need the same config, data and code; what differs is found before the first step."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

import libra_d2
from libra_d2.checks import UserError

_OF_A_HOST = ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES")  # paths: what lies there is compared instead


def check_agreement(cfg: CfgNode) -> None:
    """Compares fingerprints of config, data and code over all ranks.

    Raises:
        UserError: on every rank, names what differs and on which ranks.
    """
    if comm.get_world_size() == 1:
        return
    gathered = comm.all_gather(fingerprints(cfg))
    for what, of_first in gathered[0].items():
        others = [rank for rank, found in enumerate(gathered) if found[what] != of_first]
        if others:
            raise UserError(
                f"expected the same {what} on every rank, ranks {others} have another than rank 0: "
                "start all of them from the same files"
            )


def fingerprints(cfg: CfgNode) -> dict[str, str]:
    """Hashes of what has to be the same on every rank, by its name."""
    comparable = cfg.clone()
    comparable.defrost()
    comparable.OUTPUT_DIR = comparable.MODEL.LIBRA.LAZY.FILE = ""
    data = cfg.MODEL.LIBRA.DATA
    for key in _OF_A_HOST:
        comparable.MODEL.LIBRA.DATA[key] = bool(data[key])
    files = [Path(data[key]) for key in ("TRAIN_JSON", "VAL_JSON") if data[key]]
    lazy = [Path(file) for file in (cfg.MODEL.LIBRA.LAZY.FILE,) if file]
    return {
        "config": _digest([comparable.dump().encode()]),
        "LazyConfig": _digest(file.read_bytes() for file in lazy),
        "annotations": _digest(file.read_bytes() for file in files),
        "libra_d2": _digest(path.read_bytes() for path in sorted(Path(libra_d2.__path__[0]).rglob("*.py"))),
        "version of torch": torch.__version__,
        "version of Detectron2": detectron2.__version__,
    }


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
