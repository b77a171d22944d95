"""The losses of the RoI classifier: what each of them changes in a trained model."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from libra_d2.checks import UserError
from libra_d2.losses.class_losses import KEY, build_class_loss, focal_cross_entropy, seesaw
from tests.modeling.builders import batch, small_cfg

CONFIG = "libra_faster_rcnn_R_50_FPN_1x.yaml"


def scores_and_classes(rows=40, num_classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(rows, num_classes + 1, generator=generator)
    return scores.requires_grad_(), torch.randint(0, num_classes + 1, (rows,), generator=generator)


def losses_of(*opts, config=CONFIG):
    torch.manual_seed(0)
    model = build_model(small_cfg(config, *opts)).train()
    torch.manual_seed(0)
    with EventStorage():
        return model, model(batch())


def test_plain_cross_entropy_is_left_to_detectron2():
    assert build_class_loss(small_cfg(CONFIG)) is None


@pytest.mark.parametrize(
    "opts",
    [
        (f"{KEY}.WEIGHTS", [1.0] * 6),
        (f"{KEY}.NAME", "focal", f"{KEY}.FOCAL_GAMMA", 0.0),
        (f"{KEY}.NAME", "seesaw", f"{KEY}.SEESAW_P", 0.0, f"{KEY}.SEESAW_Q", 0.0),
        ("MODEL.LIBRA.PISA.ENABLED", True, "MODEL.LIBRA.PISA.GAMMA", 0.0),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, "libra_cascade_rcnn_R_50_FPN_1x.yaml"])
def test_what_changes_nothing_trains_as_detectron2s_own_loss(opts, config):
    (_, ours), (_, theirs) = losses_of(*opts, config=config), losses_of(config=config)
    assert ours.keys() == theirs.keys()
    for name, loss in theirs.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "opts",
    [
        (f"{KEY}.WEIGHTS", [3.0] * 5),
        (f"{KEY}.NAME", "focal"),
        (f"{KEY}.NAME", "seesaw"),
        ("MODEL.LIBRA.PISA.ENABLED", True),
    ],
)
def test_every_loss_trains_the_classifier_alone_differently(opts):
    (model, ours), (_, theirs) = losses_of(*opts), losses_of()
    for name, loss in theirs.items():
        is_changed = name == "loss_cls" and "MODEL.LIBRA.PISA.ENABLED" not in opts  # whose sum stays
        assert torch.allclose(ours[name], loss, rtol=1e-5) != is_changed
    ours["loss_cls"].backward()
    assert model.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0


def test_prime_samples_turn_the_gradient():
    gradients = []
    for opts in ((), ("MODEL.LIBRA.PISA.ENABLED", True)):
        model, losses = losses_of(*opts)
        losses["loss_cls"].backward()
        gradients.append(model.roi_heads.box_predictor.cls_score.weight.grad)
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_class_weights_are_by_class_and_1_for_background_unless_given():
    scores, classes = scores_and_classes()
    plain = F.cross_entropy(scores, classes, reduction="none")
    for weights in ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0, 0.5]):
        loss = build_class_loss(small_cfg(CONFIG, f"{KEY}.WEIGHTS", weights))
        torch.testing.assert_close(loss(scores, classes), plain * torch.tensor([*weights, 1.0])[classes])
        assert not loss.state_dict()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_its_formula_and_safe_where_all_is_right(gamma):
    scores, classes = scores_and_classes()
    right = scores.softmax(1).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(focal_cross_entropy(scores, classes, gamma), -((1 - right) ** gamma) * right.log())
    certain = F.one_hot(classes, 6).float().mul(200).requires_grad_()
    loss = focal_cross_entropy(certain, classes, gamma).sum()
    loss.backward()
    assert loss == 0
    assert certain.grad.isfinite().all()


def test_seesaw_spares_rare_classes_and_leaves_the_background_alone():
    loss = seesaw(small_cfg(CONFIG, f"{KEY}.SEESAW_Q", 0.0))
    frequent = torch.full((100,), 0)
    loss(torch.zeros(100, 6), frequent)
    assert loss.counts.tolist() == [100, 0, 0, 0, 0]
    scores = torch.zeros(2, 6, requires_grad=True)
    loss.eval()(scores, torch.tensor([0, 5])).sum().backward()
    of_frequent, of_background = scores.grad
    assert of_frequent[1] < 0.1 * of_frequent[5]  # a rare class, beside the background
    torch.testing.assert_close(of_background[:5], torch.full((5,), 1 / 6))
    assert loss.counts[5 - 1] == 0  # nothing is counted outside training


def test_seesaw_counts_what_is_trained_on_and_remembers_it():
    model, _ = losses_of(f"{KEY}.NAME", "seesaw")
    counts = model.state_dict()["roi_heads.box_predictor.class_loss.counts"]
    assert counts.shape == (5,)
    assert 0 < counts.sum() < 64


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            (f"{KEY}.NAME", "focl"),
            r"CLASS_LOSS.NAME: expected one of \['cross_entropy', 'focal', 'seesaw'\], got 'focl'",
        ),
        (
            (f"{KEY}.WEIGHTS", [1.0, 2.0]),
            "WEIGHTS: expected 5 numbers .* or one more for the background, got .1.0, 2.0.",
        ),
        ((f"{KEY}.WEIGHTS", [1.0, 1, 1, 1, -1]), "WEIGHTS: expected 5 numbers of at least 0"),
        ((f"{KEY}.NAME", "focal", f"{KEY}.FOCAL_GAMMA", -1.0), "FOCAL_GAMMA: expected a finite number of at least 0"),
        ((f"{KEY}.NAME", "focal", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True), "USE_SIGMOID_CE is True"),
        (("MODEL.LIBRA.PISA.ENABLED", True, "MODEL.LIBRA.PISA.BETA", 2.0), "PISA.BETA: expected a number from 0 to 1"),
        (
            ("MODEL.LIBRA.PISA.ENABLED", True, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            "PISA.ENABLED: expected False, got True: StandardROIHeads has Detectron2's own loss: set .* LibraROIHeads",
        ),
        (
            (f"{KEY}.NAME", "focal", "MODEL.META_ARCHITECTURE", "LibraRetinaNet"),
            "CLASS_LOSS.NAME: expected 'cross_entropy', got 'focal': RetinaNet has no RoI heads",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_model_is_built(opts, message):
    with pytest.raises(UserError, match=message):
        build_model(small_cfg(CONFIG, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1", *opts))
