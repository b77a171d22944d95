"""What nvcc and ptxas say of the kernels, and the machine code itself: facts that need no GPU."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Threads that a streaming multiprocessor holds, by architecture; all have 65,536 registers.
RESIDENT_THREADS = {75: 1024, 80: 2048, 90: 2048, 120: 1536}
# Kernels, and in how many variants the launchers use them.
KERNELS = {
    "store_offsets_kernel": 1,
    "match_kernel": 4,  # culling or not, column maxima or not
    "low_quality_kernel": 1,
    "batched_iou_kernel": 1,
    "count_kernel": 1,
    "strata_kernel": 1,
    "list_kernel": 1,
    "select_kernel": 1,
}
KEEP_MULTIPROCESSORS_FULL = ("match_kernelILb1", "low_quality_kernel")  # those for anchors; proposals are few
MOST_REGISTERS = 64  # of which a block of 1024 threads, select_kernel's, can be resident


def find_tool(name):
    """The CUDA tool from CUDA_HOME, the PATH or the PyPI package nvidia-cuda-<name>; skips where there is none."""
    folders = [Path(os.environ.get("CUDA_HOME", "/nowhere")) / "bin"]
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    for folder in [*folders, *packages.glob("*/bin")]:
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module", params=RESIDENT_THREADS, ids=lambda arch: f"sm_{arch}")
def build(request, tmp_path_factory):
    """Architecture, the compiler's messages and the cubin."""
    nvcc = find_tool("nvcc")
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    if f"sm_{request.param}" not in known:
        pytest.skip(f"this nvcc does not know sm_{request.param}")
    cubin = tmp_path_factory.mktemp("cubin") / "kernels.cubin"
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        f"-arch=sm_{request.param}",
        "-Xptxas=-v,-warn-spills",
        "-Werror=all-warnings",
    ]
    command += ["-cubin", str(ROOT / "csrc" / "cuda" / "kernels.cu"), "-o", str(cubin)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return request.param, compiled.stdout + compiled.stderr, cubin


@pytest.fixture(scope="module")
def sass(build):
    """Instructions of each function, by mangled name."""
    cuobjdump, nvdisasm = find_tool("cuobjdump"), find_tool("nvdisasm")
    environment = {**os.environ, "PATH": f"{Path(nvdisasm).parent}{os.pathsep}{os.environ['PATH']}"}
    listing = subprocess.run(
        [cuobjdump, "-sass", build[2]], capture_output=True, text=True, env=environment, check=True
    )
    functions = {}
    for part in listing.stdout.split("Function : ")[1:]:
        name, body = part.split("\n", 1)
        functions[name.strip()] = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", body)
    return functions


def test_registers_and_spills(build):
    arch, messages, _ = build
    without_idling = 65_536 // RESIDENT_THREADS[arch] // 8 * 8
    usage = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        messages,
        flags=re.DOTALL,
    )
    assert len(usage) == sum(KERNELS.values())
    for kernel, variants in KERNELS.items():
        found = [entry for entry in usage if kernel in entry[0]]
        assert len(found) == variants, kernel
        for name, *local_memory, registers in found:
            assert local_memory == ["0", "0", "0"], f"{kernel} spills"
            many = any(part in name for part in KEEP_MULTIPROCESSORS_FULL)
            assert int(registers) <= (without_idling if many else MOST_REGISTERS), name


def test_boxes_are_loaded_16_bytes_at_a_time(sass):
    for kernel, others in {"match_kernel": 0, "low_quality_kernel": 2, "batched_iou_kernel": 0}.items():
        for name in (name for name in sass if kernel in name):
            loads = [i for i in sass[name] if i.startswith("LDG")]
            assert sum(".128" in load for load in loads) == 2, name  # a box and a ground truth
            # Else there are the offsets, of 8 bytes, and the IoUs that an earlier kernel found.
            assert sum(".128" not in load and ".64" not in load for load in loads) <= others, name


PLANNING = ("strata_kernel", "list_kernel", "select_kernel")  # one thread multiplies doubles, as Python does


def test_no_arithmetic_of_doubles_but_a_few_products_and_no_local_memory(sass):
    doubles = re.compile(r"^(DADD|DMUL|DFMA|DSETP|DMNMX|MUFU\.(RCP64H|RSQ64H)|.*\.F64)")
    for name, instructions in sass.items():
        assert len(instructions) > 10, name
        found = [i for i in instructions if doubles.match(i)]
        if any(kernel in name for kernel in PLANNING):
            assert sum(i.startswith("DMUL") for i in found) == 2, name
            assert not [i for i in found if i.startswith(("DADD", "DFMA", "MUFU"))], name
        else:
            assert not found, name
        assert not [i for i in instructions if i.startswith(("LDL", "STL"))], name


def test_column_maximum_is_one_instruction_where_the_gpu_has_it(build, sass):
    for name, instructions in sass.items():
        if "match_kernel" in name and name.endswith("Lb1EEEvNS_9MatchArgsE"):
            assert any(i.startswith("REDUX") for i in instructions) == (build[0] >= 80), name


def test_atomics_know_their_memory(sass):
    # One through a generic pointer would take the way of global memory even where it counts in shared memory.
    for name, instructions in sass.items():
        assert not [i for i in instructions if i.startswith("ATOM.")], name
    for kernel in ("strata_kernel", "select_kernel"):
        (name,) = (name for name in sass if kernel in name)
        assert any(i.startswith("ATOMS.") for i in sass[name]), name
