"""Every compiler and processor gives the same bits: GCC, clang where it is installed, and AArch64 where Debian's cross
compiler and qemu are (apt-get install clang g++-aarch64-linux-gnu qemu-user)."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libra_d2 import ops
from libra_d2.ops import _core

ROOT = Path(__file__).parents[2]
AARCH64 = "aarch64-linux-gnu-g++"
RUN_AARCH64 = "qemu-aarch64 -L /usr/aarch64-linux-gnu"


def installed(*commands: str):
    missing = [command for command in commands if not shutil.which(command.split()[0])]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Compiles kernel_digest.cpp, runs it and returns what it prints."""

    def digest(compiler: str, *flags: str, runner: str = "", **environment: str) -> str:
        program = tmp_path_factory.mktemp("digest") / "digest"
        sources = [ROOT / "tests" / "ops" / "kernel_digest.cpp", ROOT / "csrc" / "cpu" / "vector_kernels.cpp"]
        options = ["-std=c++17", "-O3", "-ffp-contract=off", "-Wall", "-Werror", *flags]
        subprocess.run([compiler, *options, f"-I{ROOT / 'csrc'}", *sources, "-o", program], check=True)
        command = [*shlex.split(runner), program]
        return subprocess.check_output(command, text=True, env={**os.environ, **environment})

    return digest


@pytest.fixture(scope="module")
def expected(digest):
    if not shutil.which("g++"):
        pytest.skip("g++ not installed")
    return digest("g++")


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_digest_of_lesser_processors(digest, expected, capability):
    assert digest("g++", ATEN_CPU_CAPABILITY=capability) == expected


@installed("clang++")
def test_digest_of_clang(digest, expected):
    assert digest("clang++") == expected


@installed(AARCH64, RUN_AARCH64)
def test_digest_of_aarch64(digest, expected):
    assert digest(AARCH64, runner=RUN_AARCH64) == expected
    # Where every processor has FMA a compiler uses it, unless it is told not to; the digest has to see that.
    assert digest(AARCH64, "-ffp-contract=fast", runner=RUN_AARCH64) != expected


def build_core(folder: Path, **environment: str) -> Path:
    """Builds the CPU library of a copy of the package in ``folder``."""
    ignored = shutil.ignore_patterns("_core_*", "__pycache__")
    shutil.copytree(ROOT / "libra_d2", folder / "libra_d2", ignore=ignored)
    for name in ("csrc", "setup.py", "pyproject.toml", "tests", "README.md", "LICENSE"):
        (folder / name).symlink_to(ROOT / name)
    environment = {**os.environ, "LIBRA_D2_CUDA": "0", **environment}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder / "libra_d2" / "_core_cpu.so"


needs_core = pytest.mark.skipif(ops.backend() != "native", reason=_core.status())


@installed("clang++")
@needs_core
def test_core_of_clang_equals_the_reference(tmp_path):
    assert build_core(tmp_path, CXX="clang++", CXXFLAGS="-Werror").exists()
    code = """
from libra_d2.ops import _core
from tests.ops import test_native as t
t.test_match_boxes_equals_reference(3000, 257, True)
t.test_match_boxes_equals_reference(129, 64, False)
t.test_batched_iou_equals_reference(333)
t.test_bucketed_sample_equals_reference("instance_balanced", ("iou_balanced", 7, "max_all", 0.0, 0.0, 0.25, -1.0))
t.test_threads_do_not_change_results()
print(_core.PACKAGE)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "LIBRA_D2_BACKEND": "native"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "libra_d2")


@installed(AARCH64)
@needs_core
def test_core_of_aarch64_asks_for_the_same_of_torch(tmp_path):
    """It is linked with an empty libtorch_cpu.so, as there is none for this processor here."""
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed")
    torch_abi_audit = pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is not installed")
    (tmp_path / "lib").mkdir()
    stub = ["-shared", "-x", "c++", os.devnull, "-o", tmp_path / "lib" / "libtorch_cpu.so"]
    subprocess.run([AARCH64, *stub, "-Wl,-soname,libtorch_cpu.so"], check=True)
    library = build_core(tmp_path, CXX=AARCH64, CXXFLAGS=f"-L{tmp_path / 'lib'} -Wl,--no-as-needed")
    with library.open("rb") as file:
        elf = elffile.ELFFile(file)
        assert elf.get_machine_arch() == "AArch64"
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    assert "libtorch_cpu.so" in needed
    verdict = torch_abi_audit.inspect_extension(library).torch
    assert (verdict.unstable_symbols, verdict.min_torch_version) == ((), "2.10.0")
