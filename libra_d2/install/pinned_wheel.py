"""Wheels with a pinned SHA-256, from a file or from the index that pip is configured for."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from libra_d2.checks import FileError


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

    def check(self, path: Path, hint: str) -> Path:
        """Returns ``path``.

        Args:
            path: a file that should be this wheel.
            hint: ends the message of an error: what to do with the right file.

        Raises:
            FileError: there is no such file, or it is another one.
        """
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror}). {self._wanted(hint)}") from error
        if found != self.sha256:
            raise FileError(f"{path}: expected SHA-256 {self.sha256}, got {found}: delete it. {self._wanted(hint)}")
        return path

    def download(self, folder: Path, hint: str) -> Path:
        """Returns the path of the file, which appears in ``folder`` whole and checked, or not at all.

        Raises:
            FileError: it cannot be downloaded, or what arrives is another file.
        """
        options = ["--no-deps", "--only-binary=:all:", *self.tags, f"{self.name}=={self.version}"]
        with tempfile.TemporaryDirectory(dir=folder) as unchecked:
            command = [*pip(), "download", "--quiet", "--dest", unchecked, *options]
            result = subprocess.run(command, capture_output=True, text=True)
            path = Path(unchecked, self.filename)
            if result.returncode or not path.is_file():
                raise FileError(
                    f"cannot download {self.name}: {_last_line(result)}\nElsewhere it is downloaded by: pip download "
                    f"{' '.join(options)}\n{self._wanted(hint)}"
                )
            os.replace(self.check(path, hint), folder / self.filename)
        return folder / self.filename

    def _wanted(self, hint: str) -> str:
        return f"Wanted: {self.name}=={self.version}, the file {self.filename} with SHA-256 {self.sha256}. {hint}"


def pip() -> list[str]:
    """The command line of pip: this Python's own, or where it has none (uv makes such environments) that of ensurepip.

    Raises:
        FileError: there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    wheels = sorted(Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl")) if ensurepip else []
    if not wheels:
        raise FileError(f"{sys.executable} has no pip to download with")
    return [sys.executable, str(wheels[-1] / "pip")]  # a wheel of pip runs without being installed


def _last_line(result: subprocess.CompletedProcess) -> str:
    """What pip said at the end, where it says what went wrong."""
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with status {result.returncode}"


DETECTRON2 = PinnedWheel(
    # A re-upload of facebookresearch/detectron2: its Python files are those of commit a59f0563 but for the version
    # string, one bug fix and one test helper. The tag names Python 3.10 for a compiled module, which is not used.
    name="sal-detectron2",
    version="0.7.2",
    filename="sal_detectron2-0.7.2-cp310-none-any.whl",
    sha256="491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561",
    tags=("--python-version=3.10", "--implementation=cp", "--abi=none", "--platform=any"),
)
