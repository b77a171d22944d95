import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheel.bare import BareEnvironment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_dist():
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("make_dist")
    sys.path.remove(str(ROOT / "tools"))
    sys.modules.pop("make_dist")


@pytest.fixture(scope="session")
def tracked():
    """What git has of this tree, or would have after `git add`."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if done is None or done.returncode:
        pytest.skip("this is no git checkout: what belongs to the sources cannot be told from what was built")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="session")
def copy_source(tracked):
    """Copies the sources to a folder."""

    def copy(folder: Path) -> Path:
        for name in tracked:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        return folder

    return copy


@pytest.fixture(scope="module")
def no_core(tmp_path_factory):
    """What is built has no core, as torch cannot be imported, and is of a time that is always the same."""
    folder = tmp_path_factory.mktemp("no_torch")
    (folder / "torch.py").write_text("raise ImportError('hidden from the build')\n")
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(folder), LIBRA_D2_CUDA="", SOURCE_DATE_EPOCH="1700000000")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def environment(tmp_path):
    return BareEnvironment(tmp_path)
