"""The emulator does what CUDA does, the kernels are clean under sanitizers, and planted faults are caught."""

import os
import shutil
import subprocess

import pytest

from .build import HERE, KERNELS, compile_emulated, compiler

SOURCES = ["emulated_main.cpp", "emulated_ops.cpp"]
ADDRESS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
THREAD = ["-O1", "-fsanitize=thread"]
PLAIN = ["-O1"]


def run(program):
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    result = subprocess.run([program], capture_output=True, text=True, env=environment, timeout=300)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip(
            "the thread sanitizer does not know this system's address layout (sysctl vm.mmap_rnd_bits=28 helps)"
        )
    return result


def run_kernels(flags, kernels=KERNELS):
    return run(compile_emulated("emulated_main", SOURCES, flags, kernels=kernels))


@pytest.mark.parametrize("flags", [[], ["-DEMULATOR_UCONTEXT"]], ids=["fast_switch", "ucontext"])
def test_primitives_do_what_cuda_documents(flags):
    result = run(compile_emulated("primitives_main", ["primitives_main.cpp"], [*PLAIN, *flags]))
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def hashes():
    """What the kernels put out, in all orders alike."""
    result = run_kernels(PLAIN)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 16
    return result.stdout


@pytest.mark.parametrize(
    "flags",
    [ADDRESS, THREAD, [*PLAIN, "-DEMULATOR_UCONTEXT"], [*PLAIN, "-DEMULATOR_ARCH=750"]],
    ids=["address_and_undefined", "races", "ucontext", "sm_75"],
)
def test_kernels_are_clean_and_equal_in_every_build(hashes, flags):
    result = run_kernels(flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout == hashes


FAULTS = {
    # A race: nothing waits until the ground truths are in shared memory.
    "barrier_removed": (
        "match_boxes.cuh",
        "    __syncthreads();\n    const auto visit",
        "    const auto visit",
        THREAD,
        "ThreadSanitizer: data race",
    ),
    # A race: the bins are added up before every key is counted.
    "barrier_of_selection_removed": (
        "block_select.cuh",
        "    __syncthreads();\n    add_up",
        "    add_up",
        THREAD,
        "ThreadSanitizer: data race",
    ),
    "atomic_replaced_by_store": (
        "match_boxes.cuh",
        "atomicMax(&gts.column_max[j], column);",
        "gts.column_max[j] = column;",
        THREAD,
        "ThreadSanitizer: data race",
    ),
    "read_one_row_too_far": (
        "match_boxes.cuh",
        "row >= tile.begin && row < tile.end;\n  const Box box",
        "row >= tile.begin && row <= tile.end;\n  const Box box",
        ["-fsanitize=address"],
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "offsets_not_clamped": (
        "device.cuh",
        "max(int64_t{0}, min(offsets[i], limit))",
        "offsets[i]",
        ["-fsanitize=address"],
        "ERROR: AddressSanitizer",
    ),
    "shared_memory_too_small": (
        "match_boxes.cuh",
        "  unsigned column_max[kGtTile];",
        "  unsigned column_max[kGtTile / 2];",
        ["-fsanitize=address"],
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "barrier_in_divergent_code": (
        "match_boxes.cuh",
        "    __syncthreads();\n    const auto visit",
        "    if (threadIdx.x & 1)\n      __syncthreads();\n    else\n      __syncthreads();\n    const auto visit",
        PLAIN,
        "__syncthreads is divergent",
    ),
    "thread_exits_before_barrier": (
        "batched_iou.cuh",
        "if (tile.begin >= tile.end) return;",
        "if (tile.begin >= tile.end || threadIdx.x >= 224) return;",
        PLAIN,
        "__syncthreads",
    ),
    "lane_exits_before_shuffle": (
        "batched_iou.cuh",
        "if (tile.begin >= tile.end) return;",
        "if (tile.begin >= tile.end || threadIdx.x == 3) return;",
        PLAIN,
        "has exited",
    ),
    "lane_not_in_mask": (
        "device.cuh",
        "kFullWarp = 0xffffffffu",
        "kFullWarp = 0xfffffff0u",
        PLAIN,
        "is not in its mask",
    ),
}


def plant(tmp_path, file, correct, faulty):
    """A copy of the kernels with one fault."""
    kernels = shutil.copytree(KERNELS, tmp_path / "csrc", ignore=shutil.ignore_patterns("cpu", "*.cu", "*.cpp"))
    source = (kernels / "cuda" / file).read_text()
    assert source.count(correct) == 1, f"{file} has changed: adapt the fault"
    (kernels / "cuda" / file).write_text(source.replace(correct, faulty))
    return kernels


@pytest.mark.parametrize(("file", "correct", "faulty", "flags", "report"), FAULTS.values(), ids=FAULTS)
def test_planted_fault_is_caught(tmp_path, file, correct, faulty, flags, report):
    result = run_kernels(flags, plant(tmp_path, file, correct, faulty))
    assert result.returncode != 0
    assert report in result.stderr


def test_stale_shared_memory_shows(tmp_path, hashes):
    # Shared memory is poisoned, so that what nobody wrote cannot pass for zero.
    kernels = plant(tmp_path, "match_boxes.cuh", "      gts.column_max[j] = 0u;\n", "")
    assert run_kernels(PLAIN, kernels).stdout != hashes


def test_both_backends_mean_the_same_by_a_name(tmp_path):
    """Two types of one name are undefined behaviour, and only a linker that sees all sources can tell."""
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        pytest.skip("only GCC knows -Wodr")
    command = [compiler(), "-std=c++17", "-O0", "-flto", "-Wodr", "-shared", "-fPIC", "-DEMULATOR_UCONTEXT"]
    command += ["-include", HERE / "cuda_emulator.h", f"-I{KERNELS}", "-o", tmp_path / "linked.so"]
    sources = [HERE / "emulated_ops.cpp", KERNELS / "cpu" / "vector_kernels.cpp"]
    linked = subprocess.run([*command, *sources], capture_output=True, text=True)
    assert linked.returncode == 0, linked.stderr
    assert "[-Wodr]" not in linked.stderr, linked.stderr
