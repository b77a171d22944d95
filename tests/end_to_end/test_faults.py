"""What goes wrong around a run: it is terminated, its launcher is killed, a second run is started over it."""

import os
import re
import signal
import subprocess
import time

import pytest

from libra_d2.checkpoint.atomic import lock_folder
from tests.end_to_end.workplace import Workplace, last_losses

TWO_RANKS = ["--num-gpus", "2", "--dist-url", "auto"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CPU = ["MODEL.DEVICE", "cpu", "SOLVER.STEPS", "()"]
LONG = [*CPU, "SOLVER.MAX_ITER", "3000", "SOLVER.CHECKPOINT_PERIOD", "5000"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


def wait_until(what):
    deadline = time.monotonic() + 400
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start_two_ranks(place, output, *command, **pipes):
    """A run whose two ranks are both training."""
    process = place.start(*command, *LONG, "OUTPUT_DIR", output, **pipes)
    logs = [place.folder / output / name for name in ("log.txt", "log.txt.rank1")]

    def trains(log):
        return log.exists() and "Starting training" in log.read_text()

    wait_until(lambda: process.poll() is not None or all(map(trains, logs)))
    assert process.poll() is None
    return process


def the_checkpoint(folder):
    (file,) = folder.glob("model_*.pth")
    assert (folder / "last_checkpoint").read_text() == file.name
    return int(re.search(r"\d+", file.name)[0])


def test_two_terminated_ranks_keep_what_they_did_and_resume_under_torchrun(place):
    process = start_two_ranks(place, "stopped", *place.training(*TWO_RANKS))
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 143
    place.assert_all_end()
    done = the_checkpoint(place.folder / "stopped") + 1
    until = [*CPU, "SOLVER.MAX_ITER", done + 3, "OUTPUT_DIR"]
    output = place.run(*TORCHRUN, *place.training("--resume", *until, "stopped"))
    assert f"Starting training from iteration {done}" in output
    assert "World size: 2" in output
    assert output.count("Evaluation results for libra_val") == 1
    assert "holds checkpoints of an earlier run" not in output
    place.train(*TWO_RANKS, *until, "whole")
    expected = last_losses(place.folder / "whole")
    assert last_losses(place.folder / "stopped") == pytest.approx(expected, rel=1e-5)


def test_no_rank_outlives_its_launcher(place):
    process = start_two_ranks(place, "orphaned", *place.training(*TWO_RANKS))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    place.assert_all_end(seconds=100)
    the_checkpoint(place.folder / "orphaned")


def test_a_stopped_rank_ends_the_run_after_the_timeout(place):
    process = start_two_ranks(
        place, "hangs", *place.training(*TWO_RANKS, "--dist-timeout", "20"), stdout=subprocess.PIPE
    )
    ranks = [pid for pid, command in place.processes().items() if "spawn_main" in command]
    assert len(ranks) == 2
    time.sleep(2)
    os.kill(max(ranks), signal.SIGSTOP)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "train_net.py: error: waited for another rank longer than --dist-timeout" in output.splitlines()[-1]
    assert "Traceback" not in output
    place.assert_all_end()


def test_two_ranks_that_diverge_say_it_in_one_sentence(place):
    diverging = ["SOLVER.BASE_LR", "1e38", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1"]
    output = place.train(*TWO_RANKS, *LONG, *diverging, "OUTPUT_DIR", "diverged", fails=True)
    assert output.splitlines()[-1].startswith("train_net.py: error: training has diverged: ")
    assert "Traceback" not in output
    log = (place.folder / "diverged" / "log.txt").read_text()
    assert "Traceback" in log
    assert "DivergedError: training has diverged" in log
    assert not list((place.folder / "diverged").glob("*.pth"))


def test_torchrun_passes_a_signal_on(place):
    process = start_two_ranks(place, "torchrun", *TORCHRUN, *place.training())
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) != 0
    place.assert_all_end()
    the_checkpoint(place.folder / "torchrun")


def test_torchrun_evaluates_as_one_run(place):
    (place.folder / "evaluated").mkdir()
    place.train(*CPU, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "once")
    command = place.training("--eval-only", "MODEL.WEIGHTS", "once/model_final.pth", "OUTPUT_DIR", "evaluated")
    output = place.run(*TORCHRUN, *command)
    assert output.count("Evaluation results for libra_val") == 1
    assert re.search(r"Start inference on 2 batches", output), "each rank takes its part of the three images"


def test_a_second_run_in_the_same_folder_is_refused_and_old_checkpoints_are_named(place):
    run = [*CPU, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "busy"]
    (place.folder / "busy").mkdir()
    lock = lock_folder(place.folder / "busy")
    before = sorted((place.folder / "busy").iterdir())
    output = place.train(*TWO_RANKS, *run, fails=True)
    assert output.splitlines()[-1].startswith("train_net.py: error: OUTPUT_DIR busy: expected a folder that no other")
    assert f"process {os.getpid()} on" in output
    assert "Traceback" not in output
    assert sorted((place.folder / "busy").iterdir()) == before, "nothing is written to what others use"
    lock.release()
    (place.folder / "busy" / "model_0000099.pth").touch()
    assert "OUTPUT_DIR busy holds checkpoints of an earlier run" in place.train(*run)
