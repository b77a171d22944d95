"""A folder in which commands run as a user runs them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.engine.tiny import write_config, write_dataset

ROOT = Path(__file__).parents[2]
LIBRA = {
    "META_ARCHITECTURE": "LibraRCNN",
    "PROPOSAL_GENERATOR": {"NAME": "LibraRPN"},
    "ROI_HEADS": {"NAME": "LibraROIHeads"},
    "ROI_BOX_HEAD": {"BBOX_REG_LOSS_TYPE": "balanced_l1"},
    "LIBRA": {"BFP": {"ENABLED": True}},
}


class Workplace:
    """A folder with data and a config; the commands run in it, one thread each."""

    def __init__(self, folder):
        self.folder = folder
        write_dataset(folder / "train")
        write_dataset(folder / "val", 3, seed=1)
        write_config(folder / "tiny.yaml", MODEL=LIBRA, SOLVER={"CHECKPOINT_PERIOD": 3})

    def start(self, *args, stdout=subprocess.DEVNULL, before=()):
        command = [*before, sys.executable, *map(str, args)]
        pipes = {"stdout": stdout, "stderr": subprocess.STDOUT, "text": True}
        env = dict(os.environ, OMP_NUM_THREADS="1")
        return subprocess.Popen(command, cwd=self.folder, env=env, start_new_session=True, **pipes)

    def processes(self) -> dict[int, str]:
        """{id: command line} of those that were started here and have not ended, whoever started them."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").resolve(strict=True) == self.folder.resolve():
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        return found

    def assert_all_end(self, seconds=10):
        """Nothing that was started here lives on; Python's own helpers end a moment after whoever started them."""
        deadline = time.monotonic() + seconds
        while processes := self.processes():
            assert time.monotonic() < deadline, processes
            time.sleep(0.1)

    def run(self, *args, fails=False):
        process = self.start(*args, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=500)
        assert bool(process.returncode) == fails, output
        return output

    def train(self, *args, **kwargs):
        return self.run(*self.training(*args), **kwargs)

    def kill_after_the_first_checkpoint(self, *args):
        """Trains until then; the last of ``args`` is OUTPUT_DIR.

        Three iterations are left to do it in, which a busy machine may miss.
        """
        out = self.folder / args[-1]
        for _ in range(5):
            shutil.rmtree(out, ignore_errors=True)
            process = self.start(*self.training(*args))
            tag = out / "last_checkpoint"
            while not (tag.exists() and tag.read_text()) and process.poll() is None:
                time.sleep(0.005)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if tag.read_text() == "model_0000002.pth":
                return
        raise AssertionError("each time it was killed too late to say anything")

    def training(self, *args):
        data = ["--train-json", "train/annotations.json", "--train-images", "train/images"]
        data += ["--val-json", "val/annotations.json", "--val-images", "val/images"]
        return [ROOT / "train_net.py", "--config-file", "tiny.yaml", *data, *args]


def last_losses(output_dir):
    lines = [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines if "total_loss" in line][-1]
