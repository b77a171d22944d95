"""What no single box can tell: all of them together say that they are in other units, or of other images."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from libra_d2.data.validate.boxes import EDGE_TOLERANCE, is_box, is_closed, is_polygons, size_of
from libra_d2.data.validate.fault import Fault, error, is_number, name_annotation, warning

_UNITS = "COCO's bbox is [x, y, width, height] in pixels"


@dataclasses.dataclass
class _Boxes:
    """All boxes that have a size; what an annotation lacks is nan.

    Attributes:
        annotations: N of them.
        box: [N, 4], x, y, width and height as the json has them.
        size: [N, 2], width and height of the image.
        area: [N], the annotation's own.
        extent: [N, 4], x0, y0, x1, y1 around its polygons.
        masked: bool [N], whether it has a segmentation.
    """

    annotations: list[dict]
    box: np.ndarray
    size: np.ndarray
    area: np.ndarray
    extent: np.ndarray
    masked: np.ndarray


def statistics_faults(json_file: str, annotations: list[dict], image_of) -> Iterator[Fault]:
    """At most one error, the first cause that explains the numbers, and warnings where a few boxes deviate.

    Args:
        json_file: the name to report.
        annotations: all of the file.
        image_of: gives the image of an annotation, or None.
    """
    boxes = _collect(annotations, image_of)
    if not boxes.annotations:
        return
    for check in (_fractions, _corners, _fractional_polygons, _polygons, _areas, _reaching_out):
        for fault in check(boxes, json_file, image_of):
            yield fault
            if fault.severity == "error":
                return


def _collect(annotations, image_of) -> _Boxes:
    kept = [a for a in annotations if is_box(a.get("bbox")) and min(a["bbox"][2:]) > 0]
    unknown = (np.nan,)
    rows = [
        (
            *annotation["bbox"],
            *(size_of(image_of(annotation)) or unknown * 2),
            annotation["area"] if is_number(annotation.get("area")) else np.nan,
            *(_extent(annotation.get("segmentation")) or unknown * 4),
            bool(annotation.get("segmentation")),
        )
        for annotation in kept
    ]
    table = np.array(rows, dtype=float).reshape(-1, 12)
    columns = table[:, :4], table[:, 4:6], table[:, 6], table[:, 7:11], table[:, 11] > 0
    return _Boxes(kept, *columns)


def _extent(segmentation) -> tuple[float, float, float, float] | None:
    if not segmentation or not is_polygons(segmentation):
        return None
    polygons = [polygon for polygon in segmentation if is_closed(polygon)]
    if not polygons:
        return None
    xs, ys = ([values for polygon in polygons for values in polygon[first::2]] for first in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


def _fractions(boxes, json_file, image_of):
    x, y, w, h = boxes.box.T
    tiny = (w < 2) & (h < 2)
    inside_one = (x + w < 1.01) & (y + h < 1.01) & (np.minimum(x, y) > -0.01)
    if tiny.all() or np.mean((w < 1) & (h < 1)) > 0.5 or np.mean(inside_one) > 0.1:
        chosen = inside_one if inside_one.any() else tiny
        what = f"{_first(boxes, chosen, image_of)} smaller than a pixel, as fractions of the image are: {_UNITS}"
        yield error(json_file, f"{what}; multiply by the width and height of the image")
    percent = (boxes.size.min(axis=1) >= 200) & (x + w < 100.5) & (y + h < 100.5)
    if len(x) >= 10 and percent.all():
        what = "every bbox lies in the first 100 x 100 pixels of its image, as percentages do"
        yield warning(json_file, f"{what}: {_UNITS}")


def _corners(boxes, json_file, image_of):
    x, y, w, h = boxes.box.T
    width, height = boxes.size.T
    fit = (w > x) & (h > y) & ~(w > width + EDGE_TOLERANCE) & ~(h > height + EDGE_TOLERANCE)
    as_corners = np.stack([x, y, w, h], axis=1)
    by_polygons = fit & (_iou(_xyxy(boxes), boxes.extent) < 0.5) & (_iou(as_corners, boxes.extent) > 0.9)
    by_area = fit & (np.abs(boxes.area - w * h) > 0.2 * w * h) & _near(boxes.area, (w - x) * (h - y), 0.02)
    by_edge = fit & _out(boxes)
    found = by_polygons
    if by_area.sum() > 1 and by_area.mean() > 0.1:
        found = found | by_area
    if fit.all() and len(fit) > 2 and by_edge.mean() > 0.1:
        found = found | by_edge
    if found.any():
        what = f"{_first(boxes, found, image_of)} right only if read as the corners x1, y1, x2, y2: {_UNITS}"
        yield error(json_file, f"{what}; write x2 - x1 and y2 - y1")


def _fractional_polygons(boxes, json_file, image_of):
    found = (boxes.extent.max(axis=1) < 1.5) & (boxes.box[:, 2:].min(axis=1) > 4)
    if found.any():
        what = f"the polygons of {_first(boxes, found, image_of)} fractions of the image beside a bbox in pixels"
        yield error(json_file, f"{what}; multiply them by the width and height of the image")


def _how_bad(off, known):
    """An error where most of what is known disagrees, a warning where some does; one alone is carelessness."""
    if off.sum() > 0.5 * known.sum():
        return error
    return warning if off.sum() > 1 else None


def _polygons(boxes, json_file, image_of):
    known = ~np.isnan(boxes.extent[:, 0])
    off = known & (_iou(_xyxy(boxes), boxes.extent) < 0.5)
    if fault := _how_bad(off, known):
        what = f"{_first(boxes, off, image_of)} elsewhere than the polygons of the same annotation (IoU below 0.5)"
        yield fault(json_file, f"{what}; one of both is wrong")


def _areas(boxes, json_file, image_of):
    of_box = boxes.box[:, 2] * boxes.box[:, 3]
    known = ~np.isnan(boxes.area)
    # A mask may be thin, but no larger than its box; without a mask the area is that of the box.
    off = (boxes.area > 1.5 * of_box + 4) | (~boxes.masked & (boxes.area < of_box / 20))
    if fault := _how_bad(off, known):
        what = f"{_first(boxes, off, image_of)} far larger or smaller than the area of the same annotation"
        yield fault(json_file, f"{what}; remove area if the bbox is right: it is computed then")


def _reaching_out(boxes, json_file, image_of):
    out = _out(boxes)
    if out.mean() > 0.5:
        what = f"{_first(boxes, out, image_of)} not inside the image"
        yield error(json_file, f"{what}: boxes and images do not belong together, or {_UNITS}")


def _first(boxes, found, image_of) -> str:
    """E.g. "7 of 9 boxes, [1, 2, 3, 4] of image 1 (a.jpg), annotation 2 first, are"."""
    annotation = boxes.annotations[int(np.argmax(found))]
    where = name_annotation(annotation, image_of(annotation))
    return f"{found.sum()} of {len(found)} boxes, first {annotation['bbox']} of {where}, are"


def _xyxy(boxes) -> np.ndarray:
    return np.concatenate([boxes.box[:, :2], boxes.box[:, :2] + boxes.box[:, 2:]], axis=1)


def _out(boxes) -> np.ndarray:
    x, y, w, h = boxes.box.T
    width, height = boxes.size.T
    return np.minimum.reduce([x, y, width - x - w, height - y - h]) < -EDGE_TOLERANCE


def _near(value, expected, tolerance) -> np.ndarray:
    return np.abs(value - expected) <= tolerance * np.abs(expected)


def _iou(a, b) -> np.ndarray:
    """Of boxes [N, 4] XYXY, each grown by a pixel, so that lines have an area; nan where one is unknown."""
    grow = np.array([-1.0, -1.0, 1.0, 1.0])
    a, b = a + grow, b + grow
    overlap = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return overlap / (areas - overlap)
