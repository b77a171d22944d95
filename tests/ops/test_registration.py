"""The ops as torch sees them: schemas, fake kernels, torch.compile, and what they ask of the host."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from libra_d2 import ops
from libra_d2.ops import _core, _library, _reference
from tests.ops.backends import BACKENDS, MISSING, using
from tests.ops.test_arguments import IOU, MATCH, OPS, SAMPLE

SEED = torch.tensor(11)
OP_ARGS = {
    "match_boxes": [
        (*list(MATCH.values()), False),
        (MATCH["boxes"], MATCH["gt_boxes"], None, MATCH["gt_offsets"], [0.5], [0, 1], True),
    ],
    "batched_iou": [(*IOU.values(), 3)],
    "bucketed_sample": [
        (*list(SAMPLE.values())[:4], SEED, 2, 0.5, positive, negative, 3, upper, 0.5, -1.0, 0.0, -1.0)
        for positive, negative, upper in (
            ("instance_balanced", "iou_balanced", "value"),
            ("random", "iou_balanced", "max_all"),
            ("random", "random", "max_neg"),
        )
    ],
}
CASES = [(name, args) for name, cases in OP_ARGS.items() for args in cases]


@pytest.mark.parametrize("backend", MISSING)
def test_backend_is_among_the_tested_ones(backend):
    if MISSING[backend]:
        pytest.skip(MISSING[backend])
    assert backend in BACKENDS


@pytest.mark.parametrize(("name", "args"), CASES)
def test_opcheck(name, args):
    torch.library.opcheck(getattr(torch.ops.libra_d2, name).default, args)


@pytest.mark.parametrize("name", _library.SCHEMAS)
def test_schema_is_the_one_that_python_declares(name):
    assert str(getattr(torch.ops.libra_d2, name).default._schema) == f"libra_d2::{name}{_library.SCHEMAS[name]}"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_compile_fullgraph(op, dynamic):
    function, arguments = OPS[op]
    if op == "batched_iou" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("older compilers give up where the shape of a view depends on values")
    if op == "bucketed_sample":
        arguments = {**arguments, "seed": SEED}
    torch._dynamo.reset()
    # batched_iou returns one matrix an image, so its graph depends on the values of the offsets.
    with torch._dynamo.config.patch(capture_scalar_outputs=op == "batched_iou"):
        compiled = torch.compile(lambda: function(**arguments), fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for one, other in zip(compiled(), function(**arguments), strict=True):
            assert one.tolist() == other.tolist()


def test_compile_draws_the_seed_in_the_graph():
    torch._dynamo.reset()
    compiled = torch.compile(lambda: ops.bucketed_sample(**SAMPLE), fullgraph=True, backend="aot_eager")
    assert compiled()[0].shape == (2, 2)


OFFSETS = {"match_boxes": (2, 3), "batched_iou": (2, 3), "bucketed_sample": (3,)}


@pytest.mark.parametrize(
    ("name", "args", "offsets_on"),
    [
        (name, args, where)
        for name, args in CASES
        for where in ("cpu", "meta")
        if (name, where) != ("batched_iou", "meta")  # as many matrices as the offsets say
    ],
)
def test_reference_reads_nothing_of_a_device_on_the_host(name, args, offsets_on):
    """A meta tensor has no values: whatever reads one, or has an output whose size depends on values, raises."""
    args = [
        arg.to(offsets_on if place in OFFSETS[name] else "meta") if isinstance(arg, torch.Tensor) else arg
        for place, arg in enumerate(args)
    ]
    outputs = getattr(_reference, name)(*args)
    assert {output.device.type for output in (outputs if isinstance(outputs, tuple) else [outputs])} == {"meta"}


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_number_of_calls_does_not_grow_with_the_images(backend):
    calls = []
    for images in (1, 40):
        labels = torch.zeros(images * 5, dtype=torch.int8)
        with using(backend), Counter() as counter:
            ops.bucketed_sample(labels, labels.float(), labels.long(), torch.arange(images + 1) * 5, 3, 0.25, seed=SEED)
        calls.append(counter.calls)
    assert calls[0] == calls[1] > 0


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_status_tells_of_cuda_kernels_where_there_are_some():
    assert ("CPU and CUDA" in _core.status()) == ops.has_cuda()
    library = _core.PACKAGE / f"_core_cuda{(torch.version.cuda or 'none').split('.')[0]}.so"
    assert ops.has_cuda() == (library.exists() and ops.backend() == "native")


def test_backend_variable_chooses_the_reference():
    done = run_python("import libra_d2.ops as o; print(o.backend(), o.has_cuda())", LIBRA_D2_BACKEND="torch")
    assert done.stdout.split() == ["torch", "False"], done.stderr


def test_backend_variable_with_an_unknown_value():
    done = run_python("import libra_d2.ops", LIBRA_D2_BACKEND="cuda")
    assert "expected LIBRA_D2_BACKEND to be torch, native or unset, got 'cuda'" in done.stderr


def test_backend_is_logged_once():
    code = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
import torch
from libra_d2 import ops
for _ in range(2):
    ops.batched_iou(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(1).long(), torch.zeros(1).long())
"""
    done = run_python(code, LIBRA_D2_BACKEND="torch")
    assert done.stdout.splitlines() == ["INFO:libra_d2.ops:ops backend: torch (LIBRA_D2_BACKEND=torch)"], done.stderr


def test_ops_and_losses_need_torch_alone():
    code = """
import sys
import libra_d2.ops, libra_d2.losses
assert "detectron2" not in sys.modules and "fvcore" not in sys.modules, sorted(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
