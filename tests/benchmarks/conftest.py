"""What the tests of benchmarks/accuracy share."""

import importlib
import sys
from pathlib import Path

import pytest

import libra_d2

ROOT = Path(libra_d2.__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "accuracy"


@pytest.fixture
def accuracy(monkeypatch):
    """Imports a script of benchmarks/accuracy by name, as its neighbours do."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield importlib.import_module
    own = {path.stem for path in FOLDER.glob("*.py")} | {"side_by_side", "prepare_quickstart", "pinned_wheel"}
    for name in own - before:
        sys.modules.pop(name, None)
