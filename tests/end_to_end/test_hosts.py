"""Several hosts train as one run; each is a network namespace of this machine, which takes root and iproute2."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.end_to_end.workplace import Workplace, last_losses

CPU = ["MODEL.DEVICE", "cpu", "SOLVER.STEPS", "()"]
ADDRESSES = ("10.213.77.1", "10.213.77.2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def hosts():
    """The names of two namespaces that reach each other through eth0."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip (iproute2)")
    names = [f"libra{os.getpid()}{side}" for side in "ab"]

    def ip(*words, check=True):
        return subprocess.run(["ip", *words], check=check, capture_output=True)

    if os.geteuid() or ip("netns", "add", names[0], check=False).returncode:
        pytest.skip("network namespaces need root, and a kernel that allows them")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


@contextlib.contextmanager
def running(place, hosts, command_of):
    """The same command on each host; none of its processes is left behind."""
    started = []
    try:
        for i, host in enumerate(hosts):
            words = ["ip", "netns", "exec", host, "env", "GLOO_SOCKET_IFNAME=eth0"]
            started.append(place.start(*command_of(i), stdout=subprocess.PIPE, before=words))
        yield started
    finally:
        for pid in place.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()


def test_torchrun_on_two_hosts_trains_and_evaluates_as_one_run(place, hosts):
    def command(i):
        torchrun = ["--nnodes", 2, "--node-rank", i, "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--nproc-per-node", 1]
        return ["-m", "torch.distributed.run", *torchrun, *place.training(*CPU, "OUTPUT_DIR", "hosts")]

    with running(place, hosts, command) as processes:
        outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "World size: 2" in outputs[0]
    assert outputs[0].count("Evaluation results for libra_val") == 1
    assert "Evaluation results for libra_val" not in outputs[1]
    place.train("--num-gpus", "2", "--dist-url", "auto", *CPU, "OUTPUT_DIR", "one_host")
    expected = last_losses(place.folder / "one_host")
    assert last_losses(place.folder / "hosts") == pytest.approx(expected, rel=1e-5)


def test_a_dead_link_ends_the_run_on_both_hosts(place, hosts):
    def command(i):
        url = f"tcp://{ADDRESSES[0]}:29401"
        ranks = [
            "--num-machines",
            "2",
            "--machine-rank",
            i,
            "--num-gpus",
            "1",
            "--dist-url",
            url,
            "--dist-timeout",
            "20",
        ]
        return place.training(*ranks, *CPU, "SOLVER.MAX_ITER", "3000", "OUTPUT_DIR", "dead_link")

    with running(place, hosts, command) as processes:
        logs = [place.folder / "dead_link" / name for name in ("log.txt", "log.txt.rank1")]
        deadline = time.monotonic() + 300
        while not all(log.exists() and "Starting training" in log.read_text() for log in logs):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        time.sleep(3)
        subprocess.run(["ip", "-n", hosts[1], "link", "set", "eth0", "down"], check=True)
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    for output in outputs:
        assert re.match(r"train_net.py: error: .*(--dist-timeout|lost the connection)", output.splitlines()[-1])
        assert "Traceback" not in output
