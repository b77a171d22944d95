"""Runs a test over both implementations of the ops."""

import contextlib
from unittest import mock

import pytest

from libra_d2 import ops
from libra_d2.ops import _library, _twin

_NOT_BUILT = pytest.mark.skipif(ops.backend() != "native", reason="the compiled core was not built")
BACKENDS = ["torch", pytest.param("native", marks=_NOT_BUILT)]


@contextlib.contextmanager
def using(backend: str):
    """Inside, the public functions of ``libra_d2.ops`` go to ``backend``."""
    with contextlib.nullcontext() if backend == "native" else mock.patch.object(_library, "ops", _twin):
        yield
