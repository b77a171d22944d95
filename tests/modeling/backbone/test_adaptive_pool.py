"""Gathered pooling is torch's, and with it torch.export takes the balanced pyramid at all sizes."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from libra_d2.modeling import BalancedFeaturePyramid
from libra_d2.modeling.backbone.adaptive_pool import gathered_max_pool2d
from tests.modeling.backbone.test_bfp import Given

ANY = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


@pytest.mark.parametrize(("size", "pooled"), [((10, 13), (3, 5)), ((8, 8), (4, 4)), ((7, 5), (7, 1)), ((1, 9), (1, 2))])
def test_gathered_pooling_is_adaptive_pooling(size, pooled):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gathered_max_pool2d(x, pooled), F.adaptive_max_pool2d(x, pooled))


def features(height, width):
    """As FPN makes them: each level half of the one before, rounded up."""
    generator = torch.Generator().manual_seed(height)
    sizes = [[-(-side // 2**level) for side in (height, width)] for level in range(5)]
    return {f"p{level}": torch.randn(1, 4, *size, generator=generator) for level, size in enumerate(sizes, 2)}


def exported(bfp, example, **options):
    """The exported program, saved and loaded."""
    file = io.BytesIO()
    with torch.no_grad():
        torch.export.save(torch.export.export(bfp, (example,), strict=False, **options), file)
    file.seek(0)
    return torch.export.load(file)


def pyramid(**options):
    example = features(32, 48)
    return BalancedFeaturePyramid(Given({name: x.shape[2:] for name, x in example.items()}), **options).eval(), example


@pytest.mark.parametrize(
    "options",
    [
        *({"refine_level": level} for level in ("p2", "p4", "p6")),
        {"refine_type": "none"},
        {"refine_type": "conv", "init": "identity"},
        *({"attention": attention} for attention in ("scaled", "cosine")),
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_torch_export_takes_the_pyramid_at_all_sizes(options):
    bfp, example = pyramid(**options)
    if bfp.gate is not None:
        torch.nn.init.ones_(bfp.gate)
    program = exported(bfp, example, dynamic_shapes=({name: ANY for name in example},)).module()
    for other in (example, features(57, 83), features(200, 40)):
        with torch.no_grad():
            expected, found = bfp(other), program(other)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], level) for name, level in expected.items())


def test_an_export_for_one_size_keeps_torchs_operator():
    program = exported(*pyramid(refine_type="none"))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.adaptive_max_pool2d.default" in called
