"""MMDetection 3.3.0 as an oracle: fetched from PyPI into the cache folder, run in a process of its own."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"


def mmdet_packages() -> Path:
    """The folder with MMDetection's Python files; the first call needs PyPI (4 MB), later ones nothing."""
    requirements = HERE / "requirements.txt"
    folder = CACHE / f"mmdet-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "mmdet.lock"):
        if not folder.exists():
            partial = tempfile.mkdtemp(dir=CACHE, prefix="mmdet-partial-")
            flags = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile", "--quiet"]
            command = [sys.executable, "-m", "pip", "install", *flags, "--target", partial, "-r", str(requirements)]
            try:
                subprocess.run(command, check=True)
                os.rename(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def mmdet(tmp_path_factory):
    """`mmdet(name)`: what the function `name` of oracle.py returns; it runs once, whatever number of workers ask.

    `mmdet(name, content)` gives it what is asked about, and runs each time.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    results = {}

    def ask(*arguments):
        env = {**os.environ, "PYTHONPATH": str(mmdet_packages()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "oracle.py"), *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]

    def run(name, content=None):
        if content is not None:
            files = [tmp_path_factory.mktemp("asked") / file for file in ("answer.pth", "question.pth")]
            torch.save(content, files[1])
            ask(name, *files)
            files[1].unlink()  # hundreds of megabytes of weights
            return torch.load(files[0], weights_only=True)
        out = folder / f"mmdet_{name}.pth"
        with FileLock(f"{out}.lock"):
            if not out.exists():
                ask(name, out)
        if name not in results:
            results[name] = torch.load(out, weights_only=True)
        return results[name]

    return run
