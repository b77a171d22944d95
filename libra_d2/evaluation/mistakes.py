"""What is wrong with detections: their kind of mistake, what they are taken for, what they miss."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

IOU = 0.5  # from which a detection has found an object
NEAR = 0.1  # from which it was at least near one
KINDS = ("correct", "localisation", "class", "duplicate", "background")


@dataclass
class Image:
    """The detections on an image, those with the highest score first, and its objects.

    Attributes:
        scores: float [D].
        kinds: D of ``KINDS``; "" for what lies on a crowd, which counts as nothing.
        detected, truth: the boxes, float [D, 4] and [G, 4], XYWH pixels.
        labels, true_labels: category ids, int [D] and [G].
        match: the object of its class that a detection has found; -1: none. int [D].
        ious: float [D, G].
    """

    image_id: int
    scores: np.ndarray
    kinds: list[str]
    detected: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    true_labels: np.ndarray
    match: np.ndarray
    ious: np.ndarray


@dataclass
class Mistakes:
    """Counts over a data set at a score.

    Attributes:
        threshold: detections with a lower score are left out.
        kinds: {kind: number of detections}.
        missed: objects that no detection of their class has found.
        confusion: int [K + 1, K + 1]: objects of a class (row) that were found as a class (column); the last row has
            detections that found none, the last column objects that were not found.
        worst: [(image_id, number of wrong detections and missed objects)], the worst first.
    """

    threshold: float
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    missed: int = 0
    confusion: np.ndarray | None = None
    worst: list[tuple[int, int]] = field(default_factory=list)


def judge(truth: COCO, results: list[dict]) -> list[Image]:
    """Judges all detections, one image at a time: the higher score chooses first.

    A detection is correct that has ``IOU`` or more with an object of its class that is left; a duplicate if only found
    ones have that; of the wrong "class" if an object of another has; badly localised from ``NEAR`` on with an object of
    its class; "background" otherwise.
    """
    by_image = collections.defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [_judge_image(truth, image_id, by_image[image_id]) for image_id in sorted(truth.getImgIds())]


def _judge_image(truth: COCO, image_id: int, results: list[dict]) -> Image:
    results = sorted(results, key=lambda result: -result["score"])
    annotations = truth.loadAnns(truth.getAnnIds(imgIds=[image_id]))
    objects = [a for a in annotations if not a.get("iscrowd", 0)]
    crowds = [a for a in annotations if a.get("iscrowd", 0)]
    detected, boxes = _boxes(results), _boxes(objects)
    labels, true_labels = _labels(results), _labels(objects)
    ious = _ious(detected, boxes, crowd=False)
    on_crowd = (_ious(detected, _boxes(crowds), crowd=True) >= IOU).any(1)

    kinds, match, found = [], np.full(len(results), -1), np.zeros(len(objects), bool)
    for d in range(len(results)):
        same = true_labels == labels[d]
        free = ious[d] * (same & ~found)
        if len(objects) and free.max() >= IOU:
            match[d] = free.argmax()
            found[match[d]] = True
            kinds.append("correct")
        elif on_crowd[d]:
            kinds.append("")
        elif (ious[d] * same >= IOU).any():
            kinds.append("duplicate")
        elif (ious[d] >= IOU).any():
            kinds.append("class")
        else:
            kinds.append("localisation" if (ious[d] * same >= NEAR).any() else "background")
    scores = np.array([result["score"] for result in results], float)
    return Image(image_id, scores, kinds, detected, labels, boxes, true_labels, match, ious)


def best_threshold(images: list[Image]) -> float:
    """The score from which detections have the highest F1; 0 where none is correct."""
    scores = np.concatenate([image.scores for image in images] or [np.zeros(0)])
    kinds = np.array([kind for image in images for kind in image.kinds], dtype=object)
    order = np.argsort(-scores, kind="stable")
    order = order[kinds[order] != ""] if len(order) else order
    correct = np.cumsum(kinds[order] == "correct") if len(order) else np.zeros(0)
    if not len(correct) or not correct[-1]:
        return 0.0
    f1 = 2 * correct / (np.arange(1, len(order) + 1) + sum(len(image.truth) for image in images))
    return float(scores[order][f1.argmax()])


def count(images: list[Image], categories: list[int], threshold: float) -> Mistakes:
    """Counts what there is from a score on.

    Args:
        categories: ids, in the order of the confusion matrix.
    """
    place = {category: k for k, category in enumerate(categories)}
    nothing = len(categories)
    total = Mistakes(threshold, confusion=np.zeros((nothing + 1, nothing + 1), int))
    for image in images:
        kept = [d for d in range(len(image.scores)) if image.scores[d] >= threshold and image.kinds[d]]
        match = {d: int(image.match[d]) for d in kept}
        free = set(range(len(image.truth))) - set(match.values())
        total.missed += len(free)
        total.worst.append((image.image_id, sum(match[d] < 0 for d in kept) + len(free)))
        for d in (d for d in kept if image.kinds[d] == "class"):  # the higher score chooses first
            best = max(free, key=lambda g, d=d: image.ious[d, g], default=-1)
            if best >= 0 and image.ious[d, best] >= IOU:
                match[d] = best
                free.remove(best)
        for d in kept:
            total.kinds[image.kinds[d]] += 1
            row = place[image.true_labels[match[d]]] if match[d] >= 0 else nothing
            total.confusion[row, place[image.labels[d]]] += 1
        for g in free:
            total.confusion[place[image.true_labels[g]], nothing] += 1
    total.worst.sort(key=lambda of_image: (-of_image[1], of_image[0]))
    return total


def _boxes(annotations: list[dict]) -> np.ndarray:
    return np.array([a["bbox"] for a in annotations], float).reshape(-1, 4)


def _labels(annotations: list[dict]) -> np.ndarray:
    return np.array([a["category_id"] for a in annotations], int)


def _ious(detected: np.ndarray, boxes: np.ndarray, crowd: bool) -> np.ndarray:
    if not len(detected) or not len(boxes):
        return np.zeros((len(detected), len(boxes)))
    return np.asarray(mask_util.iou(detected, boxes, [crowd] * len(boxes)))
