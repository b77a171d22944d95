"""A run shows a progress bar to a terminal, and lines to everything else."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios

import pytest

from tests.end_to_end.workplace import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


def shown(place, *args):
    """What a terminal gets from a run."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    process = place.start(*place.training(*args), stdout=its)
    os.close(its)
    output = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(ours, 10_000):
            output += part
    os.close(ours)
    assert process.wait() == 0, output.decode()
    return output.decode()


def test_a_terminal_gets_a_bar_and_log_txt_the_lines(place):
    options = ["TEST.EVAL_PERIOD", 20, "SOLVER.MAX_ITER", 60, "SOLVER.CHECKPOINT_PERIOD", 30]
    output = shown(place, *options, "OUTPUT_DIR", "watched")
    log = (place.folder / "watched" / "log.txt").read_text()
    lines = re.compile(r"eta: \S+  iter: (\d+)  total_loss: ")
    assert lines.findall(log) == ["19", "39", "59"]
    assert not lines.findall(output)
    drawn = re.findall(r"\r[^\r\n]*\d+%\|[^\r\n]*", output)
    assert any(re.search(r"\d+/60, loss \d.*images/s  eta 0:00:\d\d  \d+M  cls \d", bar) for bar in drawn), drawn
    assert any(re.search(r"loss \S+  AP (\d|nan)", bar) for bar in drawn), drawn
    for line in ("Starting training from iteration 0", "Evaluation results for bbox", "Saving checkpoint to"):
        assert line in log
        assert line in output


def test_a_pipe_gets_the_lines(place):
    output = place.train("OUTPUT_DIR", "piped")
    assert re.search(r"eta: \S+  iter: 5  total_loss: ", output)
    assert "%|" not in output.split("Starting training")[1]
