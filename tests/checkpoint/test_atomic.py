"""A file is there with all of its content, or as it was before; a folder belongs to one run."""

import json
import os
import resource
import socket
import subprocess
import sys

import pytest
import torch
from detectron2.utils.file_io import PathManager

from libra_d2.checkpoint.atomic import AtomicPathManager, atomic_write, lock_folder


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as f:
        f.write(b"first")

    def write_half():
        with atomic_write(path) as f:
            f.write(b"second, half of it")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_it(tmp_path):
    with atomic_write(tmp_path / "a.bin") as f:
        f.write(b"x")
    assert (tmp_path / "a.bin").stat().st_mode & 0o444 == 0o444


def test_it_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda f: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *args: (done.append("rename"), replace(*args)))
    with atomic_write(tmp_path / "a.txt", text=True) as f:
        f.write("x")
    assert done == ["fsync", "rename", "fsync"], "the file, its name, the folder that holds the name"
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.fixture
def small_files():
    """Files cannot grow beyond 20 kB: to a program this is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1_000, 100_000], ids=["fails at the end", "fails on the way"])
def test_a_full_disk_is_named_and_leaves_what_was_there(size, tmp_path, small_files):
    files = AtomicPathManager(PathManager)
    path = tmp_path / "w.pth"
    path.write_bytes(b"first")

    def save():
        with files.open(str(path), "wb") as f:
            torch.save({i: torch.ones(size // 4) for i in range(30)}, f)

    with pytest.raises(OSError, match=r"w.pth: cannot be written \(.*File too large.*\); what was there before is"):
        save()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_run_is_refused_with_the_process_and_host_of_the_first(tmp_path):
    lock = lock_folder(tmp_path)
    code = f"from libra_d2.checkpoint.atomic import lock_folder; lock_folder({str(tmp_path)!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 1
    first = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"UserError: OUTPUT_DIR {tmp_path}: expected a folder that no other run writes to" in second.stderr
    assert f"got that of {first}; choose another OUTPUT_DIR" in second.stderr
    lock.release()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.loads((tmp_path / ".lock_holder.json").read_text())["process"] != os.getpid()


def test_the_lock_ends_with_the_process_and_what_it_left_half_written_is_removed(tmp_path):
    code = f"""
import os, signal
from libra_d2.checkpoint.atomic import atomic_write, lock_folder
lock = lock_folder({str(tmp_path)!r})
with atomic_write({str(tmp_path / "w.pth")!r}) as f:
    f.write(b"half")
    f.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code])
    assert killed.returncode == -9
    assert len(list(tmp_path.glob(".w.pth.*"))) == 1
    lock_folder(tmp_path).release()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock_holder.json"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="OUTPUT_DIR .*file: expected a folder that can be written to"):
        lock_folder(tmp_path / "file")
