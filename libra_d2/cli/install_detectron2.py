"""Installs the tested Detectron2 where there is none: from PyPI's sal-detectron2, its Python files alone.

examples:
  libra-d2 install-detectron2
  libra-d2 install-detectron2 --wheel sal_detectron2-0.7.2-cp310-none-any.whl   without a network

Any other Detectron2 is used as it is, and never written over. pip's own settings say which index is asked; the file
is checked by its SHA-256. `pip uninstall sal-detectron2` removes it again.
"""

import argparse
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from libra_d2.checks import FileError, UserError
from libra_d2.install import DETECTRON2, find, install, missing_requirements


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=f"{DETECTRON2.filename}, if you have it")
    return parser


def run(args) -> int:
    if there := find():
        print(f"Detectron2 {there} is there and will be used: nothing to install")
    else:
        _install(args.wheel)
        print(f"installed {DETECTRON2.name}: Detectron2 {find()}")
    if missing := missing_requirements():
        wanted = " ".join(f'"{name}"' if "<" in name else name for name in missing)
        print(f"Detectron2 also needs: pip install {wanted}")
    return 0


def _install(wheel: Path | None) -> None:
    site_packages = Path(sysconfig.get_path("purelib"))
    if Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists() and sys.prefix == sys.base_prefix:
        raise UserError(
            f"{sys.executable} belongs to the operating system: make a virtual environment and use its Python"
        )
    if not os.access(site_packages, os.W_OK):
        raise FileError(f"{site_packages}: cannot be written to; make a virtual environment and use its Python")
    hint = "This takes it: libra-d2 install-detectron2 --wheel FILE"
    with tempfile.TemporaryDirectory() as folder:
        install(DETECTRON2.check(wheel, hint) if wheel else DETECTRON2.download(Path(folder), hint), site_packages)
