"""Hypothesis strategies for the odd shapes of a batch."""

import torch
from hypothesis import strategies as st

# Coordinates on a coarse lattice make ties, empty boxes and IoUs on the threshold common; the rest is odd on purpose.
_LATTICE = st.integers(0, 6).map(float)
_ODD = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38, 1e-30, 0.1, -2.0])
_COORDINATE = st.one_of(_LATTICE, _LATTICE, _LATTICE, _LATTICE, _LATTICE, _LATTICE, _LATTICE, _ODD)
_FINITE_BOX = st.tuples(_LATTICE, _LATTICE, st.integers(-1, 5), st.integers(-1, 5)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
_ANY_BOX = st.one_of(_FINITE_BOX, _FINITE_BOX, _FINITE_BOX, st.lists(_COORDINATE, min_size=4, max_size=4))


def box_tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@st.composite
def box_batches(draw, finite: bool = False, most: int = 6):
    """Lists of boxes and of ground truths, one of each an image."""
    box = _FINITE_BOX if finite else _ANY_BOX
    images = draw(st.integers(0, 3))
    return [
        (
            box_tensor(draw(st.lists(box, max_size=most))),
            box_tensor(draw(st.lists(box, max_size=most))),
        )
        for _ in range(images)
    ]


def pack(parts: list[torch.Tensor], empty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The packed rows and their offsets."""
    sizes = torch.tensor([0, *map(len, parts)])
    return torch.cat([empty, *parts]), sizes.cumsum(0)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, laid out with gaps and in another order."""
    if tensor.dim() == 2:
        room = torch.full((tensor.shape[1] + 1, 2 * tensor.shape[0] + 1), -7, dtype=tensor.dtype)
        view = room.t()[: 2 * tensor.shape[0] : 2, 1:]
    else:
        view = torch.full((2 * tensor.shape[0],), -7, dtype=tensor.dtype)[::2]
    return view.copy_(tensor)
