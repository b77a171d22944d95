import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    """Scripts in tools/ import each other by name, as Python arranges it when they are run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    yield
    for name in ("gpu_check", "pinned_wheel", "portability", "prepare_quickstart", "setup_env"):
        sys.modules.pop(name, None)
