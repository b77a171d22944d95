"""On a CPU the commands keep what torch frees, unless they are told not to."""

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import libra_d2
from libra_d2.checks import UserError
from libra_d2.cli.main import run
from libra_d2.engine.freed_memory import keep_freed_memory
from tests.engine.tiny import write_config, write_dataset

FREE_128_MIB = """
import os
import sys
from pathlib import Path
import torch
import libra_d2
from libra_d2.engine.freed_memory import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

cfg = libra_d2.get_cfg()
cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.LIBRA.KEEP_FREED_MEMORY", sys.argv[1]])
kept = keep_freed_memory(cfg)
blocks = [torch.ones(16 << 20) for _ in range(2)]
full = resident_mib()
del blocks
print(kept, full - resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
@pytest.mark.parametrize("keep", [True, False])
def test_what_is_freed_stays_with_the_process_if_the_key_says_so(keep):
    done = subprocess.run(
        [sys.executable, "-c", FREE_128_MIB, str(keep)],
        cwd=Path(libra_d2.__file__).parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, given_back = done.stdout.split()
    assert kept == str(keep)
    assert float(given_back) < 16 if keep else float(given_back) > 112


@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name, monkeypatch):
    cfg = libra_d2.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory(cfg)


def test_a_gpu_has_an_allocator_of_torchs_own():
    cfg = libra_d2.get_cfg()
    cfg.MODEL.DEVICE = "cuda"
    assert not keep_freed_memory(cfg)


@pytest.mark.parametrize(("command", "module"), [("train", "train"), ("eval", "train"), ("predict", "predict")])
def test_each_command_asks_for_it_first(command, module, monkeypatch, tmp_path, capsys):
    def stop(cfg):
        raise UserError(f"asked for {cfg.MODEL.DEVICE}")

    monkeypatch.setattr(importlib.import_module(f"libra_d2.cli.{module}"), "keep_freed_memory", stop)
    json_file, images = map(str, write_dataset(tmp_path / "data"))
    arguments = ["--config-file", str(write_config(tmp_path / "tiny.yaml"))]
    if command == "predict":
        arguments += ["--input", images, "--output", str(tmp_path / "found")]
    else:
        arguments += ["--val-json", json_file, "--val-images", images, "OUTPUT_DIR", str(tmp_path / "out")]
    if command == "train":
        arguments[2:2] = ["--train-json", json_file, "--train-images", images]
    assert run(command, arguments) == 1
    assert "asked for cpu" in capsys.readouterr().err
