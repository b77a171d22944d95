"""Where the core cannot be built, pure torch takes over and one line says why."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


# setup.py builds for the oldest torch that has the stable ABI, with its headers
needs_stable_abi = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10), reason="the core cannot be built before torch 2.10"
)


def run_setup(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "LIBRA_D2_CUDA": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path):
    """A copy of what setup.py reads, with sources that compile in no time."""
    for folder in ("libra_d2", "csrc/cpu", "csrc/cuda"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "libra_d2" / "__init__.py").write_text('__version__ = "0"\n')
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "csrc" / "ops.cpp").write_text("int answer() { return 42; }\n")
    (tmp_path / "csrc" / "cuda" / "kernels.cu").touch()
    (tmp_path / "setup.py").write_text((ROOT / "setup.py").read_text())
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "libra_d2"\nversion = "0"\n[tool.setuptools]\npackages = ["libra_d2"]\n'
    )
    return tmp_path


def said(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("libra_d2: ")]


@needs_stable_abi
def test_without_a_compiler_pure_torch_is_installed(source):
    done = run_setup(source, "setup.py", "--quiet", "build", CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    assert said(done) == [
        "libra_d2: the pure-torch path alone, no compiled core: no C++ compiler, /nowhere/c++ was not found"
    ]
    assert not list(source.glob("build/**/*.so"))


@needs_stable_abi
def test_a_cpp_library_that_is_linked_in_stays_inside(source):
    """Exported, some of it would be bound to the C++ library that torch has loaded, and some not."""
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed")
    (source / "csrc" / "ops.cpp").write_text(
        "#include <sstream>\nint length(long n) { std::ostringstream text; text << n; return text.str().size(); }\n"
    )
    done = run_setup(source, "setup.py", "--quiet", "build_ext", "--inplace", LDFLAGS="-static-libstdc++")
    assert done.returncode == 0, done.stderr
    with (source / "libra_d2" / "_core_cpu.so").open("rb") as file:
        elf = elffile.ELFFile(file)
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        exported = [
            symbol.name
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol.entry.st_shndx != "SHN_UNDEF"
        ]
    assert "libstdc++.so.6" not in needed
    assert not [name for name in exported if "ostringstream" in name or "num_put" in name]


def script(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


BUILD_EDITABLE = "from setuptools import build_meta; build_meta.build_editable('.')"  # what pip install -e calls
BUILD_WHEEL = "from setuptools import build_meta; build_meta.build_wheel('.')"  # and pip wheel


@needs_stable_abi
@pytest.mark.parametrize("build", [BUILD_EDITABLE, BUILD_WHEEL], ids=["editable", "wheel"])
def test_where_the_core_does_not_compile_pure_torch_is_installed(source, tmp_path, build):
    compiler = script(tmp_path / "bin" / "c++", "echo this compiler knows no C++17 >&2", "exit 1")
    done = run_setup(source, "-c", build, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert said(done)[-1] == "libra_d2: the pure-torch path alone, the core does not compile"
    assert "this compiler knows no C++17" in done.stderr
    assert list(source.glob("*.whl"))
    assert not [*source.rglob("*.so"), *source.rglob("_core_build.json")]


needs_torch_with_cuda = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch is built without CUDA, so nothing tries its half"
)
CUDA_LIBRARY = f"_core_cuda{(torch.version.cuda or '0').split('.')[0]}.so"


def build_with_nvcc(
    source: Path, toolkit: Path, known: list[str], build: str = BUILD_EDITABLE, status: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Builds with an nvcc that knows these GPUs, makes an empty library and writes its arguments to ``toolkit``/log."""
    script(
        toolkit / "bin" / "nvcc",
        'case "$*" in',
        f"--version) echo Cuda compilation tools, release {torch.version.cuda}, V0;;",
        f"--list-gpu-code) printf '%s\\n' {' '.join(known)};;",
        f'*) echo "$*" >> \'{toolkit}/log\'; for output; do :; done; : > "$output"; exit {status};;',
        "esac",
    )
    environment = {"LIBRA_D2_CUDA": "", "TORCH_CUDA_ARCH_LIST": "", "CUDA_HOME": str(toolkit), **environment}
    return run_setup(source, "-c", build, **environment)


def record_of(source: Path) -> dict:
    return json.loads((source / "libra_d2" / "_core_build.json").read_text())


@needs_stable_abi
@needs_torch_with_cuda
def test_where_the_cuda_library_does_not_compile_the_rest_is_installed(source, tmp_path):
    known = torch._C._cuda_getArchFlags().split()
    done = build_with_nvcc(source, tmp_path / "toolkit", known, status=1)
    assert done.returncode == 0, done.stderr
    assert said(done)[-1].endswith("CPU alone: its CUDA library does not compile")
    assert [path.name for path in source.glob("libra_d2/*.so")] == ["_core_cpu.so"]
    assert record_of(source)["cuda"] == ""
    done = build_with_nvcc(source, tmp_path / "toolkit", known, status=1, LIBRA_D2_CUDA="1")
    assert "libra_d2: LIBRA_D2_CUDA=1, but its library does not compile" in done.stderr
    assert done.returncode != 0


@needs_stable_abi
@needs_torch_with_cuda
def test_a_wheel_has_both_libraries_and_is_for_python_310_and_newer(source, tmp_path):
    (source / "build" / "lib" / "libra_d2").mkdir(parents=True)
    done = build_with_nvcc(source, tmp_path / "toolkit", torch._C._cuda_getArchFlags().split(), BUILD_WHEEL)
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("*.whl")
    assert re.fullmatch(r"libra_d2-0-cp310-abi3-\w+\.whl", wheel.name)
    files = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert files >= {"_core_cpu.so", CUDA_LIBRARY, "_core_build.json"}


@needs_stable_abi
def test_what_an_older_build_left_is_removed(source):
    for name in ("_core_cuda11.so", "_core_build.json"):
        (source / "libra_d2" / name).touch()
    done = run_setup(source, "-c", BUILD_EDITABLE)
    assert said(done)[-1] == "libra_d2: compiled core for torch 2.10 and newer, CPU alone: LIBRA_D2_CUDA=0"
    assert [path.name for path in source.glob("libra_d2/*.so")] == ["_core_cpu.so"]
    assert record_of(source) == {"torch": torch.__version__, "cuda": "", "why": "LIBRA_D2_CUDA=0"}


def compiled_for(toolkit: Path) -> set[str]:
    return set(re.findall(r"-gencode=?\s*arch=\w+,code=(\w+)", (toolkit / "log").read_text()))


@needs_stable_abi
@needs_torch_with_cuda
def test_architectures_are_those_of_torch_that_nvcc_knows(source, tmp_path):
    """An older nvcc refuses a newer torch's architectures, which would cost the CUDA library."""
    of_torch = torch._C._cuda_getArchFlags().split()
    kept = [f"sm_{n}" for n in sorted(map(int, re.findall(r"\bsm_(\d+)\b", " ".join(of_torch)))) if n >= 70]
    build_with_nvcc(source, tmp_path / "newer", [*of_torch, "sm_990"])
    assert compiled_for(tmp_path / "newer") == {*kept, kept[-1].replace("sm", "compute")}
    build_with_nvcc(source, tmp_path / "older", kept[:2])
    assert compiled_for(tmp_path / "older") == {*kept[:2], kept[1].replace("sm", "compute")}
    build_with_nvcc(source, tmp_path / "asked", kept, TORCH_CUDA_ARCH_LIST="8.0 9.0a+PTX")
    assert compiled_for(tmp_path / "asked") == {"sm_80", "sm_90a", "compute_90a"}


@needs_stable_abi
@needs_torch_with_cuda
def test_an_nvcc_that_knows_none_of_torchs_architectures_builds_no_cuda(source, tmp_path):
    done = build_with_nvcc(source, tmp_path / "toolkit", ["sm_990"])
    assert "CPU alone: nvcc knows none of torch's architectures, sm_" in said(done)[-1]


@needs_stable_abi
@needs_torch_with_cuda
def test_headers_are_torchs_and_nvccs_own(source, tmp_path):
    """Those of CUDA's wheels may be of another release, which nvcc stumbles over."""
    build_with_nvcc(source, tmp_path / "toolkit", torch._C._cuda_getArchFlags().split())
    folders = re.findall(r"(?:-I|-isystem )(\S+)", (tmp_path / "toolkit" / "log").read_text())
    assert folders == [str(Path(torch.__file__).parent / "include")]


def test_without_torch_pure_torch_is_installed(source):
    (source / "torch.py").write_text("raise ImportError('hidden by the test')\n")
    done = run_setup(source, "setup.py", "--quiet", "build", PYTHONPATH=str(source))
    assert done.returncode == 0, done.stderr
    (line,) = said(done)
    assert "torch cannot be imported here" in line
    assert "pip install --no-build-isolation" in line


def test_with_a_torch_that_lacks_the_stable_abi_pure_torch_is_installed(source):
    (source / "torch.py").write_text("__version__ = '2.9.1+cpu'\n")
    done = run_setup(source, "setup.py", "--quiet", "build", PYTHONPATH=str(source))
    (line,) = said(done)
    assert line.endswith("no compiled core: it needs torch 2.10 or newer, and this is torch 2.9.1+cpu")


def test_insisting_on_cuda_without_nvcc_fails(source):
    done = run_setup(source, "setup.py", "--quiet", "build_ext", LIBRA_D2_CUDA="1", CUDA_HOME="/nowhere")
    assert done.returncode != 0
    assert "libra_d2: LIBRA_D2_CUDA=1, but " in done.stderr


def import_ops(folder: Path, backend: str) -> subprocess.CompletedProcess:
    code = "from libra_d2.ops import _core, backend; print(backend(), _core.status(), sep='|')"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "LIBRA_D2_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("built", [False, pytest.param(True, marks=needs_stable_abi)])
def test_import_falls_back_to_pure_torch(tmp_path, built):
    package = tmp_path / "libra_d2"
    shutil.copytree(ROOT / "libra_d2" / "ops", package / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    if built:
        (package / "_core_cpu.so").write_text("no shared object")
        (package / "_core_build.json").write_text(json.dumps({"torch": "2.12.0", "cuda": "", "why": ""}))
    done = import_ops(tmp_path, "")
    assert done.stdout.startswith("torch|torch ("), done.stderr
    assert len(done.stderr.splitlines()) == built  # only who has a core is told that it is not used
    assert not built or "_core_cpu.so, built with torch 2.12.0, does not load under torch " in done.stderr
    done = import_ops(tmp_path, "native")
    assert "ImportError: LIBRA_D2_BACKEND=native, but " in done.stderr
