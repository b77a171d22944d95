"""Times and weighs rivals side by side: one run, alternating, medians."""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def median_ms(rivals: Mapping[str, Callable[[], object]], seconds: float = 3.0) -> dict[str, float]:
    """Median time of each rival. They take turns, so that a busy moment of the machine hits all of them.

    Args:
        rivals: what to call, by name.
        seconds: how long to go on; every rival runs four times at least, the first of which is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    end, turn = time.perf_counter() + seconds, 0
    while turn < 4 or time.perf_counter() < end:
        for name, run in rivals.items():
            start = time.perf_counter()
            result = run()
            times[name].append(1e3 * (time.perf_counter() - start))
            del result
        turn += 1
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def peak_mib(run: Callable[[], object]) -> float:
    """How far above its start the resident memory of this process rises during ``run``; outputs count."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
    before = _resident("VmRSS")
    result = run()
    peak = _resident("VmHWM")
    del result
    return (peak - before) / 1024


def cuda_peak_mib(run: Callable[[], object]) -> float:
    """How far what torch's allocator holds of the GPU's memory rises above its start during ``run``."""
    import torch

    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def mib_beyond_outputs(run: Callable[[], object]) -> float:
    """How far what torch's CPU allocator holds rises in the second ``run`` above what ``run`` returns."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()  # alive until the last event is recorded
    held = peak = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    del result
    return (peak - held) / 2**20


def cuda_mib_beyond_outputs(run: Callable[[], object]) -> float:
    """The same of torch's allocator on a GPU."""
    import torch

    run()
    torch.cuda.reset_peak_memory_stats()
    result = run()
    beyond = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    del result
    return beyond / 2**20


def weigh(script: str, rival: str, num_gts: int) -> float:
    """What ``script --weigh rival num_gts`` prints: :func:`peak_mib` in a process of its own.

    What an allocator keeps from an earlier rival would hide the next peak.
    """
    command = [sys.executable, script, "--weigh", rival, str(num_gts)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


_STARTED = time.monotonic()


def progress(what: str) -> None:
    """Says on stderr, beside the tables, what begins."""
    print(f"[{time.monotonic() - _STARTED:4.0f} s] {what}", file=sys.stderr, flush=True)


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, numbers to three digits."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def machine(device: str = "cpu") -> str:
    import platform

    import torch

    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"
