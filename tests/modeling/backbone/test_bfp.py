import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from torch.overrides import TorchFunctionMode

from libra_d2.modeling import BalancedFeaturePyramid
from tests.modeling.builders import Pyramid, small_cfg

SIZES = {"p2": (24, 36), "p3": (12, 18), "p4": (6, 9), "p5": (3, 5), "p6": (2, 3)}


def features_of(sizes=SIZES, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, channels, *size, generator=generator) for name, size in sizes.items()}


class Given(Pyramid):
    """A pyramid that returns what it is given."""

    def forward(self, x):
        return x


def non_local_oracle(refine, x, attention="unscaled"):
    """Section 3.2 and Wang et al., pixel by pixel, with the softmax written out."""
    root = x.shape[1] ** 0.5
    out = torch.zeros_like(x)
    for n in range(len(x)):
        pixels = x[n].flatten(1).T  # (HW, C)

        def embed(conv, pixels=pixels):
            return pixels @ conv.weight[:, :, 0, 0].T + conv.bias

        logits = embed(refine.theta) @ embed(refine.phi).T
        if attention == "scaled":
            logits = logits / root
        if attention == "cosine":
            lengths = embed(refine.theta).norm(dim=1)[:, None] * embed(refine.phi).norm(dim=1)
            logits = logits / lengths * root
        weights = torch.exp(logits)
        mixed = (weights / weights.sum(1, keepdim=True)) @ embed(refine.g)
        mixed = mixed @ refine.conv_out.weight[:, :, 0, 0].T + refine.conv_out.bias
        out[n] = x[n] + mixed.T.reshape(x[n].shape)
    return out


def bfp_oracle(features, refine_level, refine):
    names = list(features)
    at = names.index(refine_level)
    size = features[refine_level].shape[-2:]
    down, up = F.adaptive_max_pool2d, F.interpolate
    mean = torch.stack([(down if i < at else up)(features[n], size) for i, n in enumerate(names)]).mean(0)
    refined = refine(mean)
    return {n: features[n] + (up if i < at else down)(refined, features[n].shape[-2:]) for i, n in enumerate(names)}


def test_integration_of_constant_levels_adds_their_mean():
    features = {name: torch.full((1, 4, *size), float(i)) for i, (name, size) in enumerate(SIZES.items())}
    out = BalancedFeaturePyramid(Given(SIZES), refine_type="none")(features)
    for i, name in enumerate(SIZES):
        assert torch.equal(out[name], torch.full_like(features[name], i + 2.0))


@pytest.mark.parametrize("refine_level", ["p2", "p4", "p6"])
@pytest.mark.parametrize("refine_type", ["non_local", "conv", "none"])
def test_equals_the_oracle(refine_level, refine_type):
    bfp = BalancedFeaturePyramid(Given(SIZES), refine_level=refine_level, refine_type=refine_type)
    refine = {
        "non_local": lambda x: non_local_oracle(bfp.refine, x),
        "conv": lambda x: F.conv2d(x, bfp.refine.conv.weight, bfp.refine.conv.bias, padding=1).clamp(min=0),
        "none": lambda x: x,
    }[refine_type]
    expected, got = bfp_oracle(features_of(), refine_level, refine), bfp(features_of())
    assert list(got) == list(SIZES)
    for name in SIZES:
        torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize("attention", ["unscaled", "scaled", "cosine"])
def test_each_attention_equals_the_oracle(attention):
    refine = BalancedFeaturePyramid(Given(SIZES), attention=attention).refine
    x = features_of()["p4"]
    torch.testing.assert_close(refine(x), non_local_oracle(refine, x, attention))


def test_non_local_never_stores_the_pixel_by_pixel_matrix():
    class Ops(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.numel())
            return out

    bfp = BalancedFeaturePyramid(Given({"p4": (40, 50)}))
    with Ops() as ops:
        bfp(features_of({"p4": (40, 50)}))["p4"].sum().backward()
    assert ops.largest < 2 * (40 * 50) ** 2 / 8


def test_training_keeps_no_finer_level():
    """Autograd's own max pooling would: 66 MiB of an 800 x 1088 image."""
    bfp = BalancedFeaturePyramid(Given(SIZES))
    features = {name: level.requires_grad_() for name, level in features_of().items()}
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.untyped_storage().data_ptr()) or t, lambda t: t):
        out = bfp(features)
    assert kept.isdisjoint(features[name].untyped_storage().data_ptr() for name in ("p2", "p3"))
    sum(level.sum() for level in out.values()).backward()


@pytest.mark.parametrize("refine_level", ["p2", "p4", "p6"])
def test_training_has_autograds_gradients(refine_level):
    """Also where places of a cell share its maximum, and where cells overlap, as those of 37 columns do."""
    sizes = {**SIZES, "p2": (25, 37)}
    bfp = BalancedFeaturePyramid(Given(sizes), refine_level=refine_level)
    features = {name: level.round().requires_grad_() for name, level in features_of(sizes).items()}
    inputs = [*features.values(), *bfp.refine.parameters()]

    def gradients(training):
        loss = sum((level**3).sum() for level in bfp.train(training)(features).values())
        return torch.autograd.grad(loss, inputs)

    for got, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_level_keeps_its_type_whatever_the_refinement_has():
    """Under autocast a convolution gives bfloat16, and levels that end with group normalisation have float32."""
    bfp, features = BalancedFeaturePyramid(Given(SIZES), refine_type="conv"), features_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = bfp(features)
    assert {level.dtype for level in got.values()} == {torch.float32}
    for name, expected in bfp(features).items():
        torch.testing.assert_close(got[name], expected, rtol=0.02, atol=0.02)


class InterpolatesInFloat32(TorchFunctionMode):
    """CUDA's autocast, whose list of ops that give float32 has interpolation, which the CPU's lacks."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.interpolate and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return function(*args, **(kwargs or {}))


def test_levels_keep_their_type_under_autocast_of_a_gpu():
    """Detectron2's pooler takes the type of the finest level for that of all."""
    bfp, features = BalancedFeaturePyramid(Given(SIZES)), features_of()
    half = {name: level.bfloat16() for name, level in features.items()}
    for training in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16), InterpolatesInFloat32():
            got = bfp.train(training)(half)
        assert {level.dtype for level in got.values()} == {torch.bfloat16}


def test_non_local_stays_in_float32_under_autocast():
    # Logits of about 1e5 in float16 or bfloat16 lose every digit that tells neighbours apart.
    bfp = BalancedFeaturePyramid(Given({"p4": (4, 4)}, channels=8))
    features = {"p4": features_of({"p4": (4, 4)}, channels=8)["p4"] * 30}
    expected = bfp(features)["p4"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = bfp(features)["p4"]
    torch.testing.assert_close(got, expected)
    half = bfp({"p4": features["p4"].bfloat16()})["p4"]
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("refine_type", ["non_local", "conv", "none"])
@pytest.mark.parametrize("init", ["xavier", "identity"])
def test_gradients(refine_type, init):
    sizes = {"p3": (4, 6), "p4": (2, 3), "p5": (1, 2)}
    bfp = BalancedFeaturePyramid(Given(sizes, channels=2), refine_type=refine_type, init=init).double()
    if bfp.gate is not None:
        torch.nn.init.constant_(bfp.gate, 0.7)
    inputs = [f.double().requires_grad_() for f in features_of(sizes, channels=2).values()]
    parameters = [p for name, p in bfp.named_parameters() if not name.startswith("bottom_up")]

    def forward(*tensors):
        return tuple(bfp(dict(zip(sizes, tensors, strict=False))).values())

    assert torch.autograd.gradcheck(forward, (*inputs, *parameters))


def test_identity_changes_nothing_and_its_gate_learns():
    bfp = BalancedFeaturePyramid(Given(SIZES), init="identity")
    features = features_of()
    out = bfp(features)
    assert all(torch.equal(out[name], features[name]) for name in SIZES)
    sum(o.square().sum() for o in out.values()).backward()
    assert bfp.gate.grad != 0


def test_zero_init_leaves_integration_only():
    zero = BalancedFeaturePyramid(Given(SIZES), init="zero")(features_of())
    plain = BalancedFeaturePyramid(Given(SIZES), refine_type="none")(features_of())
    for name in SIZES:
        torch.testing.assert_close(zero[name], plain[name])


def test_passes_on_what_the_detector_asks_of_a_backbone():
    bottom_up = Pyramid(SIZES)
    bfp = BalancedFeaturePyramid(bottom_up)
    assert bfp.output_shape() == bottom_up.output_shape()
    assert bfp.size_divisibility == 48
    assert bfp.padding_constraints == {"square_size": 96}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"refine_level": "p7"}, r"REFINE_LEVEL.*'p2'.*got 'p7'"),
        ({"refine_type": "attention"}, r"REFINE_TYPE.*'non_local'.*got 'attention'"),
        ({"init": "normal"}, r"INIT.*'identity'.*got 'normal'"),
        ({"init": "zero", "refine_type": "conv"}, r"INIT.*never train"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        BalancedFeaturePyramid(Pyramid(SIZES), **kwargs)


def test_levels_of_different_width_are_refused():
    bottom_up = Pyramid(SIZES)
    bottom_up._out_feature_channels["p3"] = 8
    with pytest.raises(ValueError, match="same number of channels.*'p3': 8"):
        BalancedFeaturePyramid(bottom_up)


def fpn_and_bfp(*opts):
    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *opts)
    plain = build_backbone(cfg)
    cfg.MODEL.LIBRA.BFP.BOTTOM_UP, cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME, "build_bfp_backbone"
    return plain, build_backbone(cfg)


@pytest.mark.parametrize("refine_type", ["non_local", "none"])
def test_checkpoint_of_the_plain_backbone_loads(refine_type):
    plain, bfp = fpn_and_bfp("MODEL.LIBRA.BFP.INIT", "identity", "MODEL.LIBRA.BFP.REFINE_TYPE", refine_type)
    result = bfp.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key == "gate" or key.startswith("refine.") for key in result.missing_keys)
    for name, value in plain.state_dict().items():
        assert torch.equal(bfp.state_dict()[f"bottom_up.{name}"], value)
    assert bfp.gate == 0


def test_own_checkpoint_loads_strictly():
    _, bfp = fpn_and_bfp()
    _, other = fpn_and_bfp()
    other.load_state_dict(bfp.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(bfp.state_dict().values(), other.state_dict().values(), strict=True))


def test_other_shapes_are_skipped_and_reported(caplog):
    plain, bfp = fpn_and_bfp()
    state = plain.state_dict()
    state["fpn_output3.weight"] = torch.zeros(7, 16, 3, 3)
    with caplog.at_level("WARNING", logger="libra_d2"):
        result = bfp.load_state_dict(state, strict=False)
    assert "bottom_up.fpn_output3.weight" in result.missing_keys
    assert "Skip loading parameter 'fpn_output3.weight'" in caplog.text
    assert "(7, 16, 3, 3)" in caplog.text


@pytest.mark.parametrize("refine_type", ["non_local", "none"])
def test_gate_opens_for_a_checkpoint_that_was_trained_without_one(refine_type):
    _, without = fpn_and_bfp("MODEL.LIBRA.BFP.REFINE_TYPE", refine_type)
    _, gated = fpn_and_bfp("MODEL.LIBRA.BFP.REFINE_TYPE", refine_type, "MODEL.LIBRA.BFP.INIT", "identity")
    gated.load_state_dict(without.state_dict(), strict=True)
    assert gated.gate == 1


def test_gate_that_the_model_lacks_is_an_error():
    _, without = fpn_and_bfp()
    _, gated = fpn_and_bfp("MODEL.LIBRA.BFP.INIT", "identity")
    with pytest.raises(RuntimeError, match="'gate' is in the checkpoint.*MODEL.LIBRA.BFP.INIT to identity"):
        without.load_state_dict(gated.state_dict(), strict=False)


def test_bottom_up_has_to_be_named():
    with pytest.raises(
        ValueError, match="MODEL.LIBRA.BFP.BOTTOM_UP: expected one of .*build_resnet_fpn_backbone.*got ''"
    ):
        build_backbone(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.BACKBONE.NAME", "build_bfp_backbone"))
