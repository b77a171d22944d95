"""Bad arguments raise one sentence, what was expected and what came, in every backend alike; empty ones are normal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from libra_d2 import ops
from libra_d2.ops import _library, _reference
from tests.cuda_emulator.emulated import EmulatedOps
from tests.ops.backends import BACKENDS, using

NAN, INF = float("nan"), float("inf")
BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 6.0, 6.0], [9.0, 9.0, 12.0, 12.0]])
MATCH = {
    "boxes": BOXES,
    "gt_boxes": BOXES[:2],
    "box_offsets": torch.tensor([0, 2, 3]),
    "gt_offsets": torch.tensor([0, 1, 2]),
    "thresholds": [0.3, 0.7],
    "labels": [0, -1, 1],
}
IOU = {name: MATCH[name] for name in ("boxes", "gt_boxes", "box_offsets", "gt_offsets")}
SAMPLE = {
    "labels": torch.tensor([1, 0, 0, -1], dtype=torch.int8),
    "ious": torch.tensor([0.9, 0.1, 0.2, 0.4]),
    "matched_idx": torch.zeros(4, dtype=torch.int64),
    "offsets": torch.tensor([0, 3, 4]),
    "num_samples": 2,
    "positive_fraction": 0.5,
}
OPS = {"match_boxes": (ops.match_boxes, MATCH), "batched_iou": (ops.batched_iou, IOU)}
OPS["bucketed_sample"] = (ops.bucketed_sample, SAMPLE)

BAD_BOXES = [
    ({"boxes": [[0, 0, 1, 1]]}, TypeError, "expected boxes to be a Tensor, got list"),
    ({"boxes": BOXES.double()}, TypeError, "expected boxes of dtype torch.float32, got torch.float64"),
    ({"boxes": BOXES.half()}, TypeError, "expected boxes of dtype torch.float32, got torch.float16"),
    ({"boxes": BOXES.to_sparse()}, TypeError, "expected boxes to be a dense (strided) tensor, got torch.sparse_coo"),
    ({"boxes": BOXES[0]}, ValueError, "expected boxes of shape [R, 4], got [4]"),
    ({"boxes": BOXES[:, :3]}, ValueError, "expected boxes of shape [R, 4], got [3, 3]"),
    ({"boxes": BOXES[None]}, ValueError, "expected boxes of shape [R, 4], got [1, 3, 4]"),
    ({"gt_boxes": torch.zeros(2, 5)}, ValueError, "expected gt_boxes of shape [R, 4], got [2, 5]"),
    ({"gt_boxes": BOXES[:2].long()}, TypeError, "expected gt_boxes of dtype torch.float32, got torch.int64"),
    ({"gt_boxes": BOXES[:2].to("meta")}, ValueError, "expected gt_boxes on cpu, got meta"),
    ({"gt_offsets": [0, 1, 2]}, TypeError, "expected gt_offsets to be a Tensor, got list"),
    ({"gt_offsets": torch.tensor([0, 1, 2]).int()}, TypeError, "gt_offsets of dtype torch.int64, got torch.int32"),
    ({"gt_offsets": torch.tensor([[0, 1, 2]])}, ValueError, "expected gt_offsets of shape [N + 1], got [1, 3]"),
    ({"gt_offsets": torch.tensor([]).long()}, ValueError, "expected gt_offsets of shape [N + 1], got [0]"),
    ({"gt_offsets": torch.tensor([0, 1, 2]).to("meta")}, ValueError, "expected gt_offsets on cpu or on the CPU"),
    ({"box_offsets": torch.tensor([0, 3])}, ValueError, "expected box_offsets for 2 images, got 1"),
    ({"box_offsets": torch.tensor([1, 2, 3])}, ValueError, "expected box_offsets to start at 0, got 1"),
    ({"box_offsets": torch.tensor([0, 4, 3])}, ValueError, "expected box_offsets not to decrease, got 4 before 3"),
    ({"box_offsets": torch.tensor([0, -5, 3])}, ValueError, "expected box_offsets not to decrease, got 0 before -5"),
    ({"box_offsets": torch.tensor([0, 2, 4])}, ValueError, "box_offsets to end at 3, the number of rows, got 4"),
    ({"gt_offsets": torch.tensor([0, 1, 2**62])}, ValueError, "gt_offsets to end at 2, the number of rows, got 46"),
    ({"gt_offsets": torch.tensor([0, 9, 2])}, ValueError, "expected gt_offsets not to decrease, got 9 before 2"),
]
BAD_MATCH = [
    ({"thresholds": [NAN, 0.7]}, ValueError, "expected thresholds to be a finite number, got nan"),
    ({"thresholds": [0.3, INF]}, ValueError, "expected thresholds to be a finite number, got inf"),
    ({"thresholds": [0.0, 0.7]}, ValueError, "expected thresholds that are positive and finite in float32, got 0.0"),
    ({"thresholds": [0.3, 1e39]}, ValueError, "expected thresholds that are positive and finite in float32, got 1e+39"),
    ({"thresholds": ["0.3", 0.7]}, TypeError, "expected thresholds to be a number, got '0.3'"),
    ({"thresholds": 0.5}, TypeError, "expected thresholds to be a sequence, got float"),
    ({"thresholds": [0.7, 0.3]}, ValueError, "expected ascending thresholds, got [0.7, 0.3]"),
    ({"thresholds": [0.5] * 16}, ValueError, "expected at most 15 thresholds, got 16"),
    ({"labels": [0, 1]}, ValueError, "expected 3 labels, one more than thresholds, got [0, 1]"),
    ({"labels": 1}, TypeError, "expected labels to be a sequence, got int"),
    ({"labels": [0, -1, 2]}, ValueError, "expected every label to be -1, 0 or 1, got 2"),
    ({"labels": [0, -1, 300]}, ValueError, "expected every label to be -1, 0 or 1, got 300"),
    ({"labels": [0, 0.5, 1]}, TypeError, "expected labels to be an integer, got 0.5"),
]
BAD_SAMPLE = [
    ({"labels": torch.zeros(4)}, TypeError, "expected labels of dtype torch.int8, got torch.float32"),
    ({"labels": torch.zeros(2, 2, dtype=torch.int8)}, ValueError, "expected labels of shape [R], got [2, 2]"),
    ({"ious": torch.zeros(3)}, ValueError, "expected ious of shape [4], one value a row, got [3]"),
    ({"ious": torch.zeros(4, 1)}, ValueError, "expected ious of shape [4], one value a row, got [4, 1]"),
    ({"ious": torch.zeros(4).double()}, TypeError, "expected ious of dtype torch.float32, got torch.float64"),
    ({"ious": None}, TypeError, "expected ious to be a Tensor, got NoneType"),
    ({"ious": torch.zeros(4).to("meta")}, ValueError, "expected ious on cpu, got meta"),
    ({"matched_idx": torch.zeros(4)}, TypeError, "expected matched_idx of dtype torch.int64, got torch.float32"),
    ({"matched_idx": torch.zeros(5).long()}, ValueError, "expected matched_idx of shape [4], one value a row, got [5]"),
    ({"offsets": torch.tensor([0, 4]).int()}, TypeError, "expected offsets of dtype torch.int64, got torch.int32"),
    ({"offsets": torch.tensor([0, 5])}, ValueError, "expected offsets to end at 4, the number of rows, got 5"),
    ({"offsets": torch.tensor([-1, 4])}, ValueError, "expected offsets to start at 0, got -1"),
    ({"offsets": torch.tensor([0, 4, 0])}, ValueError, "expected offsets not to decrease, got 4 before 0"),
    ({"num_samples": 0}, ValueError, "expected num_samples >= 1, got 0"),
    ({"num_samples": -1}, ValueError, "expected num_samples >= 1, got -1"),
    ({"num_samples": 2.0}, TypeError, "expected num_samples to be an integer, got 2.0"),
    ({"num_samples": True}, TypeError, "expected num_samples to be an integer, got True"),
    ({"positive_fraction": 1.5}, ValueError, "expected positive_fraction to be a number from 0 to 1, got 1.5"),
    ({"positive_fraction": NAN}, ValueError, "expected positive_fraction to be a number from 0 to 1, got nan"),
    ({"positive_fraction": None}, TypeError, "expected positive_fraction to be a number, got None"),
    ({"positive": "balanced"}, ValueError, "positive to be one of 'instance_balanced', 'random', got 'balanced'"),
    ({"negative": "ohem"}, ValueError, "expected negative to be one of 'iou_balanced', 'random', got 'ohem'"),
    ({"num_bins": 0}, ValueError, "expected num_bins >= 1, got 0"),
    ({"num_bins": 2**31}, ValueError, "expected num_bins <= 65536, got 2147483648"),
    ({"num_samples": 2**31}, ValueError, "expected num_samples <= 16777216, got 2147483648"),
    ({"num_samples": 2**40}, ValueError, "expected num_samples <= 16777216, got 1099511627776"),
    ({"bin_upper": "max"}, ValueError, "expected bin_upper to be one of 'max_all', 'max_neg', got 'max'"),
    ({"bin_upper": 0.0}, ValueError, "expected bin_upper above max(floor_thr, 0) = 0, in float32, got 0.0"),
    ({"bin_upper": 0.2, "floor_thr": 0.2}, ValueError, "bin_upper above max(floor_thr, 0) = 0.2, in float32, got 0.2"),
    ({"bin_upper": 0.2 + 1e-10, "floor_thr": 0.2}, ValueError, "= 0.2, in float32, got 0.2000000001"),
    ({"bin_upper": NAN}, ValueError, "expected bin_upper to be a finite number, got nan"),
    ({"bin_upper": 1e39}, ValueError, "expected bin_upper above max(floor_thr, 0) = 0, in float32, got 1e+39"),
    ({"bin_upper": None}, TypeError, "expected bin_upper to be a number, got None"),
    ({"floor_thr": NAN}, ValueError, "expected floor_thr to be a finite number, got nan"),
    ({"floor_thr": -1e300}, ValueError, "expected floor_thr to be finite in float32, got -1e+300"),
    ({"floor_fraction": -0.1}, ValueError, "expected floor_fraction to be a number from 0 to 1, got -0.1"),
    ({"floor_fraction": NAN}, ValueError, "expected floor_fraction to be a number from 0 to 1, got nan"),
    ({"neg_pos_ub": NAN}, ValueError, "expected neg_pos_ub to be a finite number, got nan"),
    ({"neg_pos_ub": INF}, ValueError, "expected neg_pos_ub to be a finite number, got inf"),
    ({"seed": 3}, TypeError, "expected seed to be a Tensor, got int"),
    ({"seed": torch.tensor(3.0)}, TypeError, "expected seed of dtype torch.int64, got torch.float32"),
    ({"seed": torch.tensor([3])}, ValueError, "expected seed of shape [], got [1]"),
    ({"seed": torch.tensor(3).to("meta")}, ValueError, "expected seed on cpu, got meta"),
]
TABLE = [
    *(("match_boxes", *row) for row in BAD_BOXES + BAD_MATCH),
    *(("batched_iou", *row) for row in BAD_BOXES),
    *(("bucketed_sample", *row) for row in BAD_SAMPLE),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("op", "change", "error", "message"), TABLE)
def test_bad_argument(backend, op, change, error, message):
    function, good = OPS[op]
    with using(backend):
        function(**good)
        with pytest.raises(error) as raised:
            function(**{**good, **change})
    assert str(raised.value).startswith(f"{op}: expected ")
    if backend == "cuda" and op != "batched_iou":  # which checks before the backend has moved anything
        message = message.replace(" on cpu", " on cuda:0")
    assert message in str(raised.value)


def raw_call(op: str, arguments: dict) -> tuple:
    """The op's own arguments for those of the public function, its defaults filled in; and "numel"."""
    if op == "match_boxes":
        return (*arguments.values(), False)
    if op == "batched_iou":
        return tuple({"numel": 3, **arguments}[name] for name in (*IOU, "numel"))
    defaults = {"positive": "random", "negative": "random", "num_bins": 3, "bin_upper": 0.5, "floor_thr": -1.0}
    defaults = {"seed": torch.tensor(3), **defaults, "floor_fraction": 0.0, "neg_pos_ub": -1.0}
    arguments = {**defaults, **arguments}
    upper = arguments["bin_upper"]
    upper = (upper, 0.0) if isinstance(upper, str) else ("value", float(upper))
    tensors = [arguments.pop(name) for name in ("labels", "ious", "matched_idx", "offsets", "seed")]
    names = ("num_samples", "positive_fraction", "positive", "negative", "num_bins")
    rest = [arguments[name] for name in ("floor_thr", "floor_fraction", "neg_pos_ub")]
    return (*tensors, *(arguments[name] for name in names), *upper, *rest)


def call_fake(op: str, args: tuple):
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(arg) if isinstance(arg, torch.Tensor) else arg for arg in args]
        return getattr(torch.ops.libra_d2, op)(*args)


RAW_BACKENDS = {
    "reference": lambda op, args: getattr(_reference, op)(*args),
    "fake": call_fake,
    "emulated": lambda op, args: getattr(EmulatedOps(), op)(*args),  # checks numbers, but no tensors
}
if ops.backend() == "native":
    RAW_BACKENDS["native"] = lambda op, args: getattr(torch.ops.libra_d2, op)(*args)
if ops.has_cuda():
    # The host's half of the CUDA op: it refuses before it asks for a GPU.
    RAW_BACKENDS["native_cuda"] = lambda op, args: getattr(torch.ops.libra_d2, op).default._op_dk(
        torch._C.DispatchKey.CUDA, *args
    )


def message_has(message: str, words: tuple[str, ...]) -> bool:
    return any(word in message for word in words)


def has_tensor(change: dict) -> bool:
    return any(isinstance(value, torch.Tensor) for value in change.values())


FOR_PYTHON = ("to be a Tensor", "to be a sequence", "to be a number, got", "to be an integer")
OF_VALUES = ("to start at", "not to decrease", "to end at", "numel")
LIMITS = [
    ("match_boxes", {"thresholds": []}, "expected 1 labels, one more than thresholds, got [0, -1, 1]"),
    (
        "match_boxes",
        {"gt_boxes": torch.zeros(1, 4).expand(2**31, 4), "gt_offsets": torch.tensor([0, 1, 2**31])},
        "expected at most 2147483647 ground truths, got 2147483648",
    ),
    (
        "bucketed_sample",
        {"labels": torch.zeros(1, dtype=torch.int8).expand(2**30)},
        "expected at most 1073741823 boxes, got 1073741824",
    ),
    ("batched_iou", {"numel": 4}, "expected numel 3, the size of all matrices, got 4"),
    ("batched_iou", {"numel": -1}, "expected numel 3, the size of all matrices, got -1"),
]
RAW_CALLS = [
    (backend, op, change, message)
    for op, change, message in [(op, change, message) for op, change, _, message in TABLE] + LIMITS
    for backend in RAW_BACKENDS
    if not message_has(message, FOR_PYTHON)
    and not (backend == "fake" and message_has(message, OF_VALUES))
    and not (backend == "emulated" and (op == "batched_iou" or has_tensor(change)))
    and not (backend == "native_cuda" and "strided" in message)  # never gets there: the core has dense kernels only
]


@pytest.mark.parametrize(("backend", "op", "change", "message"), RAW_CALLS)
def test_raw_call_is_refused_in_the_words_of_the_public_function(backend, op, change, message):
    function, good = OPS[op]
    error = ValueError if backend.startswith("native") and "strided" not in message else (ValueError, TypeError)
    with pytest.raises(error) as raised:
        RAW_BACKENDS[backend](op, raw_call(op, {**good, **change}))
    assert str(raised.value).startswith(f"{op}: expected ")
    assert message in str(raised.value)
    if "numel" not in change:
        with pytest.raises((ValueError, TypeError)) as public:
            function(**{**good, **change})
        assert str(raised.value) == str(public.value)


def written(value: float) -> str:
    """How the core writes a number that it refuses."""
    arguments = raw_call("match_boxes", {**MATCH, "thresholds": [value], "labels": [0, 1]})
    with pytest.raises(ValueError, match="expected thresholds that") as raised:
        RAW_BACKENDS.get("native", RAW_BACKENDS["reference"])("match_boxes", arguments)
    return str(raised.value).rpartition(", got ")[2]


@pytest.mark.parametrize("value", [-0.1, -0.0, -1e-05, -123456.75, -1e16, -1e22, -2.5e-300])
def test_core_writes_numbers_as_python_does(value):
    assert written(value) == str(value)


@given(st.floats(max_value=-0.0, allow_infinity=False))
def test_a_number_that_the_core_writes_is_the_number(value):
    # The digits may differ in the last place: a tie between two shortest texts is decided otherwise.
    assert float(written(value)) == value


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", [name for name in RAW_BACKENDS if name != "native_cuda"])
def test_good_raw_call_passes(backend, op):
    RAW_BACKENDS[backend](op, raw_call(op, OPS[op][1]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("images", [0, 1, 3])
def test_empty_input(backend, images):
    nothing, offsets = torch.empty(0, 4), torch.zeros(images + 1, dtype=torch.int64)
    with using(backend):
        for output in ops.match_boxes(nothing, nothing, offsets, offsets, [0.5], [0, 1], True):
            assert output.shape == (0,)
        for output in ops.match_boxes(nothing, nothing, None, offsets, [0.5], [0, 1], True):
            assert output.shape == (images, 0)
        index, iou, label = ops.match_boxes(BOXES, nothing, None, offsets, [0.5], [-1, 1], True)
        assert (index.tolist(), iou.tolist(), label.tolist()) == ([[0] * 3] * images,) * 2 + ([[-1] * 3] * images,)
        matrices = ops.batched_iou(nothing, nothing, offsets, offsets)
        assert [tuple(matrix.shape) for matrix in matrices] == [(0, 0)] * images
        indices, *counts = ops.bucketed_sample(
            torch.empty(0, dtype=torch.int8), torch.empty(0), torch.empty(0).long(), offsets, 4, 0.25
        )
        assert indices.tolist() == [[-1] * 4] * images
        assert [count.tolist() for count in counts] == [[0] * images] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_need_no_gradient(backend):
    boxes = BOXES.clone().requires_grad_()
    with using(backend):
        outputs = ops.match_boxes(**{**MATCH, "boxes": boxes})
        outputs += tuple(ops.batched_iou(**{**IOU, "boxes": boxes}))
    assert not any(output.requires_grad for output in outputs)


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("op", [op for op in OPS if op != "batched_iou"])
def test_debug_checks_offsets_before_the_op(op, debug, monkeypatch):
    class Device:
        """On a device the kernels only clamp offsets."""

        def __getattr__(self, name):
            raise InterruptedError("the op was called")

    monkeypatch.setattr(_library, "ops", Device())
    monkeypatch.setenv("LIBRA_D2_DEBUG", debug)
    function, arguments = OPS[op]
    name = next(name for name in ("offsets", "box_offsets") if name in arguments)
    wrong = {**arguments, name: arguments[name] - 1}
    with pytest.raises(ValueError if debug else InterruptedError, match="to start at 0, got -1" if debug else "called"):
        function(**wrong)
    with pytest.raises(InterruptedError):
        function(**arguments)
