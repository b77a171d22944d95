"""Runs MMDetection 3.3.0 itself and saves what it says: `python oracle.py NAME OUT.pth [IN.pth]`.

Runs in a process of its own with MMDetection, MMEngine and mmcv-lite on PYTHONPATH. mmcv's compiled operators are
torchvision's; modules that MMDetection imports without using them here are empty.
"""

import argparse
import functools
import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import torch
import torchvision

NOT_NEEDED = ("cv2", "scipy", "shapely", "mmcv.ops", "mmcv._ext")


class Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets MMDetection be imported without packages that the models below never call."""

    def find_spec(self, name, path, target=None):
        if any(name == n or name.startswith(n + ".") for n in NOT_NEEDED):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        def attribute(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return mock.NonCallableMagicMock(name=f"{spec.name}.{name}")

        module = types.ModuleType(spec.name)
        module.__getattr__ = attribute
        return module

    def exec_module(self, module):
        for function in (batched_nms, RoIAlign) if module.__name__.startswith("mmcv.ops") else ():
            setattr(module, function.__name__, function)


def batched_nms(boxes, scores, classes, nms_cfg, class_agnostic=False):
    """mmcv.ops.batched_nms, one class at a time."""
    assert nms_cfg["type"] == "nms"
    assert not class_agnostic
    keep = []
    for c in classes.unique():
        rows = torch.nonzero(classes == c).squeeze(1)
        keep.append(rows[torchvision.ops.nms(boxes[rows], scores[rows], nms_cfg["iou_threshold"])])
    keep = torch.cat(keep) if keep else torch.zeros(0, dtype=torch.int64)
    keep = keep[scores[keep].sort(descending=True, stable=True).indices][: nms_cfg.get("max_num", -1) % (1 << 62)]
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


class RoIAlign(torch.nn.Module):
    """mmcv.ops.RoIAlign with its defaults."""

    def __init__(self, output_size, spatial_scale, sampling_ratio):
        super().__init__()
        self.output_size = (output_size, output_size)
        self.align = functools.partial(
            torchvision.ops.roi_align,
            output_size=self.output_size,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=True,
        )

    def forward(self, features, rois):
        return self.align(features, rois.to(features.dtype))


sys.modules["detectron2"] = None  # MMDetection would import it to wrap it
sys.meta_path.insert(0, Placeholders())

import mmdet  # noqa: E402
from mmdet.models.losses import CrossEntropyLoss  # noqa: E402
from mmdet.models.losses.balanced_l1_loss import balanced_l1_loss  # noqa: E402
from mmdet.models.losses.pisa_loss import isr_p  # noqa: E402
from mmdet.models.losses.seesaw_loss import seesaw_ce_loss  # noqa: E402
from mmdet.models.necks import BFP  # noqa: E402
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner  # noqa: E402
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder  # noqa: E402
from mmdet.models.task_modules.samplers import (  # noqa: E402
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
    RandomSampler,
)
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.bbox import bbox_overlaps  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

register_all_modules(init_default_scope=True)
HEIGHT, WIDTH = 250, 310  # not multiples of 32: the padding takes part


def config_of(name):
    """MMDetection's own config, without the ImageNet weights."""
    folder = Path(mmdet.__file__).parent / ".mim" / "configs"
    config = Config.fromfile(folder / "libra_rcnn" / f"{name}.py")
    config.model.backbone.init_cfg = None
    return config


def build(name):
    return MODELS.build(config_of(name).model)


def photo(seed=0):
    """[3, H, W] uint8 RGB: smooth blobs and edges, so that features differ from place to place."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 10, generator=g)
    image = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)
    image = image[0] + 0.1 * torch.rand(3, HEIGHT, WIDTH, generator=g)
    return (image.clamp(0, 1) * 255).to(torch.uint8)


def sample():
    return DetDataSample(
        metainfo={
            "img_shape": (HEIGHT, WIDTH),
            "ori_shape": (HEIGHT, WIDTH),
            "scale_factor": (1.0, 1.0),
            "batch_input_shape": (256, 320),
            "pad_shape": (256, 320),
        }
    )


def randomize(model, image, gains):
    """Random weights under which features stay of order one and every parameter matters."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = 1.0  # the statistics of the one batch below
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    for module in model.neck.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data *= 0.5
    for name, (gain, bias) in gains.items():
        head = model.get_submodule(name)
        head.weight.data *= gain
        head.bias.data += bias
    with torch.no_grad():
        torch.nn.Module.train(model.backbone, True)
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()
        model.backbone(model.data_preprocessor(batch(image), False)["inputs"])
    return model.eval()


def batch(image):
    return {"inputs": [image.flip(0)], "data_samples": [sample()]}  # MMDetection reads BGR


def detect(model, image):
    """What the model says of the image in float64, where its features have the same digits on every processor."""
    state_dict = dict(model.state_dict())
    model.double()
    with torch.no_grad():
        data = model.data_preprocessor(batch(image), False)
        features = model.extract_feat(data["inputs"])
        found = model.predict(data["inputs"], data["data_samples"], rescale=False)[0].pred_instances
    return {
        "image": image,
        "state_dict": state_dict,
        "features": list(features),
        "boxes": found.bboxes,
        "scores": found.scores,
        "labels": found.labels,
    }


def train(model, image):
    """The losses on three objects, summed over levels, and the gradient that reaches the pyramid's refine.

    In float64: float32 rounds a few inputs of ReLUs to the other side of 0, others on each processor, and one of them
    in front of a matched anchor is seen in the gradient.
    """
    model.double()
    data = model.data_preprocessor(batch(image), False)
    gt = InstanceData(
        bboxes=torch.tensor([[20.0, 30, 120, 140], [180, 40, 290, 230], [60, 170, 130, 240]]),
        labels=torch.tensor([3, 0, 79]),
    )
    data["data_samples"][0].gt_instances = gt
    losses = model.loss(data["inputs"], data["data_samples"])
    losses = {name: sum(loss) if isinstance(loss, list) else loss for name, loss in losses.items() if "loss" in name}
    gradients = {}
    for name, loss in losses.items():
        (gradients[name],) = torch.autograd.grad(loss, model.neck[1].refine.g.conv.weight, retain_graph=True)
    return {
        "gt_boxes": gt.bboxes,
        "gt_classes": gt.labels,
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "gradients": gradients,
    }


def in_float32(module, inputs, outputs):
    """A forward hook for a head that returns one list of tensors for scores and one for boxes."""
    return tuple([tensor.float() for tensor in levels] for levels in outputs)


def faster_rcnn():
    """Detections, and losses where every box is sampled, so that chance has no part in them; and the proposals."""
    image = photo()
    gains = {
        "rpn_head.rpn_cls": (0.5, 0.0),
        "rpn_head.rpn_reg": (0.02, 0.0),
        "roi_head.bbox_head.fc_cls": (1.0, 0.0),
        "roi_head.bbox_head.fc_reg": (0.2, 0.0),
    }
    model = randomize(build("libra-faster-rcnn_r50_fpn_1x_coco"), image, gains)
    model.train_cfg.rpn_proposal.max_per_img = 100
    model.rpn_head.sampler.num = 10**6
    model.rpn_head.sampler.neg_pos_ub = -1
    model.roi_head.bbox_sampler.num = 10**6
    model.rpn_head.register_forward_hook(in_float32)  # proposals in the type of Detectron2's
    detections = detect(model, image)
    with mock.patch.object(model.roi_head, "loss", wraps=model.roi_head.loss) as loss:
        trained = train(model, image)
    (proposals,) = loss.call_args.args[1]
    return detections | trained | {"proposals": proposals.priors}


def retinanet():
    image = photo()
    gains = {"bbox_head.retina_cls": (0.5, -3.0), "bbox_head.retina_reg": (0.15, 0.0)}
    model = randomize(build("libra-retinanet_r50_fpn_1x_coco"), image, gains)
    return detect(model, image) | train(model, image)


def deploy(jobs):
    """Detections of given weights in a given config with given `--cfg-options`, read as MMDetection's tools do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction)
    found = []
    for job in jobs:
        config = config_of(job["config"])
        config.merge_from_dict(parser.parse_args(["--cfg-options", *job["options"]]).cfg_options)
        model = MODELS.build(config.model)
        model.load_state_dict(job["state_dict"])
        detections = detect(model.eval(), job["image"])
        found.append({name: detections[name] for name in ("boxes", "scores", "labels")})
    return found


def pyramids():
    """BFP on levels of odd sizes: {refine type: weights, outputs} and the inputs."""
    g = torch.Generator().manual_seed(0)
    sizes = [(50, 84), (25, 42), (13, 21), (7, 11), (4, 6)]
    found = {"inputs": [torch.randn(2, 8, *size, generator=g) for size in sizes]}
    for refine in ("none", "conv", "non_local"):
        torch.manual_seed(0)
        neck = BFP(8, 5, refine_level=2, refine_type=None if refine == "none" else refine)
        for parameter in neck.parameters():
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
        with torch.no_grad():
            found[refine] = {"weights": dict(neck.state_dict()), "outputs": list(neck(found["inputs"]))}
    return found


def names():
    """{"CONFIG.py REFINE": {name of a weight: shape}}"""
    found = {}
    backbones = {
        depth: config_of(f"libra-faster-rcnn_{depth}_fpn_1x_coco").model.backbone
        for depth in ("r50", "r101", "x101-64x4d")
    }
    for meta in ("faster-rcnn", "retinanet"):
        config = config_of(f"libra-{meta}_r50_fpn_1x_coco")
        for depth, backbone in backbones.items():
            for refine in ("non_local", "conv", "none"):
                config.model.backbone = backbone
                config.model.neck[1].refine_type = None if refine == "none" else refine
                with torch.device("meta"):
                    model = MODELS.build(config.model)
                shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
                found[f"libra-{meta}_{depth}_fpn_1x_coco.py {refine}"] = shapes
    return found


def candidates(labels, ious):
    """What their samplers see: `labels` 0 negative, g > 0 matched to ground truth g."""
    return AssignResult(int(labels.max()), labels, ious, labels=labels)


def skewed_ious(number, generator):
    """IoUs below 0.5, most of them small, as those of real proposals; the first half is 0."""
    ious = 0.5 * torch.rand(number, generator=generator) ** 3
    ious[: number // 2] = 0.0
    return ious


def draws_of_negatives():
    """Draws by one IoUBalancedNegSampler object, call after call, from 2,000 negatives and 5 ground truths (IoU 1)."""
    ious = torch.cat([skewed_ious(2000, torch.Generator().manual_seed(0)), torch.ones(5)])
    labels = torch.cat([torch.zeros(2000, dtype=torch.int64), torch.arange(1, 6)])
    found = {"ious": ious, "labels": labels}
    for num_bins in (2, 3, 5):
        torch.manual_seed(num_bins)
        sampler = IoUBalancedNegSampler(512, 0.25, floor_thr=-1, floor_fraction=0, num_bins=num_bins)
        draws = [sampler._sample_neg(candidates(labels, ious), 384).unique() for _ in range(30)]
        found[f"K={num_bins}"] = torch.stack(draws)
    return found


def draws_at_the_upper_edge():
    """100 draws of 3 from bins whose upper edge is the IoU of item 0; the top bin also has item 1."""
    ious = torch.cat([torch.tensor([0.45, 0.40]), 0.29 * torch.rand(500, generator=torch.Generator().manual_seed(0))])
    sampler = IoUBalancedNegSampler(4, 0.25, floor_thr=0, floor_fraction=0, num_bins=3)
    labels = torch.zeros(502, dtype=torch.int64)
    return {"ious": ious, "draws": torch.stack([sampler._sample_neg(candidates(labels, ious), 3) for _ in range(100)])}


def draws_of_positives():
    """Draws of 128 positives: of one ground truth with 200 boxes and four with one each, and of ten with 30 each."""
    found = {}
    for name, counts in {"dominant": [200, 1, 1, 1, 1], "even": [30] * 10}.items():
        labels = torch.arange(1, len(counts) + 1).repeat_interleave(torch.tensor(counts))
        sampler = InstanceBalancedPosSampler(512, 0.25)
        draws = [sampler._sample_pos(candidates(labels, torch.full((len(labels),), 0.7)), 128) for _ in range(20)]
        found[name] = {"labels": labels, "draws": [draw.unique() for draw in draws]}
    return found


def loss_curves():
    """Their balanced L1 loss and its slope at errors x."""
    found = {}
    for beta in (1.0, 0.11):
        x = torch.linspace(1e-9, 2, 401, dtype=torch.float64).requires_grad_()
        loss = balanced_l1_loss(x, torch.zeros_like(x), beta=beta, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), x)
        found[str(beta)] = {"x": x.detach(), "loss": loss.detach(), "slope": slope}
    return found


def initial_pyramid():
    """Standard deviations of the refine's weights after init_weights()."""
    found = {}
    for refine in ("non_local", "conv"):
        torch.manual_seed(0)
        neck = BFP(256, 5, refine_level=2, refine_type=refine)
        neck.init_weights()
        found[refine] = {name: tensor.std() for name, tensor in neck.state_dict().items() if name.endswith("weight")}
    return found


def prime_samples():
    """The weights of 40 positives of two images, of 5 objects and 3 classes, and of 24 boxes of the background."""
    generator = torch.Generator().manual_seed(0)
    coder = DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
    corner, size = 50 * torch.rand(64, 2, generator=generator), 10 + 20 * torch.rand(64, 2, generator=generator)
    boxes = torch.cat([corner, corner + size], 1)
    objects = [torch.randint(0, count, (20,), generator=generator) for count in (3, 2)]
    class_of = torch.tensor([0, 1, 0, 2, 1])
    classes = torch.cat([class_of[objects[0]], class_of[objects[1] + 3], torch.full((24,), 3)])
    deltas, targets = torch.randn(64, 12, generator=generator), torch.randn(64, 4, generator=generator)
    scores = torch.randn(64, 4, generator=generator)
    found = {"scores": scores, "classes": classes, "objects": torch.cat([objects[0], objects[1] + 3])}
    of_class = deltas.view(64, 3, 4)[torch.arange(40), classes[:40]]
    decoded = (coder.decode(boxes[:40], each) for each in (of_class, targets[:40]))
    found["ious"] = bbox_overlaps(*decoded, is_aligned=True)
    sampled = [types.SimpleNamespace(pos_assigned_gt_inds=each) for each in objects]
    for k, bias in ((2.0, 0.0), (1.0, 0.2)):
        bbox_targets = (classes, torch.ones(64), targets, torch.ones(64, 4))
        rois = torch.cat([torch.zeros(64, 1), boxes], 1)
        weighted = isr_p(scores, deltas, bbox_targets, rois, sampled, CrossEntropyLoss(), coder, k, bias, 3)
        found[f"{k} {bias}"] = weighted[1]
    return found


def seesaw():
    """Their Seesaw loss of object classes alone, which they keep apart from the background."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = 3 * torch.randn(50, 4, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    counts = torch.tensor([1000.0, 200.0, 30.0, 0.0])
    loss = seesaw_ce_loss(scores, labels, None, counts, 4, 0.8, 2.0, 0.01, reduction="none")
    return {"scores": scores, "classes": labels, "counts": counts, "loss": loss}


def lonely_ground_truth():
    """RetinaNet's assigner on a ground truth that overlaps no anchor, beside one that does."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    gt_boxes = torch.tensor([[0.0, 0, 10, 9], [100, 100, 110, 110]])
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    gts = InstanceData(bboxes=gt_boxes, labels=torch.tensor([0, 1]))
    return {"anchors": anchors, "gt": gt_boxes, "gt_inds": assigner.assign(InstanceData(priors=anchors), gts).gt_inds}


def divisor_of_the_rpn():
    """By what their RPN divides its losses: one image with 10 anchors on an object, one without any object."""
    sampler = RandomSampler(256, 0.5, neg_pos_ub=5, add_gt_as_proposals=False)
    found = {}
    for name, num_positive in {"objects": 10, "no object": 0}.items():
        labels = torch.cat([torch.ones(num_positive), torch.zeros(4000)]).long()
        gts = InstanceData(bboxes=torch.rand(min(num_positive, 1), 4), labels=torch.zeros(min(num_positive, 1)).long())
        priors = InstanceData(priors=torch.rand(len(labels), 4))
        result = sampler.sample(candidates(labels, labels.float()), priors, gts)
        found[name] = {"drawn": len(result.pos_inds) + len(result.neg_inds), "divisor": result.avg_factor}
    return found


class OneLayer(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, *inputs, mode):
        return {"loss": self.layer(torch.stack(inputs)).sum()}


def runner_checkpoint():
    """The bytes of what MMEngine's Runner saves after an epoch, with the weights of `OneLayer`."""
    import cv2
    import mmcv.ops

    cv2.setNumThreads = lambda number: None
    cv2.__version__ = "0"
    mmcv.ops.SyncBatchNorm = torch.nn.SyncBatchNorm
    with tempfile.TemporaryDirectory() as folder:
        loader = {
            "dataset": [torch.ones(2)] * 4,
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
        }
        warmup = {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 500}
        runner = Runner(
            model=OneLayer(),
            work_dir=folder,
            train_dataloader=loader,
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
            param_scheduler=[warmup, {"type": "MultiStepLR", "milestones": [1], "by_epoch": True}],
            train_cfg={"by_epoch": True, "max_epochs": 1},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        )
        runner.train()
        content = (Path(folder) / "epoch_1.pth").read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def facts():
    """All that needs no detector to be run, in one process."""
    functions = (
        draws_of_negatives,
        draws_at_the_upper_edge,
        draws_of_positives,
        loss_curves,
        initial_pyramid,
        prime_samples,
        seesaw,
        lonely_ground_truth,
        divisor_of_the_rpn,
        pyramids,
        recipes,
        names,
        runner_checkpoint,
    )
    return {function.__name__: function() for function in functions}


def recipes():
    """MMDetection's own configs of Libra Faster R-CNN and Libra RetinaNet, as plain dicts and lists."""

    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    keys = ("model", "optim_wrapper", "param_scheduler", "train_cfg", "train_dataloader")
    configs = {
        name: config_of(f"libra-{name.replace('_', '-')}_r50_fpn_1x_coco") for name in ("faster_rcnn", "retinanet")
    }
    return {name: {key: plain(config.to_dict()[key]) for key in keys} for name, config in configs.items()}


if __name__ == "__main__":
    name, target, *source = sys.argv[1:]
    torch.save(globals()[name](*(torch.load(file, weights_only=True) for file in source)), target)
