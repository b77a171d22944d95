"""No arguments make an op crash: it raises one sentence, or both backends return the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libra_d2 import ops
from tests.fuzz.budget import budget, little_memory
from tests.ops.backends import BACKENDS, using

_FLOATS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, -1.0, 0.3, 1e30, 3e38, 1e-30, float("nan"), float("inf"), -0.0])
_OFFSETS = st.lists(st.sampled_from([0, 0, 1, 2, 3, 4, 5, -1, 2**62, -(2**63)]), max_size=4)
_SEEDS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def tensors(draw, columns: int | None, rows: int | None = None, dtype=torch.float32, values=_FLOATS):
    """Of the right kind mostly; else another dtype, shape or layout."""
    rows = draw(st.integers(0, 5)) if rows is None else rows
    size = rows * (columns or 1)
    data = draw(st.lists(values, min_size=size, max_size=size))
    tensor = torch.tensor(data, dtype=torch.float64 if dtype.is_floating_point else torch.int64).to(dtype)
    tensor = tensor.reshape(rows, columns) if columns else tensor
    match draw(st.integers(0, 24)):
        case 0:
            return tensor.double()
        case 1:
            return tensor.reshape(-1)[: max(0, size - 1)]
        case 2:
            return tensor[None]
        case 3:
            return tensor.to("meta")
        case 4:
            return tensor.expand(3, *tensor.shape)[1] if size else tensor
        case 5 if columns:
            return tensor.t().contiguous().t()
        case 6:
            return tensor[:0]
    return tensor


@st.composite
def partitions(draw, rows: int, images: int | None = None):
    """Offsets that fit mostly."""
    if draw(st.integers(0, 9)) == 0:
        return torch.tensor(draw(_OFFSETS), dtype=torch.int64)
    images = draw(st.integers(0, 3)) if images is None else images
    cuts = sorted(draw(st.lists(st.integers(0, rows), min_size=max(0, images - 1), max_size=max(0, images - 1))))
    return torch.tensor([0, *cuts, rows] if images else [0])


def outcome(backend, function, *args, **kwargs):
    """What the op returns, as lists."""
    with using(backend), little_memory(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            result = function(*args, **kwargs)
        except (TypeError, ValueError) as error:
            assert "expected" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            return "refused"  # of several wrong arguments each backend names the one that it looks at first
    parts = result if isinstance(result, list | tuple) else [result]
    if any(part.is_meta for part in parts):  # no values: of offsets neither, which a fake kernel does not look at
        return None
    return [(tuple(part.shape), part.dtype, part.nan_to_num(-7).tolist()) for part in parts]


def agree(function, *args, **kwargs):
    outcomes = [outcome(backend, function, *args, **kwargs) for backend in BACKENDS]
    assert None in outcomes or outcomes == outcomes[:1] * len(outcomes)


@budget(0.5)
@given(data=st.data())
def test_match_boxes(data):
    boxes, gts = data.draw(tensors(4)), data.draw(tensors(4))
    images = data.draw(st.integers(0, 3))
    box_offsets = data.draw(st.none() | partitions(boxes.shape[0], images)) if boxes.dim() else None
    gt_offsets = data.draw(partitions(gts.shape[0], images)) if gts.dim() else torch.tensor([0])
    thresholds = data.draw(st.lists(_FLOATS, max_size=3) | st.just([0.3, 0.7]) | st.just([0.5]))
    labels = data.draw(st.lists(st.integers(-2, 2), max_size=4) | st.just([0, -1, 1]) | st.just([0, 1]))
    agree(ops.match_boxes, boxes, gts, box_offsets, gt_offsets, thresholds, labels, data.draw(st.booleans()))


@budget(0.5)
@given(data=st.data())
def test_batched_iou(data):
    boxes, gts = data.draw(tensors(4)), data.draw(tensors(4))
    images = data.draw(st.integers(0, 3))
    agree(
        ops.batched_iou,
        boxes,
        gts,
        data.draw(partitions(boxes.shape[0], images)),
        data.draw(partitions(gts.shape[0], images)),
    )


@budget(0.5)
@given(data=st.data())
def test_bucketed_sample(data):
    rows = data.draw(st.integers(0, 12))
    labels = data.draw(tensors(None, rows, torch.int8, st.sampled_from([-1, 0, 0, 1, 1, 2, -128, 127])))
    ious = data.draw(tensors(None, rows, torch.float32, _FLOATS | st.floats(0, 1, width=32)))
    matched = data.draw(tensors(None, rows, torch.int64, st.sampled_from([0, 0, 1, 2, 3, -1, 2**62])))
    options = {
        "positive": st.sampled_from(["instance_balanced", "random", "x", None]),
        "negative": st.sampled_from(["iou_balanced", "random", "x"]),
        "num_bins": st.sampled_from([1, 3, 7, 0, -1, 2**31, 2.5]),
        "bin_upper": st.sampled_from([0.5, "max_all", "max_neg", "x"]) | _FLOATS,
        "floor_thr": _FLOATS,
        "floor_fraction": _FLOATS,
        "neg_pos_ub": _FLOATS,
    }
    kwargs = {name: data.draw(value) for name, value in options.items() if data.draw(st.integers(0, 3)) == 0}
    kwargs["seed"] = torch.tensor(data.draw(_SEEDS))
    agree(
        ops.bucketed_sample,
        labels,
        ious,
        matched,
        data.draw(partitions(rows)),
        data.draw(st.sampled_from([0, 1, 2, 4, 8, 30, -1, 1.5])),
        data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, 2.0, float("nan")])),
        **kwargs,
    )


def test_the_core_is_compared():
    if "native" not in BACKENDS:
        pytest.skip("the compiled core was not built: nothing to compare")
