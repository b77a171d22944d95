"""Prints what a bug report needs to say about the installation.

example:
  libra-d2 env
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys

import torch

import libra_d2
from libra_d2.checks import find_detectron2


def collect() -> dict[str, str]:
    """Returns every fact by its name, in the order of printing; what is missing says so and never raises."""
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
    return {
        "libra_d2": f"{libra_d2.__version__} ({libra_d2.__path__[0]})",
        "backends": backends(),
        "platform": platform.platform(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "compilers": ", ".join(_version_of(name) for name in (os.environ.get("CXX", "g++"), "nvcc")),
        "torch": f"{torch.__version__} (built for CUDA {torch.version.cuda or '-'})",
        "GPUs": ", ".join(devices) or "none visible",
        "CPU threads": str(torch.get_num_threads()),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "detectron2": _module("detectron2") if find_detectron2() else "not installed: libra-d2 install-detectron2",
        "torchvision": _module("torchvision"),
        "numpy": _module("numpy"),
        "pillow": _module("PIL"),
        "fvcore": _distribution("fvcore"),
        "pycocotools": _distribution("pycocotools"),
    }


def backends() -> str:
    """Returns one line: which implementation of the operators is used and why, and whether it has CUDA kernels."""
    from libra_d2 import ops
    from libra_d2.ops import _core

    return f"{_core.status()}, CUDA kernels: {'yes' if ops.has_cuda() else 'no'}"


def _module(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return f"cannot be imported: {error}"
    return f"{module.__version__} ({module.__path__[0]})"


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _version_of(compiler: str) -> str:
    if not shutil.which(compiler):
        return f"no {compiler}"
    output = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", output)
    return f"{compiler} {found[0] if found else '(unknown version)'}"


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brief", action="store_true", help="one line: the backends alone")
    return parser


def run(args) -> int:
    if args.brief:
        print(f"libra_d2 {libra_d2.__version__}, torch {torch.__version__}: {backends()}")
        return 0
    facts = collect()
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")
    return 0
