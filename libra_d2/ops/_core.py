"""Finds and loads the compiled core, ``libra_d2/_C``, or says why it is not used."""

import importlib
import importlib.util
import os

_reason = "not loaded yet"
_loaded = False


def loaded() -> bool:
    return _loaded


def status() -> str:
    """One line: which backend is in use, and why."""
    return f"native ({_reason})" if _loaded else f"torch ({_reason})"


def load() -> None:
    """Loads the core as ``LIBRA_D2_BACKEND`` asks: "torch" never, "native" or ImportError, unset where it was built."""
    global _loaded, _reason
    wanted = os.environ.get("LIBRA_D2_BACKEND", "")
    if wanted not in ("", "torch", "native"):
        raise ValueError(f"expected LIBRA_D2_BACKEND to be torch, native or unset, got {wanted!r}")
    if wanted == "torch":
        _reason = "LIBRA_D2_BACKEND=torch"
        return
    _loaded, _reason = _try_load()
    if wanted == "native" and not _loaded:
        raise ImportError(f"LIBRA_D2_BACKEND=native, but the compiled core cannot be used: {_reason}")


def _try_load() -> tuple[bool, str]:
    spec = importlib.util.find_spec("libra_d2._C")
    if spec is None or spec.origin is None:
        return False, "the compiled core was not built"
    try:
        importlib.import_module("libra_d2._C")
    except ImportError as error:
        return False, f"{spec.origin} does not load: {error}"
    return True, spec.origin
