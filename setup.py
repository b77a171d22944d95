"""Builds the compiled core where it can be built; without it the pure-torch path is installed, with the same results.

LIBRA_D2_CUDA=0 leaves the CUDA half out, LIBRA_D2_CUDA=1 insists on it. TORCH_CUDA_ARCH_LIST, CUDA_HOME and CXX mean
what they mean to torch. DEBUG=1 builds without optimisation and with symbols. All else is in pyproject.toml.
"""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    torch = None

ROOT = Path(__file__).parent
BUILD_RECORD = "_core_build.json"  # in the package folder; libra_d2/ops/_core.py reads it
CUDA_WANTED = os.environ.get("LIBRA_D2_CUDA", "")
DEBUG = os.environ.get("DEBUG") == "1"


def no_core() -> str:
    """Why the core cannot be compiled at all; empty when it can."""
    if torch is None:
        return "torch cannot be imported here; where it is installed, pip install --no-build-isolation builds the core"
    return "" if shutil.which(compiler().split()[0]) else f"no C++ compiler, {compiler()} was not found"


def compiler() -> str:
    return os.environ.get("CXX") or "c++"


@functools.cache
def openmp() -> list[str]:
    """The flag for at::parallel_for, which is serial without it; none where it does not compile and link.

    Apple's clang refuses it, and clang elsewhere may lack libomp.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n")
        command = [*shlex.split(compiler()), "-fopenmp", "-shared", "-fPIC", source, "-o", source.with_suffix(".so")]
        done = subprocess.run(command, capture_output=True, check=False)
    return [] if done.returncode else ["-fopenmp"]


def no_cuda() -> str:
    """Why the CUDA half cannot be compiled; empty when it can."""
    if CUDA_WANTED == "0":
        return "LIBRA_D2_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    version = nvcc_version()
    if version is None:
        return "no nvcc was found"
    if version[0] != int(torch.version.cuda.split(".")[0]):
        return f"nvcc is of CUDA {version[0]}.{version[1]}, torch of CUDA {torch.version.cuda}"
    return "" if architectures() else f"nvcc knows none of torch's architectures, {torch._C._cuda_getArchFlags()}"


def ask_nvcc(*arguments: str) -> str:
    """What nvcc prints; empty where there is none."""
    nvcc = shutil.which("nvcc", path=str(Path(cpp_extension.CUDA_HOME or "/nowhere") / "bin"))
    if nvcc is None:
        return ""
    done = subprocess.run([nvcc, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def nvcc_version() -> tuple[int, int] | None:
    match = re.search(r"release (\d+)\.(\d+)", ask_nvcc("--version"))
    return (int(match[1]), int(match[2])) if match else None


def use_real_toolkit() -> None:
    """An nvcc in the PATH may be a link or a script, and its folder not the toolkit's: nvcc itself knows."""
    top = re.search(r"TOP=(\S+)", ask_nvcc("--dryrun", "-E", "-x", "cu", os.devnull))
    if top:
        cpp_extension.CUDA_HOME = os.path.realpath(top[1])


def architectures() -> str:
    """Those that torch is built for and nvcc knows; the older ones lack the shared memory that the kernels use.

    torch's own default is the GPUs that are visible, and fails where there is none.
    """
    wanted, known = torch._C._cuda_getArchFlags().split(), ask_nvcc("--list-gpu-code").split()
    numbers = sorted(int(code[3:]) for code in wanted if re.fullmatch(r"sm_\d+", code) and code in known)
    found = ";".join(f"{number // 10}.{number % 10}" for number in numbers if number >= 70)
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or (found and f"{found}+PTX")


def core(with_cuda: bool):
    """The extension module."""
    optimise = ["-O0", "-g"] if DEBUG else ["-O3"]
    # No contraction to FMA: every backend gives the same bits.
    flags = {"cxx": [*optimise, "-ffp-contract=off", *openmp()], "nvcc": [*optimise, "--fmad=false"]}
    patterns = ["csrc/*.cpp", "csrc/cpu/*.cpp"] + (["csrc/cuda/*.cpp", "csrc/cuda/*.cu"] if with_cuda else [])
    # torch's headers include cusparse.h and others, which its wheels bring and a bare nvcc lacks. What the toolkit has
    # comes first: headers of another release do not fit its nvcc.
    headers = Path(torch.__file__).parent.parent.glob("nvidia/*/include") if with_cuda else []
    if with_cuda:
        use_real_toolkit()
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures()
    make = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    extension = make(
        "libra_d2._C",
        sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)),
        depends=[str(path) for path in ROOT.glob("csrc/**/*") if path.suffix in (".h", ".cuh")],
        extra_compile_args=flags,
        extra_link_args=openmp(),
        py_limited_api=True,
    )
    extension.include_dirs += sorted(map(str, headers))
    return extension


class BuildCore(build_ext if torch is None else cpp_extension.BuildExtension):
    """Builds the core with CUDA, else without, else not at all; the record says which and why."""

    def run(self) -> None:
        why = no_cuda()
        if why and CUDA_WANTED == "1":
            raise SystemExit(f"libra_d2: LIBRA_D2_CUDA=1, but {why}")
        cuda = "" if why else f"{torch.version.cuda} for {architectures()}"
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "libra_d2"
        (folder / BUILD_RECORD).unlink(missing_ok=True)  # that of an older build
        error = self.compile()
        if error and CUDA_WANTED == "1":
            raise error
        if error and cuda:
            print(f"libra_d2: the CUDA half does not compile, trying without it: {error}", flush=True)
            cuda, why = "", "its CUDA half does not compile"
            vars(self.extensions[0]).update(vars(core(with_cuda=False)))
            error = self.compile()
        if error:
            print(f"libra_d2: the pure-torch path alone, the core does not compile: {error}", flush=True)
            self.extensions.clear()
            return
        record = {"torch": torch.__version__, "cuda": cuda, "why": why}
        (folder / BUILD_RECORD).write_text(json.dumps(record, indent=1) + "\n")
        backends = f"CPU and CUDA {cuda}" if cuda else f"CPU alone: {why}"
        if not openmp():
            backends += f"; the CPU's ops use one thread, as {compiler()} does not build with -fopenmp"
        print(f"libra_d2: compiled core for torch {torch.__version__}, {backends}", flush=True)

    def compile(self) -> Exception | None:
        """What came of it, None when all went well; it can then be tried again."""
        before = self.compiler, self.inplace
        try:
            super().run()
        except Exception as error:
            self.compiler, self.inplace = before  # setuptools changes both on its way
            return error


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
        ext_modules=[core(with_cuda=not no_cuda())],
        cmdclass={"build_ext": BuildCore, "build_py": BuildPackage},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
