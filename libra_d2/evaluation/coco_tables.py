"""COCO's figures overall, by class and by size of the object."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO

from libra_d2.evaluation.coco import evaluate

SIZES = ("all", "small", "medium", "large")


@dataclass
class Tables:
    """Percent; NaN where there is no such object.

    Attributes:
        overall: {AP, AP50, AP75, APs, APm, APl, AR}, AR with as many detections of an image as the run keeps.
        by_class: [(name, number of objects, {AP, AP50, AP75, APs, APm, APl, AR})].
        recall: float [101], 0..1.
        precision: {IoU: float [101], the mean of the classes}.
    """

    overall: dict[str, float]
    by_class: list[tuple[str, int, dict[str, float]]]
    recall: np.ndarray
    precision: dict[float, np.ndarray]


def coco_tables(truth: COCO, results: list[dict], task: str = "bbox", max_detections: int = 100) -> Tables:
    """Evaluates COCO's results.

    Args:
        results: not empty, as Detectron2's COCOEvaluator writes them.
        task: "bbox" or "segm".
        max_detections: as many of an image count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluate(truth, results, task, (1, 10, max_detections))
    precision, recall, params = evaluation.eval["precision"], evaluation.eval["recall"], evaluation.params
    counts = {category: 0 for category in params.catIds}
    for annotation in truth.dataset["annotations"]:
        counts[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    names = {category["id"]: category["name"] for category in truth.loadCats(params.catIds)}
    by_class = [
        (names[category], counts[category], _figures(precision[:, :, [k]], recall[:, [k]], params.iouThrs))
        for k, category in enumerate(params.catIds)
    ]
    curves = {}
    for iou in (0.5, 0.75):
        at = precision[np.isclose(params.iouThrs, iou)][0][:, :, 0, -1]
        curves[iou] = np.where(at > -1, at, np.nan)
    curves = {iou: _mean(at, axis=1) for iou, at in curves.items()}
    return Tables(_figures(precision, recall, params.iouThrs), by_class, params.recThrs, curves)


def _figures(precision: np.ndarray, recall: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """Of precision [T, R, K, A, M] and recall [T, K, A, M]."""
    at = {iou: np.isclose(thresholds, iou) for iou in (0.5, 0.75)}
    figures = {
        "AP": precision[..., 0, -1],
        "AP50": precision[at[0.5]][..., 0, -1],
        "AP75": precision[at[0.75]][..., 0, -1],
        **{f"AP{size[0]}": precision[..., i, -1] for i, size in enumerate(SIZES) if i},
        "AR": recall[..., 0, -1],
    }
    return {name: 100 * _mean(values[values > -1]) for name, values in figures.items()}


def _mean(values: np.ndarray, axis: int | None = None):
    """The mean of what is no NaN; NaN where nothing is left, without a warning."""
    if axis is None:
        return float(np.mean(values)) if values.size else float("nan")
    count = (~np.isnan(values)).sum(axis)
    return np.where(count, np.nansum(values, axis) / np.maximum(count, 1), np.nan)
