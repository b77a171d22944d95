"""The random number generators of Python, NumPy and torch: keep, restore and seed them together."""

# ruff: noqa: NPY002  (the global generators are the ones that Detectron2 draws from)

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def rng_state(device: torch.device | str = "cpu") -> dict:
    """The state of all generators, as tensors and numbers, so that ``torch.load(weights_only=True)`` reads it.

    Args:
        device: its CUDA generator is included where it is a CUDA device.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    device = torch.device(device)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(state: dict, device: torch.device | str = "cpu") -> None:
    """Restores what :func:`rng_state` returned."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Leaves the generators on the CPU as they were, whatever is drawn inside."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


@contextlib.contextmanager
def seeded_rng(device: torch.device | str, *key: int) -> Iterator[None]:
    """Inside, what is drawn on the CPU and on ``device`` depends on ``key``; after it, the generators go on as before.

    Args:
        key: non-negative integers.
    """
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with preserved_rng(), torch.random.fork_rng(cuda):
        seed_cpu(*key)
        for this in cuda:
            with torch.cuda.device(this):
                torch.cuda.manual_seed(torch.initial_seed())
        yield


def seed_cpu(*key: int) -> None:
    """Seeds the generators on the CPU by a tuple of non-negative integers.

    Unlike ``torch.manual_seed`` it leaves the CUDA generators alone.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))
