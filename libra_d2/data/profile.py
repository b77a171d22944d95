"""One page about a data set: what its objects are like, and which settings follow for a config."""

from __future__ import annotations

import collections
import statistics
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

from libra_d2 import ops

_MOST_IMAGES = 50  # whose anchors are matched
_SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)  # of the anchors, that are tried
_WORTH_IT = 0.03  # gain in mean IoU from which other anchors are advised


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` finds.

    Attributes:
        findings: topic and sentence.
        settings: ``KEY VALUE`` and the reason.
    """

    findings: list[tuple[str, str]]
    settings: list[tuple[str, str]]

    def __str__(self) -> str:
        lines = [f"{topic:<12}{text}" for topic, text in self.findings]
        if self.settings:
            lines += ["", "settings that follow:", *(f"  {setting}\n      {why}" for setting, why in self.settings)]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Image:
    """One image of the json.

    Attributes:
        height, width: in pixels.
        boxes: float32 [R, 4], XYXY in these pixels.
        classes: int64 [R].
        trained_size: height and width as it is trained, in the median of the sizes.
        trained_boxes: the boxes in those pixels.
    """

    height: int
    width: int
    boxes: Tensor
    classes: Tensor
    trained_size: tuple[int, int]
    trained_boxes: Tensor


def profile(content: dict, cfg) -> Profile:
    """Describes a COCO json that has no faults.

    Args:
        content: the json. Crowd regions do not count as objects.
        cfg: for its input sizes, anchors, NMS and schedule.
    """
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names, images = [category["name"] for category in categories], _read(content, categories, cfg)
    findings, settings = [], []
    for describe in (_images, _objects, _sizes, _crowding, _anchors, _schedule):
        if images:
            lines, advice = describe(images, names, cfg)
            findings += lines
            settings += advice
    return Profile(findings, settings)


def _read(content: dict, categories: list[dict], cfg) -> list[_Image]:
    place = {category["id"]: i for i, category in enumerate(categories)}
    shortest, longest = int(statistics.median(cfg.INPUT.MIN_SIZE_TRAIN)), cfg.INPUT.MAX_SIZE_TRAIN
    of_image = collections.defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            x, y, width, height = annotation["bbox"]
            of_image[annotation["image_id"]].append((x, y, x + width, y + height, place[annotation["category_id"]]))
    images = []
    for entry in content["images"]:
        rows = torch.tensor(of_image[entry["id"]], dtype=torch.float32).reshape(-1, 5)
        height, width = size = entry["height"], entry["width"]
        if shortest:
            size = ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        boxes, scale = rows[:, :4], torch.tensor([size[1] / width, size[0] / height] * 2)
        images.append(_Image(height, width, boxes, rows[:, 4].long(), size, boxes * scale))
    return images


def _images(images, names, cfg):
    sides = np.array([(image.width, image.height) for image in images])
    (width, height), smallest, largest = (np.median(sides, 0).astype(int), sides.min(0), sides.max(0))
    text = f"{len(images):,} of {width} x {height} px (median)"
    if (smallest != largest).any():
        text += f", widths {smallest[0]} to {largest[0]}, heights {smallest[1]} to {largest[1]}"
    scale = statistics.median(image.trained_size[0] / image.height for image in images)
    text += f"; trained at {scale:.2f} times their size"
    empty = sum(not len(image.boxes) for image in images)
    settings = []
    if empty:
        text += f"; {empty:,} without objects"
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            why = f"trains on the {empty:,} images without objects as well, which are left out otherwise"
            settings = [("DATALOADER.FILTER_EMPTY_ANNOTATIONS False", why)]
    return [("images", text)], settings


def _objects(images, names, cfg):
    counts = np.array([len(image.boxes) for image in images])
    median, many, most = np.median(counts), np.percentile(counts, 95), counts.max()
    by_class = torch.bincount(torch.cat([image.classes for image in images]), minlength=len(names)).tolist()
    ranked = sorted(zip(by_class, names, strict=True), reverse=True)
    total = max(sum(by_class), 1)
    shown = ", ".join(f"{name} {100 * count / total:.1f} %" for count, name in ranked[:6])
    if len(ranked) > 6:
        shown += f", ..., {ranked[-1][1]} {100 * ranked[-1][0] / total:.1f} %"
    lines = [
        ("objects", f"{sum(by_class):,}; an image has {median:.0f} (median), {many:.0f} (95 %), {most} (most)"),
        ("classes", f"{len(names)}: {shown}"),
    ]
    settings = []
    if most > cfg.TEST.DETECTIONS_PER_IMAGE:
        room = int(-(-1.2 * most // 100) * 100)
        why = f"an image has {most} objects, and no more than {cfg.TEST.DETECTIONS_PER_IMAGE} detections are kept"
        settings.append((f"TEST.DETECTIONS_PER_IMAGE {room}", why))
        if room > cfg.MODEL.RPN.POST_NMS_TOPK_TEST:
            settings.append((f"MODEL.RPN.POST_NMS_TOPK_TEST {2 * room}", "a detection begins as a proposal"))
    return lines, settings


def _sizes(images, names, cfg):
    boxes = torch.cat([image.trained_boxes for image in images]).double().numpy()
    original = torch.cat([image.boxes for image in images]).double().numpy()
    if not len(boxes):
        return [], []
    width, height = (boxes[:, 2:] - boxes[:, :2]).clip(min=1e-3).T
    low, median, high = np.percentile(np.sqrt(width * height), (5, 50, 95))
    area = (original[:, 2:] - original[:, :2]).prod(1)
    small, large = 100 * np.mean(area < 32**2), 100 * np.mean(area >= 96**2)
    shapes = "{:.2f} (median), {:.2f} to {:.2f}".format(*np.percentile(height / width, (50, 5, 95)))
    lines = [
        ("sizes", f"{median:.0f} px a side as trained (median), {low:.0f} to {high:.0f} px (5 to 95 %)"),
        ("", f"COCO's small, medium and large: {small:.0f}, {100 - small - large:.0f} and {large:.0f} %"),
        ("shapes", f"height by width {shapes} (5 to 95 %)"),
    ]
    return lines, []


def _crowding(images, names, cfg):
    limit, hidden, total = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, 0, 0
    for image in images:
        total += len(image.boxes)
        for number in image.classes.unique():
            these = image.boxes[image.classes == number]
            rows = torch.tensor([0, len(these)])
            (iou,) = ops.batched_iou(these, these, rows, rows)
            hidden += int((iou.triu(1) > limit).any(0).sum())
    if not total:
        return [], []
    share = 100 * hidden / total
    text = f"{share:.1f} % overlap another object of their class by an IoU above {limit:g}, where NMS keeps one"
    settings = []
    if share > 2:
        higher = f"MODEL.ROI_HEADS.NMS_THRESH_TEST {min(limit + 0.1, 0.9):.1f}"
        settings = [(higher, f"{share:.1f} % of the objects are closer to another one than {limit:g} lets pass")]
    return [("crowding", text)], settings


def _anchors(images, names, cfg):
    with_objects = [image for image in images if len(image.boxes)]
    chosen = with_objects[:: -(-len(with_objects) // _MOST_IMAGES) or 1]
    if not chosen:
        return [], []
    found = {}
    for scale in _SCALES:
        anchors = {size: _anchor_boxes(size, cfg, scale) for size in {image.trained_size for image in chosen}}
        found[scale] = torch.cat([_matched_iou(image.trained_boxes, anchors[image.trained_size]) for image in chosen])
        if scale == 1:
            each = [_matched_iou(anchors[image.trained_size], image.trained_boxes) for image in chosen]
            free = (torch.cat(each) == 0).double().mean()
    ious = found[1.0]
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    lines = [
        (
            "anchors",
            f"of {_range(sizes)} px: the best one of an object has an IoU of {ious.mean():.2f} in the mean, "
            f"{100 * (ious < 0.5).double().mean():.0f} % of the objects have none of 0.5",
        ),
        ("negatives", f"{100 * free:.1f} % of the anchors touch no object"),
    ]
    best = max(_SCALES, key=lambda scale: found[scale].mean())
    gain = found[best].mean() - ious.mean()
    if gain < _WORTH_IT:
        return lines, []
    advised = ", ".join("[" + ", ".join(f"{best * size:.3g}" for size in level) + "]" for level in sizes)
    why = (
        f"their best anchors then have an IoU of {found[best].mean():.2f} with the objects instead of {ious.mean():.2f}"
    )
    return lines, [(f'MODEL.ANCHOR_GENERATOR.SIZES "[{advised}]"', why)]


def _range(sizes: list[list[float]]) -> str:
    numbers = [size for level in sizes for size in level]
    return f"{min(numbers):g} to {max(numbers):g}"


def _levels(cfg) -> list[str]:
    is_retinanet = "RetinaNet" in cfg.MODEL.META_ARCHITECTURE
    return cfg.MODEL.RETINANET.IN_FEATURES if is_retinanet else cfg.MODEL.RPN.IN_FEATURES


def _anchor_boxes(size: tuple[int, int], cfg, scale: float) -> Tensor:
    """float32 [A, 4] of an image of this height and width; a level pN has the stride 2^N."""
    strides = [2 ** int(name[1:]) for name in _levels(cfg)]
    options = cfg.MODEL.ANCHOR_GENERATOR
    generator = DefaultAnchorGenerator(
        sizes=[[scale * size for size in level] for level in options.SIZES],
        aspect_ratios=options.ASPECT_RATIOS,
        strides=strides,
        offset=options.OFFSET,
    )
    grid = [torch.zeros(1, 1, *(-(-side // stride) for side in size)) for stride in strides]
    return torch.cat([boxes.tensor for boxes in generator(grid)])


def _matched_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """float32 [R]: the largest IoU of each box with the others."""
    rows = (torch.tensor([0, len(each)]) for each in (boxes, others))
    return ops.match_boxes(boxes, others, *rows, [0.5], [0, 1])[1]


def _schedule(images, names, cfg):
    passes = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / len(images)
    text = (
        f"{cfg.SOLVER.MAX_ITER:,} iterations of {cfg.SOLVER.IMS_PER_BATCH} images pass over the data {passes:.1f} times"
    )
    return [("schedule", text)], []
