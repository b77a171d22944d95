"""Loads the compiled core, ``libra_d2._C``, or says why it is not used."""

import importlib
import json
import logging
import os
from pathlib import Path

import torch

BUILD_RECORD = Path(__file__).parent.parent / "_core_build.json"  # setup.py writes it

_loaded = False
_status = ""


def loaded() -> bool:
    return _loaded


def status() -> str:
    """One line: which backend is in use and why."""
    return _status


def load() -> None:
    """Loads the core as ``LIBRA_D2_BACKEND`` asks: never for "torch", surely for "native", else where it was built."""
    global _loaded, _status
    wanted = os.environ.get("LIBRA_D2_BACKEND", "")
    if wanted not in ("", "torch", "native"):
        raise ValueError(f"expected LIBRA_D2_BACKEND to be torch, native or unset, got {wanted!r}")
    if wanted == "torch":
        _status = "torch (LIBRA_D2_BACKEND=torch)"
        return
    record = _read_record()
    trouble = _why_unfit(record, torch.__version__)
    if not trouble:
        try:
            importlib.import_module("libra_d2._C")
        except ImportError as error:
            trouble = f"the compiled core does not load: {error}"
    if wanted == "native" and not trouble and not record["cuda"] and torch.cuda.is_available():
        trouble = f"there is a GPU and the core was built for the CPU alone: {record['why']}"
    if trouble and wanted == "native":
        raise ImportError(f"LIBRA_D2_BACKEND=native, but {trouble}")
    if trouble:
        _status = f"torch ({trouble})"
        if record is not None:  # somebody built it and expects to get it
            logging.getLogger("libra_d2.ops").warning("the pure-torch ops are used: %s", trouble)
        return
    _loaded = True
    _status = f"native (CPU and CUDA {record['cuda']})" if record["cuda"] else f"native (CPU alone: {record['why']})"


def _read_record() -> dict | None:
    return json.loads(BUILD_RECORD.read_text()) if BUILD_RECORD.exists() else None


def _why_unfit(record: dict | None, torch_version: str) -> str:
    """Why the core cannot run under this torch; empty when it can. Its binary interface holds within major.minor."""
    if record is None:
        return "the compiled core was not built"
    if record["torch"].split(".")[:2] != torch_version.split(".")[:2]:
        return (
            f"the compiled core was built for torch {record['torch']} and this is torch {torch_version}; "
            "pip install --no-build-isolation builds it again"
        )
    return ""
