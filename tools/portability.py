"""Runs the tests that compute with floats as they would run on other x86-64 processors.

    python tools/portability.py [ARGUMENTS OF PYTEST]

torch, oneDNN and MKL choose their code by the processor, and its rounding with it. Variables of theirs make them choose
what they would on a lesser processor. Exit status: 0 when every test passes in every environment, else 1.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("losses", "mmdet", "modeling", "ops", "engine", "inference", "end_to_end", "visualize")
WITHOUT = "ops/test_build.py"  # the compiler, not what it made
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
# One library at a time, so that a failure names it; then all of them, as on a real processor.
PROCESSORS = {
    "this processor": (None, None, None),
    "torch without AVX": ("default", None, None),
    "torch with AVX2": ("avx2", None, None),
    "oneDNN with SSE4.1": (None, "SSE41", None),
    "oneDNN with AVX2": (None, "AVX2", None),
    "oneDNN with AVX-512, no AMX": (None, "AVX512_CORE", None),
    "MKL with AVX2": (None, None, "AVX2"),
    "all without AVX": ("default", "SSE41", "SSE4_2"),
    "all with AVX2": ("avx2", "AVX2", "AVX2"),
}
THREADS = (1, 2)


def environment(settings, threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    chosen = {name: value for name, value in zip(VARIABLES, settings, strict=True) if value}
    return {**kept, **chosen, "OMP_NUM_THREADS": str(threads)}


def failures(command: list[str], env: dict[str, str]) -> list[str]:
    """Runs pytest, shows what it prints and returns its lines about tests that failed."""
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    found = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith(("FAILED ", "ERROR ")):
            found.append(line.split(" - ")[0].strip())
    if process.wait() and not found:
        found.append(f"pytest ended with status {process.returncode}")
    return found


def main(arguments: list[str]) -> int:
    tests = [f"tests/{name}" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", f"--ignore=tests/{WITHOUT}", *arguments, *tests]
    summary, failed = [], False
    for name, settings in PROCESSORS.items():
        if settings[0] == "avx2" and not torch.cpu.get_capabilities().get("avx2"):
            continue  # torch takes the variable's word for it and dies; oneDNN and MKL only go down
        for threads in THREADS:
            title = f"{name}, {threads} thread{'s' * (threads > 1)}"
            print(f"\n== {title}", flush=True)
            start = time.monotonic()
            found = failures(command, environment(settings, threads))
            summary.append(f"{'FAILED' if found else 'passed'} {time.monotonic() - start:6.0f} s  {title}")
            summary += [f"{'':17}{line}" for line in found]
            failed = failed or bool(found)
    print("", *summary, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
