"""Installs the pinned Detectron2. Standard library only: it runs before anything else is installed."""

from libra_d2.install.detectron2 import find, install, missing_requirements
from libra_d2.install.pinned_wheel import DETECTRON2, PinnedWheel

__all__ = ["DETECTRON2", "PinnedWheel", "find", "install", "missing_requirements"]
