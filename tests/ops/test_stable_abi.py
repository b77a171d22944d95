"""What the built libraries ask of torch and of the machine: torch's stable ABI and the C++ runtime, nothing else."""

import pytest

from libra_d2.ops import _core

elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed")
torch_abi_audit = pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is not installed")

LIBRARIES = sorted(_core.PACKAGE.glob("_core_*.so"))
RUNTIME = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6"}
# Before glibc 2.34 what the CUDA runtime needs was in libraries of its own.
CUDA_RUNTIME = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"}

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the compiled core was not built")


@pytest.fixture(params=LIBRARIES, ids=lambda path: path.name)
def library(request):
    """Its path and its dynamic section."""
    with request.param.open("rb") as file:
        yield request.param, elffile.ELFFile(file)


def test_of_torch_it_uses_the_stable_abi_of_2_10(library):
    verdict = torch_abi_audit.inspect_extension(library[0]).torch
    assert verdict.unstable_symbols == ()
    assert verdict.unknown_shim_symbols == ()
    assert verdict.min_torch_version == "2.10.0"


def test_libraries_that_it_needs(library):
    path, elf = library
    needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    of_torch = {name for name in needed if "torch" in name}
    if "cuda" in path.name:
        assert of_torch == {"libtorch_cpu.so", "libtorch_cuda.so"}
        assert needed - of_torch <= RUNTIME | CUDA_RUNTIME
    else:
        assert of_torch == {"libtorch_cpu.so"}
        assert needed - of_torch <= RUNTIME


def test_everything_is_bound_when_it_is_loaded(library):
    """A torch that lacks a function refuses the library; bound lazily, a call of it would end the process."""
    (tag,) = library[1].get_section_by_name(".dynamic").iter_tags("DT_FLAGS")
    assert tag.entry.d_val & 0x8  # DF_BIND_NOW


def test_nothing_of_torch_or_the_cuda_runtime_is_exported(library):
    """torch loads a library's symbols for the whole process, where they would take the place of others."""
    symbols = library[1].get_section_by_name(".dynsym").iter_symbols()
    exported = {symbol.name for symbol in symbols if symbol.name and symbol.entry.st_shndx != "SHN_UNDEF"}
    own = {name for name in exported if not name.startswith(("_ZNSt", "_ZNKSt", "_ZSt", "_ZTISt", "_ZTSSt", "_ZTVSt"))}
    own = {name for name in own if "__gnu_cxx" not in name and not name.startswith("_ZZNSt")}
    assert own == (set() if "cuda" in library[0].name else {"libra_d2_instruction_set"})


def test_no_path_of_the_building_machine_is_in_it(library):
    content = library[0].read_bytes()
    assert b"site-packages" not in content
    assert str(_core.PACKAGE.parent).encode() not in content
