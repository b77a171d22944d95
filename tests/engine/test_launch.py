"""What ends a rank comes back from the launcher: a sentence, a bug's traceback, or an exit status."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.utils import comm

from libra_d2.checks import UserError
from libra_d2.engine.failures import remedy
from libra_d2.engine.launch import _report, launch

ROOT = Path(__file__).parents[2]
TWO = SimpleNamespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", dist_timeout=100)


def end(how):
    """Rank 1 ends in this way, rank 0 waits for it."""
    if comm.get_rank() == 1:
        if how == "user error":
            raise UserError("MODEL.X: expected 1, got 2")
        if how == "bug":
            raise ZeroDivisionError("in rank 1")
        os.kill(os.getpid(), {"killed": signal.SIGKILL, "terminated": signal.SIGTERM}[how])
    comm.all_gather(None)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return "cpu"


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("user error", UserError, r"^MODEL.X: expected 1, got 2$"),
        ("bug", RuntimeError, r"a rank has failed:\n(.*\n)*ZeroDivisionError: in rank 1"),
        (
            "killed",
            UserError,
            r"rank 1 of this machine \(process \d+\) was ended by SIGKILL; .* reduce SOLVER.IMS_PER_B",
        ),
    ],
)
def test_the_error_of_a_rank_is_raised_by_the_launcher(how, error, message, device):
    with pytest.raises(error, match=message):
        launch(end, how, run=TWO, device=device)


def fail_at_length():
    raise UserError("x" * 50_000_000)


def test_a_report_is_seen_whole_or_not_at_all(tmp_path):
    """The launcher reads reports when the first rank has ended, which another may be writing at that moment."""
    rank = multiprocessing.get_context("spawn").Process(target=_report, args=(str(tmp_path), fail_at_length, ()))
    rank.start()
    seen = []
    while not seen:
        is_alive = rank.is_alive()
        seen = [json.loads(file.read_text())["kind"] for file in tmp_path.glob("*.json")]
        assert is_alive or seen
    rank.join()
    assert seen == ["user"]
    assert rank.exitcode == 1


def test_a_signal_to_one_rank_is_the_exit_status(device):
    assert launch(end, "terminated", run=TWO, device=device) == 143


def test_torchrun_and_a_launcher_of_our_own_are_not_both_used(device, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match="torchrun has started the ranks of this run: leave out --num-gpus"):
        launch(end, "bug", run=TWO, device=device)


ALONE = """
import os
from types import SimpleNamespace
from detectron2.utils import comm
from libra_d2.engine.launch import launch
run = SimpleNamespace(num_gpus=1, num_machines=1, dist_timeout=100)
launch(lambda: print("gathered", comm._get_global_gloo_group().size()), run=run, device="cpu")
print("names:", *(open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are listed in /proc, which is Linux's")
def test_a_rank_of_torchrun_ends_without_threads_of_its_group(monkeypatch):
    """At the interpreter's end they can abort it. Those of a host's group stay, in which nothing runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    rank = [sys.executable, "-c", ALONE]
    output = subprocess.check_output(rank, env={**os.environ, **one, **address}, text=True, cwd=ROOT)
    assert "gathered 1" in output
    assert output.split("names:")[1].split().count("pt_gloo_runloop") <= 2


@pytest.mark.parametrize(
    ("said", "remedied"),
    [
        ("[unbound_buffer.cc:84] Timed out waiting 20000ms for recv operation to complete", "--dist-timeout"),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "lost the connection to another"),
        ("The server socket has failed to listen: EADDRINUSE, address already in use", "--dist-url auto"),
        ("CUDA out of memory. Tried to allocate 20.00 MiB.", "reduce SOLVER.IMS_PER_BATCH"),
        ("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory", "reduce SOLVER.IMS_PER_B"),
        ("[Errno 28] No space left on device", "the disk of OUTPUT_DIR is full"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "reduce DATALOADER.NUM_WORKERS"),
    ],
)
def test_what_torch_says_gets_a_remedy_and_stays_quoted(said, remedied):
    what = remedy(RuntimeError(f"first line\n{said}\nlast line"))
    assert remedied in what
    assert f"({said})" in what
    assert "\n" not in what


def test_a_bug_has_no_remedy():
    assert remedy(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
