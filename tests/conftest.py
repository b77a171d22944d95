"""What tests of several folders share."""

from pathlib import Path

import pytest

from libra_d2.install import DETECTRON2

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def pinned_detectron2():
    """The file of the pinned Detectron2, which set-up has kept."""
    for folder in (ROOT / ".cache" / "wheels", ROOT / "wheels"):
        if (folder / DETECTRON2.filename).is_file():
            return folder / DETECTRON2.filename
    pytest.skip(f"{DETECTRON2.filename} is not in .cache/wheels: set-up found another Detectron2")
