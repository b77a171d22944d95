"""Builds the compiled core where it can be built; without it the pure-torch path is installed, with the same results.

The core uses torch's stable ABI alone, so that what is built here runs under every torch from 2.10 on, and any Python:
libra_d2/_core_cpu.so, and for CUDA one library for each major version of it, such as libra_d2/_core_cuda13.so.

LIBRA_D2_CUDA=0 leaves the CUDA library out, LIBRA_D2_CUDA=1 insists on it. CXX, CXXFLAGS, LDFLAGS, CUDA_HOME and
TORCH_CUDA_ARCH_LIST mean what they always do, MAX_JOBS bounds nvcc's threads, and DEBUG=1 builds without optimisation
and with symbols. All else is in pyproject.toml.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    import torch
except ImportError:
    torch = None

ROOT = Path(__file__).parent
TARGET = (2, 10)  # the oldest torch that the core runs under, in libra_d2/ops/_core.py as well
CUDA_WANTED = os.environ.get("LIBRA_D2_CUDA", "")
DEBUG = os.environ.get("DEBUG") == "1"


def no_core() -> str:
    """Why the core cannot be compiled at all; empty when it can."""
    if torch is None:
        return "torch cannot be imported here; where it is installed, pip install --no-build-isolation builds the core"
    if tuple(map(int, torch.__version__.split(".")[:2])) < TARGET:
        return f"it needs torch 2.10 or newer, and this is torch {torch.__version__}"
    return "" if shutil.which(compiler()[0]) else f"no C++ compiler, {compiler()[0]} was not found"


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX") or "c++")


def no_cuda() -> str:
    """Why the CUDA library cannot be compiled; empty when it can."""
    if CUDA_WANTED == "0":
        return "LIBRA_D2_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    version = re.search(r"release (\d+)\.(\d+)", ask_nvcc("--version"))
    if version is None:
        return "no nvcc was found"
    if version[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {version[1]}.{version[2]}, torch of CUDA {torch.version.cuda}"
    return "" if architectures() else f"nvcc knows none of torch's architectures, {torch._C._cuda_getArchFlags()}"


def nvcc() -> str | None:
    from torch.utils.cpp_extension import CUDA_HOME  # torch's own search for the toolkit

    return shutil.which("nvcc", path=f"{CUDA_HOME}/bin") if CUDA_HOME else None


def ask_nvcc(question: str) -> str:
    """What nvcc prints; empty where there is none."""
    return subprocess.run([nvcc(), question], capture_output=True, text=True, check=False).stdout if nvcc() else ""


def architectures() -> str:
    """Those that torch is built for and nvcc knows; the older ones lack the shared memory that the kernels use."""
    wanted, known = torch._C._cuda_getArchFlags().split(), ask_nvcc("--list-gpu-code").split()
    numbers = sorted(int(code[3:]) for code in wanted if re.fullmatch(r"sm_\d+", code) and code in known)
    found = ";".join(f"{number // 10}.{number % 10}" for number in numbers if number >= 70)
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or (found and f"{found}+PTX")


def gencode() -> list[str]:
    flags = []
    for name in re.split(r"[ ;]+", architectures()):
        number = name.removesuffix("+PTX").replace(".", "")
        kinds = [f"sm_{number}", f"compute_{number}"] if name.endswith("+PTX") else [f"sm_{number}"]
        flags += [f"-gencode=arch=compute_{number},code={kind}" for kind in kinds]
    return flags


class Library(Extension):
    """A library of the core and the command that makes it, but for its output."""

    def __init__(self, name: str, sources: list[str], command: list[str], libraries: list[str]):
        found = sorted(str(path.relative_to(ROOT)) for pattern in sources for path in ROOT.glob(pattern))
        super().__init__(f"libra_d2.{name}", found)
        folder = Path(torch.__file__).parent
        target = sum(part << shift for part, shift in zip(TARGET, (56, 48), strict=True))
        self.command = [*command, *(["-O0", "-g"] if DEBUG else ["-O3"]), "-std=c++17", "-shared"]
        self.command += [f"-DTORCH_TARGET_VERSION={target:#x}", "-isystem", f"{folder}/include", *found]
        self.command += [f"-L{folder}/lib", *(f"-l{library}" for library in libraries)]


def cpu_library() -> Library:
    command = [*compiler(), *host_flags(), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    library = Library("_core_cpu", ["csrc/*.cpp", "csrc/cpu/*.cpp"], command, ["torch_cpu"])
    library.command += [f"-Wl,{flag}" for flag in linker_flags()] + shlex.split(os.environ.get("LDFLAGS", ""))
    return library


def cuda_library() -> Library:
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    command = [nvcc(), *gencode(), "--fmad=false", "-cudart=static", "-nodlink", "-DUSE_CUDA", "--threads", jobs]
    command += [f"-Xcompiler={flag}" for flag in host_flags()]
    command += ["-ccbin", compiler()[0]] if "CXX" in os.environ else []
    sources = ["csrc/tensor_checks.cpp", "csrc/cuda/*.cpp", "csrc/cuda/*.cu"]
    major = torch.version.cuda.split(".")[0]
    library = Library(f"_core_cuda{major}", sources, command, ["torch_cpu", "torch_cuda"])
    library.command += [f"-Xlinker={flag}" for flag in linker_flags()]
    return library


def host_flags() -> list[str]:
    # No contraction to FMA: every backend gives the same bits. The map keeps this machine's folders out of messages.
    headers = Path(torch.__file__).parent / "include"
    return ["-fPIC", "-fvisibility=hidden", "-ffp-contract=off", f"-ffile-prefix-map={headers}=torch"]


def linker_flags() -> list[str]:
    """A torch that lacks a function is to say so when it loads the library, and not in the midst of a training.

    A C++ library that is linked in, as with -static-libstdc++, stays inside: half bound to torch's, it ends the process
    when an error is put into words.
    """
    return ["-znow", "--exclude-libs=ALL", *([] if DEBUG else ["-s"])] if sys.platform == "linux" else []


class BuildCore(build_ext):
    """Builds the core with CUDA, else without, else not at all; _core_build.json in the package says which and why."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', os.sep)}.so"

    def run(self) -> None:
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "libra_d2"
        for old in [*folder.glob("_core_*.so"), *folder.glob("_core_build.json")]:
            old.unlink()
        why = no_cuda()
        if why and CUDA_WANTED == "1":
            raise SystemExit(f"libra_d2: LIBRA_D2_CUDA=1, but {why}")
        self.why, self.cuda = why, "" if why else f"{torch.version.cuda} for {architectures()}"
        super().run()
        if not self.extensions:
            return
        record = {"torch": torch.__version__, "cuda": self.cuda, "why": self.why}
        (folder / "_core_build.json").write_text(json.dumps(record, indent=1) + "\n")
        backends = f"CPU and CUDA {self.cuda}" if self.cuda else f"CPU alone: {self.why}"
        print(f"libra_d2: compiled core for torch 2.10 and newer, {backends}", flush=True)

    def build_extensions(self) -> None:
        for library in list(self.extensions):
            target = Path(self.get_ext_fullpath(library.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            command = [*map(str, library.command), "-o", str(target)]
            if not subprocess.run(command, cwd=ROOT, check=False).returncode:
                continue
            print(f"libra_d2: this command failed: {shlex.join(command)}", flush=True)
            if "cuda" in library.name:
                if CUDA_WANTED == "1":
                    raise SystemExit("libra_d2: LIBRA_D2_CUDA=1, but its library does not compile")
                self.extensions.remove(library)
                self.cuda, self.why = "", "its CUDA library does not compile"
            else:
                print("libra_d2: the pure-torch path alone, the core does not compile", flush=True)
                self.extensions.clear()
                return


class BuildWheel(bdist_wheel):
    """The libraries use nothing of Python's that a later one lacks: nothing at all, in fact."""

    def get_tag(self) -> tuple[str, str, str]:
        return "cp310", "abi3", super().get_tag()[2]


class BuildPackage(build_py):
    """Puts the configs into the wheel, where libra_d2.model_zoo finds them; a checkout has them beside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib) / "libra_d2" / "configs", dirs_exist_ok=True)


reason = no_core()
if reason:
    if CUDA_WANTED == "1":
        raise SystemExit(f"libra_d2: LIBRA_D2_CUDA=1, but {reason}")
    print(f"libra_d2: the pure-torch path alone, no compiled core: {reason}", flush=True)
    setup(cmdclass={"build_py": BuildPackage})
else:
    setup(
        ext_modules=[cpu_library(), *([] if no_cuda() else [cuda_library()])],
        cmdclass={"build_ext": BuildCore, "build_py": BuildPackage, "bdist_wheel": BuildWheel},
    )
