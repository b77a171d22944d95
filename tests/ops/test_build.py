"""Where the core cannot be built or does not fit, pure torch takes over and one line says why."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libra_d2.ops import _core

ROOT = Path(__file__).parents[2]


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
    """A copy of what setup.py reads, small enough to be copied for each test."""
    (tmp_path / "libra_d2").mkdir()
    (tmp_path / "libra_d2" / "__init__.py").write_text('__version__ = "0"\n')
    for folder in ("csrc", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "setup.py").write_text((ROOT / "setup.py").read_text())
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "libra_d2"\nversion = "0"\n[tool.setuptools]\npackages = ["libra_d2"]\n'
    )
    return tmp_path


def said(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("libra_d2: ")]


def test_without_a_compiler_pure_torch_is_installed(source):
    done = run_setup(source, "setup.py", "--quiet", "build", CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    assert said(done) == [
        "libra_d2: the pure-torch path alone, no compiled core: no C++ compiler, /nowhere/c++ was not found"
    ]
    assert not list(source.glob("build/**/*.so"))


def script(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


BUILD_EDITABLE = "from setuptools import build_meta; build_meta.build_editable('.')"  # what pip install -e calls


def test_where_the_core_does_not_compile_pure_torch_is_installed(source, tmp_path):
    compiler = script(tmp_path / "bin" / "c++", "echo this compiler knows no C++17 >&2", "exit 1")
    done = run_setup(source, "-c", BUILD_EDITABLE, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert said(done)[-1].startswith("libra_d2: the pure-torch path alone, the core does not compile: ")
    assert list(source.glob("*.whl"))
    assert not [*source.rglob("*.so"), *source.rglob("_core_build.json")]


@pytest.fixture
def small_source(source):
    """The same with sources that compile in no time."""
    (source / "csrc").unlink()
    (source / "csrc" / "cuda").mkdir(parents=True)
    (source / "csrc" / "ops.cpp").write_text("int answer() { return 42; }\n")
    (source / "csrc" / "cuda" / "kernels.cu").touch()
    return source


needs_torch_with_cuda = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch is built without CUDA, so nothing tries its half"
)


def build_with_nvcc(source: Path, toolkit: Path, known: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Builds with an nvcc that knows these GPUs, compiles nothing and writes its arguments to ``toolkit``/log."""
    script(
        toolkit / "bin" / "nvcc",
        'case "$*" in',
        f"--version) echo Cuda compilation tools, release {torch.version.cuda}, V0;;",
        f"--list-gpu-code) printf '%s\\n' {' '.join(known)};;",
        f"--dryrun*) echo '#$ TOP={toolkit}' >&2;;",
        f"*) echo \"$*\" >> '{toolkit}/log'; exit 1;;",
        "esac",
    )
    environment = {"LIBRA_D2_CUDA": "", "TORCH_CUDA_ARCH_LIST": "", "CUDA_HOME": str(toolkit), **environment}
    return run_setup(source, "-c", BUILD_EDITABLE, **environment)


@needs_torch_with_cuda
def test_where_the_cuda_half_does_not_compile_the_rest_is_installed(small_source, tmp_path):
    source = small_source
    done = build_with_nvcc(source, tmp_path / "toolkit", torch._C._cuda_getArchFlags().split())
    assert done.returncode == 0, done.stderr
    assert said(done)[-1].endswith("CPU alone: its CUDA half does not compile")
    assert (source / "libra_d2" / "_C.abi3.so").exists()
    assert json.loads((source / "libra_d2" / "_core_build.json").read_text())["cuda"] == ""


@pytest.mark.parametrize("refused", ["at any time", "by the linker"])
def test_without_openmp_the_core_is_serial_and_the_build_says_so(small_source, tmp_path, refused):
    c_flag = '*" -c "*) ;; ' if refused == "by the linker" else ""  # clang without libomp compiles with the flag
    compiler = script(
        tmp_path / "bin" / "c++",
        f'case " $* " in {c_flag}*fopenmp*) echo no -fopenmp here >&2; exit 1;; esac',
        f'exec {shutil.which("c++")} "$@"',
    )
    done = run_setup(small_source, "-c", BUILD_EDITABLE, CXX=compiler)
    assert done.returncode == 0, done.stderr
    serial = f"; the CPU's ops use one thread, as {compiler} does not build with -fopenmp"
    assert said(done)[-1].endswith(f"CPU alone: LIBRA_D2_CUDA=0{serial}")
    assert (small_source / "libra_d2" / "_C.abi3.so").exists()


def test_openmp_is_used_where_the_compiler_has_it(small_source, tmp_path):
    """As the compiler of most machines has; a probe that always fails would make every core serial."""
    probe = tmp_path / "openmp.cpp"
    probe.write_text("#include <omp.h>\n")
    if subprocess.run(["c++", "-fopenmp", "-shared", probe, "-o", tmp_path / "openmp.so"], check=False).returncode:
        pytest.skip("c++ has no OpenMP here")
    (small_source / "csrc" / "ops.cpp").write_text("#if !defined(_OPENMP)\n#error serial\n#endif\n")
    done = run_setup(small_source, "-c", BUILD_EDITABLE, CXX="c++")
    assert said(done)[-1].endswith("CPU alone: LIBRA_D2_CUDA=0")


def compiled_for(toolkit: Path) -> set[str]:
    return set(re.findall(r"-gencode=?\s*arch=\w+,code=(\w+)", (toolkit / "log").read_text()))


@needs_torch_with_cuda
def test_architectures_are_those_of_torch_that_nvcc_knows(small_source, tmp_path):
    """An older torch refuses a newer nvcc's, and an older nvcc a newer torch's; either would cost the CUDA half."""
    of_torch = torch._C._cuda_getArchFlags().split()
    kept = [f"sm_{n}" for n in sorted(map(int, re.findall(r"\bsm_(\d+)\b", " ".join(of_torch)))) if n >= 70]
    build_with_nvcc(small_source, tmp_path / "newer", [*of_torch, "sm_990"])
    assert compiled_for(tmp_path / "newer") == {*kept, kept[-1].replace("sm", "compute")}
    build_with_nvcc(small_source, tmp_path / "older", kept[:2])
    assert compiled_for(tmp_path / "older") == {*kept[:2], kept[1].replace("sm", "compute")}
    build_with_nvcc(small_source, tmp_path / "asked", kept, TORCH_CUDA_ARCH_LIST="8.0")
    assert compiled_for(tmp_path / "asked") == {"sm_80"}


@needs_torch_with_cuda
def test_an_nvcc_that_knows_none_of_torchs_architectures_builds_no_cuda(small_source, tmp_path):
    done = build_with_nvcc(small_source, tmp_path / "toolkit", ["sm_990"])
    assert "CPU alone: nvcc knows none of torch's architectures, sm_" in said(done)[-1]


@needs_torch_with_cuda
def test_headers_of_the_toolkit_come_before_those_of_wheels(small_source, tmp_path):
    """Newer ones from a wheel make nvcc stop at "Unresolved extern __nv_ldg_f4_impl" and the like."""
    if not list(Path(torch.__file__).parent.parent.glob("nvidia/*/include")):
        pytest.skip("torch's CUDA is not from wheels here")
    build_with_nvcc(small_source, tmp_path / "toolkit", torch._C._cuda_getArchFlags().split())
    folders = re.findall(r"(?:-I|-isystem )(\S+)", (tmp_path / "toolkit" / "log").read_text())
    of_wheels = [i for i, folder in enumerate(folders) if re.search(r"/nvidia/\w+/include$", folder)]
    assert folders.index(str(tmp_path / "toolkit" / "include")) < min(of_wheels)


def test_without_torch_pure_torch_is_installed(source):
    (source / "torch.py").write_text("raise ImportError('hidden by the test')\n")
    done = run_setup(source, "setup.py", "--quiet", "build", PYTHONPATH=str(source))
    assert done.returncode == 0, done.stderr
    (line,) = said(done)
    assert "torch cannot be imported here" in line
    assert "pip install --no-build-isolation" in line


def test_insisting_on_cuda_without_nvcc_fails(source):
    done = run_setup(source, "setup.py", "--quiet", "build_ext", LIBRA_D2_CUDA="1", CUDA_HOME="/nowhere")
    assert done.returncode != 0
    assert "libra_d2: LIBRA_D2_CUDA=1, but " in done.stderr


def test_a_core_of_another_torch_is_not_loaded():
    record = {"torch": "2.3.1+cu121", "cuda": "", "why": "no nvcc was found"}
    message = _core._why_unfit(record, "2.14.1")
    assert "built for torch 2.3.1+cu121 and this is torch 2.14.1" in message
    assert "\n" not in message
    assert _core._why_unfit({**record, "torch": "2.14.0"}, "2.14.1+cpu") == ""
    assert _core._why_unfit(None, "2.14.1") == "the compiled core was not built"


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


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (None, ""),
        ({"torch": "1.13.0", "cuda": "", "why": ""}, "the compiled core was built for torch 1.13.0 and this is torch "),
        ({"torch": torch.__version__, "cuda": "", "why": ""}, "the compiled core does not load: "),
    ],
    ids=["not built", "another torch", "broken"],
)
def test_import_falls_back_to_pure_torch(tmp_path, record, line):
    package = tmp_path / "libra_d2"
    shutil.copytree(ROOT / "libra_d2" / "ops", package / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    if record is not None:
        (package / "_C.abi3.so").write_text("no shared object")
        (package / "_core_build.json").write_text(json.dumps(record))
    done = import_ops(tmp_path, "")
    assert done.stdout.startswith("torch|torch ("), done.stderr
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == bool(line)  # only who built a core is told that it is not used


def test_insisting_on_a_core_means_its_cuda_half_where_there_is_a_gpu(monkeypatch):
    record = {"torch": torch.__version__, "cuda": "", "why": "no nvcc was found"}
    monkeypatch.setattr(_core, "_read_record", lambda: record)
    monkeypatch.setattr(_core.importlib, "import_module", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LIBRA_D2_BACKEND", "native")
    with pytest.raises(ImportError, match="there is a GPU and the core was built for the CPU alone: no nvcc was found"):
        _core.load()


def test_insisting_on_a_core_that_is_not_there_fails(tmp_path):
    shutil.copytree(ROOT / "libra_d2" / "ops", tmp_path / "libra_d2" / "ops")
    (tmp_path / "libra_d2" / "__init__.py").touch()  # before an installed package on the path
    done = import_ops(tmp_path, "native")
    assert "ImportError: LIBRA_D2_BACKEND=native, but the compiled core was not built" in done.stderr
