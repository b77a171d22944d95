"""Compiles the emulated kernels with the host's C++ compiler; what did not change is not built again."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "cuda_emulator"
KERNELS = ROOT / "csrc"

_FLAGS = ["-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", "-ffp-contract=off"]


def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        pytest.skip("no C++ compiler (CXX or g++), so the CUDA kernels cannot be emulated")
    return found


def compile_emulated(name: str, sources: list[str], flags: list[str], *, kernels: Path = KERNELS) -> Path:
    """Path of the binary made of ``sources`` (names in this folder) and the ``kernels`` of a csrc folder."""
    command = [compiler(), *_FLAGS, *flags]
    digest = hashlib.sha256(" ".join([name, *sources, *command]).encode())
    for path in sorted(
        [
            *HERE.glob("*.h"),
            *HERE.glob("*.cpp"),
            *kernels.glob("*.h"),
            *kernels.glob("cuda/*.cuh"),
            *kernels.glob("cuda/*.h"),
        ]
    ):
        digest.update(path.name.encode() + path.read_bytes())
    target = CACHE / digest.hexdigest()[:16] / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: test processes may build the same at once.
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as unfinished:
            pass
        command += ["-include", str(HERE / "cuda_emulator.h"), f"-I{kernels}"]
        command += [*(str(HERE / source) for source in sources), "-o", unfinished.name]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode and any("sanitize" in flag for flag in flags) and "cannot find" in built.stderr:
            pytest.skip("the compiler's sanitizer libraries are not installed")
        assert built.returncode == 0, f"{' '.join(command)}\n{built.stderr}"
        os.chmod(unfinished.name, 0o755)
        os.replace(unfinished.name, target)
    return target
