"""The balanced pyramid under torch.compile: eager's values and gradients, in one graph for all image sizes."""

import copy
import os
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from libra_d2.modeling import BalancedFeaturePyramid
from tests.modeling.builders import Pyramid

LEVELS = ("p2", "p3", "p4", "p5")


class Given(Pyramid):
    """A pyramid that returns what it is given."""

    def forward(self, x):
        return x


def features_of(height, width):
    generator = torch.Generator().manual_seed(height)
    sizes = {name: (-(-height // 2 ** int(name[1:])), -(-width // 2 ** int(name[1:]))) for name in LEVELS}
    return {name: torch.randn(2, 4, *size, generator=generator, requires_grad=True) for name, size in sizes.items()}


def outputs_and_gradients(bfp, features):
    out = bfp(features)
    sum((level * level.detach().cos()).sum() for level in out.values()).backward()
    found = {f"gradient of {name}": level.grad for name, level in features.items()}
    found |= {name: parameter.grad for name, parameter in bfp.named_parameters() if parameter.grad is not None}
    bfp.zero_grad()
    return {**{name: level.detach() for name, level in out.items()}, **found}


def eager_and_compiled(backend, **options):
    """Returns (eager, compiled, counter of graphs)."""
    torch.manual_seed(0)
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    eager = BalancedFeaturePyramid(Given(dict.fromkeys(LEVELS)), **options)
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, dynamic=True, backend=counter)
    return eager, compiled, counter


def compiler_is_there():
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        # It takes a while, but it alone makes sizes fixed where it has code of its own for an op.
        pytest.param("inductor", marks=pytest.mark.skipif(not compiler_is_there(), reason="needs a C++ compiler")),
    ],
)
def test_it_computes_as_in_eager_mode_and_is_compiled_once_for_all_sizes(backend, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or processes outlive the test
    eager, compiled, counter = eager_and_compiled(backend, refine_type="conv")
    assert list(compiled.state_dict()) == list(eager.state_dict())
    # No two sides are alike in the first: torch takes those that are to be so for every size.
    for size in [(352, 416), (160, 288), (320, 256), (96, 96)]:
        expected = outputs_and_gradients(eager, features_of(*size))
        found = outputs_and_gradients(compiled, features_of(*size))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_sizes_that_are_no_multiples_and_evaluation_run_in_eager_mode():
    eager, compiled, counter = eager_and_compiled("aot_eager")
    for context, size in [(torch.enable_grad(), (340, 416)), (torch.no_grad(), (352, 416))]:
        with context:
            features = features_of(*size)
            for name, level in compiled(features).items():
                assert torch.equal(level, eager(features)[name])
    assert counter.frame_count == 0


def test_a_copy_computes_with_weights_of_its_own():
    _, compiled, _ = eager_and_compiled("eager", refine_type="none", init="identity")
    other = copy.deepcopy(compiled)
    torch.nn.init.ones_(other.gate)
    features = features_of(160, 288)
    assert torch.equal(compiled(features)["p2"], features["p2"])
    assert not torch.equal(other(features)["p2"], features["p2"])
