"""The box and the segmentation of one annotation."""

import math
from collections.abc import Iterator

import numpy as np

from libra_d2.data.validate.fault import (
    Fault,
    are_numbers,
    error,
    is_number,
    is_numeric,
    name_annotation,
    shorten,
    warning,
)

# Rounding makes boxes reach over the edge by up to a pixel; training clips them all.
EDGE_TOLERANCE = 1.0

# Training drops boxes without area. COCO itself has two of them among 860,000: that few only deserve a warning.
_FEW = 0.001


def is_box(value) -> bool:
    """Whether it is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and are_numbers(value)


def is_polygons(value) -> bool:
    """Whether it is a list of lists of finite numbers."""
    return isinstance(value, list) and all(isinstance(p, list) and are_numbers(p) for p in value)


def size_of(image: dict | None) -> tuple[float, float] | None:
    """Width and height, or None where the json does not have them."""
    size = (image or {}).get("width"), (image or {}).get("height")
    return size if all(map(is_number, size)) else None


def box_faults(annotations: list[dict], image_of) -> Iterator[Fault]:
    """Faults of each box alone.

    Args:
        annotations: all of the file.
        image_of: gives the image of an annotation, or None.
    """
    flat = [is_box(box) and min(box[2:]) == 0 for box in (annotation.get("bbox") for annotation in annotations)]
    flat_fault = warning if sum(flat) < _FEW * len(annotations) else error
    for annotation, is_flat in zip(annotations, flat, strict=True):
        image = image_of(annotation)
        where, box = name_annotation(annotation, image), annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_numeric, box)):
            yield error(where, f"expected a bbox [x, y, width, height], got {shorten(box)}")
        elif not is_box(box):
            yield error(where, f"the bbox {shorten(box)} is not finite")
        elif is_flat or min(box[2:]) < 0:
            fault = flat_fault if is_flat else error
            yield fault(where, f"the bbox {box} (x, y, width, height) has no area; remove the annotation")
        elif size := size_of(image):
            yield from _edge_faults(box, *size, where)


def _edge_faults(box, width, height, where):
    x, y, w, h = box
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        yield error(where, f"the bbox {box} lies outside the image of {width} x {height} pixels")
    elif reach(x, y, w, h, width, height) > EDGE_TOLERANCE:
        yield warning(where, f"the bbox {box} reaches out of the image of {width} x {height} pixels, it is clipped")


def reach(x, y, w, h, width, height) -> float:
    """By how many pixels a box reaches out of its image; negative inside."""
    return -min(x, y, width - x - w, height - y - h)


def segmentation_faults(annotations: list[dict], image_of) -> Iterator[Fault]:
    """Faults of each segmentation alone; the arguments are those of :func:`box_faults`."""
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            continue
        image = image_of(annotation)
        where = name_annotation(annotation, image)
        if isinstance(segmentation, dict):
            yield from _run_length_faults(segmentation, image, where)
        else:
            yield from _polygon_faults(segmentation, where)


def _polygon_faults(segmentation, where):
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        what = "expected a list of polygons [[x, y, x, y, ...], ...] or a run-length mask"
        yield error(where, f"{what}, got {shorten(segmentation)}")
    elif not is_polygons(segmentation):
        numbers = all(is_numeric(v) for polygon in segmentation for v in polygon)
        found = "a polygon is not finite" if numbers else "expected polygons of numbers [[x, y, x, y, ...], ...], got"
        yield error(where, f"{found} {shorten(segmentation)}")
    elif not any(map(is_closed, segmentation)):
        yield error(where, "no polygon has three points, training would leave the object out")
    elif not all(map(is_closed, segmentation)):
        yield warning(where, "a polygon has less than three points, it is left out")


def is_closed(polygon: list) -> bool:
    """Whether Detectron2 keeps a polygon: pairs of coordinates, three at least."""
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _run_length_faults(segmentation, image, where):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(is_number(v) and v > 0 and v % 1 == 0 for v in size):
        yield error(where, f"expected a run-length mask with a size [height, width], got {shorten(size)}")
        return
    try:
        runs = _decoded(counts) if isinstance(counts, str) else _listed(counts)
    except ValueError as e:
        yield error(where, f"the run-length mask cannot be read ({e})")
        return
    expected = None if image is None else [image.get("height"), image.get("width")]
    if expected is not None and size != expected:
        yield error(where, f"the mask has the size {size}, the image {expected} (height, width)")
    if sum(runs) != math.prod(size):
        what = f"the runs of the mask have {sum(runs)} pixels together, its size {size} has {math.prod(size)}"
        yield error(where, f"{what}: encode it again")
    elif not sum(runs[1::2]):
        yield warning(where, "the mask is empty, training masks leaves the object out")


def _listed(counts) -> list[int]:
    if not isinstance(counts, list) or not all(is_number(run) and run >= 0 and run % 1 == 0 for run in counts):
        raise ValueError(f"expected counts as a list of integers or a text, got {shorten(counts)}")
    return [int(run) for run in counts]


def _decoded(text: str) -> list[int]:
    """The runs of COCO's compressed masks, as pycocotools reads them, which trusts their number and sum.

    Each character has five bits, low ones first, and one that says whether more follow; from the fourth run on it is
    the difference to the last but one that is written.
    """
    codes = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(f"expected compressed counts, got {shorten(text)}")
    last = np.flatnonzero(~codes & 32)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 10:
        raise ValueError(f"expected compressed counts, got {shorten(text)}")
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, length))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= (codes[last] >> 4 & 1) << (5 * length)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError(f"a run has {runs.min()} pixels")
    return runs.tolist()


def mask_faults(json_file: str, annotations: list[dict]) -> Iterator[Fault]:
    """What matters to Mask R-CNN alone."""
    objects = [annotation.get("segmentation") for annotation in annotations if not annotation.get("iscrowd")]
    masked = [segmentation for segmentation in objects if segmentation]
    if masked and len(masked) < len(objects):
        lacking = len(objects) - len(masked)
        yield warning(json_file, f"{lacking} annotations lack a segmentation, no masks can be trained")
    encoded = sum(isinstance(segmentation, dict) for segmentation in masked)
    if encoded:
        yield warning(json_file, f"{encoded} run-length masks: training masks needs INPUT.MASK_FORMAT bitmask")
