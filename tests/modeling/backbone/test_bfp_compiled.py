"""The balanced pyramid under torch.compile: eager's values and gradients, in one graph for all image sizes."""

import copy

import pytest
import torch

from libra_d2.modeling import BalancedFeaturePyramid
from tests.modeling.builders import Pyramid

LEVELS = ("p3", "p4", "p5", "p6")


class Padded(Pyramid):
    """A pyramid that returns what it is given, of images padded to multiples of 32, as FPN has them."""

    size_divisibility = 32

    def forward(self, x):
        return x


def features_of(height, width):
    """Those of p6 are rounded up where the image is an odd multiple of 32."""
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


# Inductor compiles with g++, for most of a minute; AOTAutograd, the step before it, is where graphs break and sizes
# become fixed.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.compiler)])
def test_it_computes_as_in_eager_mode_and_is_compiled_once_for_all_sizes(backend):
    torch.manual_seed(0)
    eager = BalancedFeaturePyramid(Padded(dict.fromkeys(LEVELS)), init="identity")
    torch.nn.init.ones_(eager.gate)
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, dynamic=True, backend=backend)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    # No two sides are alike: torch takes those that are to be so for every size, and compiles again where they are not.
    outputs_and_gradients(compiled, features_of(352, 416))
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in [(352, 416), (160, 288), (320, 256)]:
            expected = outputs_and_gradients(eager, features_of(*size))
            found = outputs_and_gradients(compiled, features_of(*size))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_copy_computes_with_weights_of_its_own():
    bfp = BalancedFeaturePyramid(Padded(dict.fromkeys(LEVELS)), refine_type="none", init="identity")
    bfp.compile(fullgraph=True, dynamic=True, backend="eager")
    other = copy.deepcopy(bfp)
    torch.nn.init.ones_(other.gate)
    features = features_of(160, 288)
    assert torch.equal(bfp(features)["p4"], features["p4"])
    assert not torch.equal(other(features)["p4"], features["p4"])
