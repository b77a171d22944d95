"""Loads the compiled core, the libraries that setup.py built, or says why it is not used.

They use torch's stable ABI alone. The one for the CPU serves every torch from 2.10 on; of those for CUDA, each serves
the ones of its major version of CUDA.
"""

import json
import logging
import os
from pathlib import Path

import torch

LOG = logging.getLogger("libra_d2.ops")
PACKAGE = Path(__file__).parent.parent

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
    no_core = _why_unfit(record, torch.__version__) or _load_library("_core_cpu.so", record)
    no_cuda = no_core or _why_no_cuda(record, torch.version.cuda)
    if not no_cuda:
        no_cuda = _load_library(_cuda_library(torch.version.cuda).name, record)
    if wanted == "native" and (no_core or no_cuda and torch.cuda.is_available()):
        raise ImportError(f"LIBRA_D2_BACKEND=native, but {no_core or f'there is a GPU and {no_cuda}'}")
    _loaded = not no_core
    if no_core:
        _status = f"torch ({no_core})"
    else:
        _status = f"native (CPU; {no_cuda})" if no_cuda else f"native (CPU and CUDA {record['cuda']})"


def _read_record() -> dict | None:
    path = PACKAGE / "_core_build.json"  # setup.py writes it
    return json.loads(path.read_text()) if path.exists() else None


def _why_unfit(record: dict | None, torch_version: str) -> str:
    """Why the core cannot run under this torch; empty when it can. Who has a core and cannot use it is told so."""
    if record is None:
        return "the compiled core was not built"
    if tuple(map(int, torch_version.split(".")[:2])) >= (2, 10):
        return ""
    trouble = f"the compiled core needs torch 2.10 or newer and this is torch {torch_version}"
    LOG.warning("the pure-torch ops are used: %s", trouble)
    return trouble


def _cuda_library(version: str) -> Path:
    return PACKAGE / f"_core_cuda{version.split('.')[0]}.so"


def _why_no_cuda(record: dict, torch_cuda: str | None) -> str:
    """Why there is no library for this torch's CUDA; empty when there is one."""
    if torch_cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if _cuda_library(torch_cuda).exists():
        return ""
    if not record["cuda"]:
        return f"the core was built without CUDA: {record['why']}"
    return f"the core was built for CUDA {record['cuda'].split()[0]} and this torch is of CUDA {torch_cuda}"


def _load_library(name: str, record: dict) -> str:
    """Why the library does not load; empty when it does."""
    try:
        torch.ops.load_library(str(PACKAGE / name))
    except OSError as error:
        built = f"built with torch {record['torch']}"
        trouble = f"{name}, {built}, does not load under torch {torch.__version__}: {error.__cause__ or error}"
        LOG.warning("pure-torch ops are used in its place: %s", trouble)
        return trouble
    return ""
