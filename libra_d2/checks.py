"""Checks of what a user gave; each message says what was expected, what came and what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import reduce
from pathlib import Path


class UserError(ValueError):
    """Something that the user can mend. The command line prints the message; any other exception is a bug."""


class FileError(UserError, OSError):
    """A file or folder that a user named cannot be read or written."""


class MissingDetectron2(UserError, ImportError):
    """Detectron2 is needed and not installed."""


def find_detectron2() -> Path | None:
    """The ``__init__.py`` of the Detectron2 that can be imported; None for none, or for a mere folder of that name."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin) if spec and spec.origin else None


def require_detectron2() -> None:
    """To be called before Detectron2 is imported.

    Raises:
        MissingDetectron2: it cannot be found; the message says how to install it.
    """
    if find_detectron2() is None:
        raise MissingDetectron2("Detectron2 is not installed; this installs it: libra-d2 install-detectron2")


def require_packages(what: str, names: Iterable[str], extra: str) -> None:
    """Finds out whether the packages of an extra are installed, without importing them.

    Args:
        what: needs them, e.g. "--tile".
        extra: of libra_d2, which has them.

    Raises:
        UserError: names those that are missing, and the line that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'libra_d2[{extra}]'")


def value_of(cfg, key: str):
    """The value behind a dotted key, such as "MODEL.LIBRA.SAMPLER.NAME"."""
    return reduce(getattr, key.split("."), cfg)


def choice(cfg, key: str, allowed: Iterable[str]) -> str:
    """The value of ``key``.

    Raises:
        UserError: it is not one of ``allowed``.
    """
    value, allowed = value_of(cfg, key), list(allowed)
    if value not in allowed:
        raise UserError(f"{key}: expected one of {allowed}, got {value!r}")
    return value


def number(cfg, key: str, expected: str, is_allowed) -> float:
    """The value of ``key``.

    Raises:
        UserError: ``is_allowed`` of it is false; ``expected`` says in words what would be true.
    """
    value = value_of(cfg, key)
    if not is_allowed(value):
        raise UserError(f"{key}: expected {expected}, got {value!r}")
    return value
