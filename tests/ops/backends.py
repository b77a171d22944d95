"""Runs a test over all implementations of the ops."""

import contextlib
from unittest import mock

import torch

from libra_d2 import ops
from libra_d2.ops import _core, _library, _reference

# Why a backend is left out here, or None; test_registration.py skips one test for each that is.
MISSING = {
    "native": None if ops.backend() == "native" else _core.status(),
    "cuda": None
    if torch.cuda.is_available() and ops.has_cuda()
    else "no GPU, or a core without CUDA: see make gpu-check",
}
BACKENDS = ["torch", *(name for name, reason in MISSING.items() if reason is None)]
# The ways to run the CUDA kernels: with the offsets on the CPU, and with all tensors on the GPU.
ON_GPU = ["cuda", "cuda_offsets"] if MISSING["cuda"] is None else []

_OFFSETS = {"match_boxes": (2, 3), "batched_iou": (2, 3), "bucketed_sample": (3,)}


class _OnGpu:
    """The core's CUDA kernels for tensors of the CPU; offsets may stay there, where their values are checked."""

    def __init__(self, offsets_too: bool):
        self._offsets_too = offsets_too

    def __getattr__(self, name):
        def call(*args):
            moved = [arg.cuda() if self._moves(name, i, arg) else arg for i, arg in enumerate(args)]
            results = getattr(torch.ops.libra_d2, name)(*moved)
            return results.cpu() if isinstance(results, torch.Tensor) else tuple(result.cpu() for result in results)

        return call

    def _moves(self, name: str, place: int, arg) -> bool:
        on_cpu = isinstance(arg, torch.Tensor) and arg.device.type == "cpu"
        return on_cpu and (self._offsets_too or place not in _OFFSETS[name])


@contextlib.contextmanager
def using(backend: str):
    """Inside, the public functions of ``libra_d2.ops`` go to ``backend``, one of BACKENDS or ON_GPU."""
    on_gpu = {"cuda": _OnGpu(offsets_too=False), "cuda_offsets": _OnGpu(offsets_too=True)}
    stand_in = {"native": _library.ops, "torch": _reference, **on_gpu}[backend]
    with mock.patch.object(_library, "ops", stand_in):
        yield
