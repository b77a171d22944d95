"""Balanced L1 against its definition, its closed forms, and the shapes and numbers that break losses."""

import math

import pytest
import torch

from libra_d2.losses import balanced_l1_loss
from tests.oracles.balanced_l1 import mmdet_loss, paper_loss

ERRORS = [0.0, 0.001, 0.01, 0.05, 0.11, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0]
# alpha, gamma, beta: the paper's choice, its table 6, Libra RetinaNet's beta.
PARAMETERS = [(0.5, 1.5, 1.0), (0.2, 1.0, 1.0), (0.3, 1.0, 1.0), (0.5, 2.0, 1.0), (0.5, 1.5, 0.11), (0.5, 1.5, 3.0)]


def loss_of(errors, **options):
    pred = torch.tensor(errors, dtype=torch.float64)
    return balanced_l1_loss(pred, torch.zeros_like(pred), **options)


def slope_at(error, **options):
    pred = torch.tensor(error, dtype=torch.float64, requires_grad=True)
    balanced_l1_loss(pred, torch.zeros_like(pred), **options).backward()
    return pred.grad.item()


@pytest.mark.parametrize(("alpha", "gamma", "beta"), PARAMETERS)
def test_paper_variant_integrates_the_paper_gradient(alpha, gamma, beta):
    expected = [paper_loss(error, alpha, gamma, beta) for error in ERRORS]
    actual = loss_of([-error for error in ERRORS], alpha=alpha, gamma=gamma, beta=beta)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("alpha", "gamma", "beta"), PARAMETERS)
def test_mmdet_variant(alpha, gamma, beta):
    expected = [mmdet_loss(error, alpha, gamma, beta) for error in ERRORS]
    actual = loss_of(ERRORS, alpha=alpha, gamma=gamma, beta=beta, variant="mmdet")
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_known_values():
    # b = e^3 - 1 and L(1) = gamma + gamma / b - alpha, by hand; the rest was computed from the published formula.
    assert loss_of([1.0]).item() == pytest.approx(1.0785935, abs=1e-7)
    assert loss_of([0.1, 0.5, 2.0]).tolist() == pytest.approx([0.031353, 0.400568, 2.578594], abs=1e-6)
    paper = loss_of([0.05, 0.11, 1.0], beta=0.11)
    mmdet = loss_of([0.05, 0.11, 1.0], beta=0.11, variant="mmdet")
    assert paper.tolist() == pytest.approx([0.038280, 0.118645, 1.453645], abs=1e-6)
    assert mmdet.tolist() == pytest.approx([0.091197, 0.188594, 1.523594], abs=1e-6)


def test_variants_agree_for_beta_one_only():
    assert loss_of(ERRORS).tolist() == pytest.approx(loss_of(ERRORS, variant="mmdet").tolist(), abs=1e-12)
    assert loss_of([0.05], beta=0.11).item() < loss_of([0.05], beta=0.11, variant="mmdet").item() / 2


@pytest.mark.parametrize(("alpha", "gamma", "beta"), PARAMETERS)
def test_paper_variant_is_smooth_at_beta(alpha, gamma, beta):
    options = {"alpha": alpha, "gamma": gamma, "beta": beta}
    below, above = loss_of([beta * (1 - 1e-9), beta * (1 + 1e-9)], **options).tolist()
    assert above - below == pytest.approx(0, abs=1e-7)
    assert slope_at(beta * (1 - 1e-9), **options) == pytest.approx(gamma, rel=1e-6)
    assert slope_at(beta * (1 + 1e-9), **options) == pytest.approx(gamma, rel=1e-12)
    assert slope_at(1e-12, **options) == pytest.approx(0, abs=1e-7)


def test_mmdet_variant_boosts_small_errors_when_beta_is_small():
    # Libra RetinaNet as published: alpha * (1 / beta - 1) at 0, and a jump at beta.
    options = {"beta": 0.11, "variant": "mmdet"}
    assert slope_at(1e-12, **options) == pytest.approx(0.5 * (1 / 0.11 - 1), rel=1e-6)
    assert slope_at(0.11 * (1 - 1e-9), **options) == pytest.approx(1.7014, abs=1e-4)
    assert slope_at(0.12, **options) == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize("variant", ["paper", "mmdet"])
@pytest.mark.parametrize("beta", [1.0, 0.11])
def test_gradcheck(variant, beta):
    pred = torch.tensor([-3.0, -0.6, -0.04, 0.03, 0.2, 0.9, 1.4], dtype=torch.float64, requires_grad=True)
    target = torch.full_like(pred, 0.01, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, t: balanced_l1_loss(p, t, beta=beta, variant=variant), (pred, target))


@pytest.mark.parametrize("variant", ["paper", "mmdet"])
def test_huge_errors_have_finite_gradients(variant):
    pred = torch.tensor([3e38, -3e38, 1e20, 1e-40, 0.0, 1e-20], requires_grad=True)
    balanced_l1_loss(pred, torch.zeros(6), beta=0.11, variant=variant).sum().backward()
    assert pred.grad[:3].tolist() == [1.5, -1.5, 1.5]
    assert pred.grad.isfinite().all()
    steep = torch.tensor([0.5, 2.0], requires_grad=True)
    balanced_l1_loss(steep, torch.zeros(2), alpha=0.02, variant=variant).sum().backward()
    assert steep.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    pred, target = torch.tensor([0.3, 2.0, 1e-3]).to(dtype), torch.tensor([0.1, -1.0, 0.0]).to(dtype)
    loss = balanced_l1_loss(pred.requires_grad_(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, balanced_l1_loss(pred.float(), target.float()), rtol=0, atol=0)
    loss.sum().backward()
    assert pred.grad.dtype == dtype


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_empty_input_is_zero_with_a_gradient(reduction):
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = balanced_l1_loss(pred, torch.zeros(0, 4), reduction=reduction)
    assert loss.item() == 0
    loss.backward()
    assert pred.grad.shape == (0, 4)


def test_reductions():
    pred, target = torch.tensor([[0.5, 2.0], [0.0, -1.0]]), torch.zeros(2, 2)
    each = balanced_l1_loss(pred, target)
    assert each.shape == (2, 2)
    assert balanced_l1_loss(pred, target, reduction="sum").item() == pytest.approx(each.sum().item())
    assert balanced_l1_loss(pred, target, reduction="mean").item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "expected alpha to be positive and finite, got 0.0"),
        ({"gamma": -1.5}, "expected gamma to be positive and finite, got -1.5"),
        ({"beta": math.nan}, "expected beta to be positive and finite, got nan"),
        ({"alpha": math.inf}, "expected alpha to be positive and finite, got inf"),
        ({"alpha": 0.01}, "expected gamma / alpha of at most 80.0, got 150.0"),
        ({"variant": "mmdetection"}, "expected variant to be one of paper, mmdet, got 'mmdetection'"),
        ({"reduction": "avg"}, "expected reduction to be one of none, sum, mean, got 'avg'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match="balanced_l1_loss: ") as raised:
        balanced_l1_loss(torch.zeros(2), torch.zeros(2), **options)
    assert message in str(raised.value)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected target of the shape of pred, \[2, 4\], got \[4\]"):
        balanced_l1_loss(torch.zeros(2, 4), torch.zeros(4))
