"""Unpacks the pinned Detectron2 into site-packages as pip would: whole or not at all, and never over another one."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib.util
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from libra_d2.checks import FileError, find_detectron2

UNFINISHED = ".detectron2.unfinished"
# what Detectron2 imports, by module, and what pip calls it
REQUIREMENTS = {
    "black": "black",
    "cloudpickle": "cloudpickle",
    "cv2": "opencv-python-headless",
    "fvcore": "fvcore",
    "hydra": "hydra-core",
    "iopath": "iopath",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "omegaconf": "omegaconf",
    "packaging": "packaging",
    "PIL": "pillow",
    "pkg_resources": "setuptools<81",
    "pycocotools": "pycocotools",
    "tabulate": "tabulate",
    "tensorboard": "tensorboard",
    "termcolor": "termcolor",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
    "yacs": "yacs",
}


def missing_requirements() -> list[str]:
    """What this Python would have to install for Detectron2, as pip takes it."""
    return [requirement for module, requirement in REQUIREMENTS.items() if importlib.util.find_spec(module) is None]


def find() -> str | None:
    """Version and folder of the Detectron2 that this Python imports; None where there is none."""
    file = find_detectron2()
    if file is None:
        return None
    version = re.search(r"^__version__ = [\"'](.*)[\"']", file.read_text(), re.MULTILINE)
    return f"{version[1] if version else '(unknown version)'} ({file.parent})"


def install(wheel: Path, site_packages: Path) -> None:
    """Unpacks the package ``detectron2`` and its metadata, which list it for ``pip list`` and ``pip uninstall``.

    The compiled module fits one Python and one torch and is left out, and so is the folder ``tools`` of examples.

    Raises:
        FileError: ``site_packages`` has something called detectron2, or cannot be written to.
    """
    package, unfinished = site_packages / "detectron2", site_packages / UNFINISHED
    with _alone(site_packages):
        if os.path.lexists(package):
            raise FileError(
                f"{package}: expected nothing there, got another Detectron2 or what is left of one; move it"
            )
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # that of a run which was killed
            _unpack(wheel, unfinished)
            (metadata,) = unfinished.glob("*.dist-info")
            _describe(metadata)
            shutil.rmtree(site_packages / metadata.name, ignore_errors=True)  # likewise
            os.replace(metadata, site_packages / metadata.name)
            try:
                os.replace(unfinished / "detectron2", package)  # last: nobody imports half of it
            except BaseException:
                shutil.rmtree(site_packages / metadata.name)
                raise
        except OSError as error:
            raise FileError(f"{site_packages}: cannot be written to ({error.strerror}); nothing was changed") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second installation into ``folder`` waiting; leaves no file behind."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.startswith("tools/")]
        archive.extractall(folder, [name for name in names if not name.endswith((".so", ".dist-info/RECORD"))])


def _describe(metadata: Path) -> None:
    """Makes the metadata those of what was unpacked: pure Python, which runs with NumPy 2 and needs pkg_resources."""
    text = (metadata / "METADATA").read_text()
    text = text.replace("Requires-Dist: numpy<2\n", "Requires-Dist: numpy\nRequires-Dist: setuptools<81\n")
    (metadata / "METADATA").write_text(text)
    (metadata / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: libra_d2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    (metadata / "top_level.txt").write_text("detectron2\n")
    (metadata / "INSTALLER").write_text("libra-d2\n")
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path in sorted(path for path in metadata.parent.rglob("*") if path.is_file()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        rows.writerow([path.relative_to(metadata.parent).as_posix(), f"sha256={digest}", path.stat().st_size])
    rows.writerow([f"{metadata.name}/RECORD", "", ""])
    (metadata / "RECORD").write_text(record.getvalue())
