"""What is wrong with a COCO json and its images, found before training finds it."""

import collections
import concurrent.futures
import dataclasses
import json
import math
import os
from collections.abc import Iterator

import pycocotools.mask
from PIL import Image, ImageOps

# Rounding makes boxes reach over the edge by up to a pixel; training clips them all.
EDGE_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault. An error would crash training or teach the model something wrong, a warning would not."""

    severity: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}"


def find_faults(json_file: str, image_dir: str) -> Iterator[Fault]:
    """Yields every fault of a COCO json file and of the images that it names.

    Raises:
        OSError: the json cannot be read.
    """
    try:
        with open(json_file) as f:
            content = json.load(f)
    except ValueError as e:
        yield Fault("error", json_file, f"is no json file: {e}")
        return
    if not isinstance(content, dict):
        yield Fault(
            "error", json_file, f"expected an object with images, annotations and categories, got {_shorten(content)}"
        )
        return
    lists = {}
    for key in ("images", "annotations", "categories"):
        value = content.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            yield Fault("error", json_file, f'expected a list "{key}" of objects, got {_shorten(value)}')
            value = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        elif not value:
            severity = "warning" if key == "annotations" else "error"
            yield Fault(severity, json_file, f'the list "{key}" is empty')
        lists[key] = value

    category_ids = set()
    yield from _category_faults(lists["categories"], category_ids)
    images: dict = {}
    yield from _image_entry_faults(lists["images"], images)
    per_image = collections.defaultdict(list)
    yield from _annotation_faults(lists["annotations"], images, category_ids, per_image)
    for image_id, image in images.items():
        annotations = per_image[image_id]
        if not annotations:
            yield Fault("warning", _image(image), "no annotations")
        elif all(a.get("iscrowd") for a in annotations):
            yield Fault("warning", _image(image), "all of its annotations are crowds, which are not trained on")
        yield from _duplicates(image, annotations)
    yield from _mask_faults(json_file, lists["annotations"])
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for faults in pool.map(lambda image: _file_faults(image, image_dir), images.values()):
            yield from faults


def _category_faults(categories, ids):
    names = collections.Counter(str(c.get("name")) for c in categories)
    for category in categories:
        where = f"category {category.get('id')}"
        yield from _id_faults(category, ids, where, "category")
        if "name" not in category:
            yield Fault("error", where, "has no name")
        elif names[str(category["name"])] > 1:
            yield Fault("error", where, f"another category has the same name {category['name']!r}")


def _image_entry_faults(entries, images):
    files = collections.Counter(str(e.get("file_name")) for e in entries)
    ids = set()
    for entry in entries:
        where = _image(entry)
        yield from _id_faults(entry, ids, where, "image")
        images.setdefault(_hashable(entry.get("id")), entry)
        if not isinstance(entry.get("file_name"), str):
            yield Fault("error", where, f"expected a file_name, got {_shorten(entry.get('file_name'))}")
        elif files[entry["file_name"]] > 1:
            yield Fault("warning", where, "another image has the same file_name (duplicate)")
        for side in ("height", "width"):
            if not _is_number(entry.get(side)) or entry[side] <= 0 or entry[side] % 1:
                yield Fault("error", where, f"expected a positive integer {side}, got {_shorten(entry.get(side))}")


def _id_faults(item, ids, where, kind):
    """Also collects the ids."""
    found = item.get("id")
    # A text does as the id of an image or a category; COCO's evaluation computes with those of annotations.
    if not _is_number(found) and not (isinstance(found, str) and kind != "annotation"):
        yield Fault("error", where, f"expected an integer id, got {_shorten(found)}")
    elif found in ids:
        yield Fault("error", where, f"another {kind} has the same id")
    ids.add(_hashable(found))


def _annotation_faults(annotations, images, category_ids, per_image):
    ids = set()
    for annotation in annotations:
        image = images.get(_hashable(annotation.get("image_id")))
        where = f"{_image(image or {'id': annotation.get('image_id')})}, annotation {annotation.get('id')}"
        yield from _id_faults(annotation, ids, where, "annotation")
        if image is None:
            yield Fault("error", where, f"there is no image {_shorten(annotation.get('image_id'))}")
        else:
            per_image[_hashable(image.get("id"))].append(annotation)
        if _hashable(annotation.get("category_id")) not in category_ids:
            yield Fault("error", where, f"there is no category {_shorten(annotation.get('category_id'))}")
        if annotation.get("ignore"):
            yield Fault("error", where, 'Detectron2 refuses "ignore"; use "iscrowd": 1')
        yield from _box_faults(annotation.get("bbox"), image, where)
        yield from _segmentation_faults(annotation, image, where)


def _box_faults(box, image, where):
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        yield Fault("error", where, f"expected a bbox [x, y, width, height], got {_shorten(box)}")
        return
    if not all(math.isfinite(v) for v in box):
        yield Fault("error", where, f"the bbox {box} is not finite")
        return
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield Fault("error", where, f"the bbox {box} (x, y, width, height) has no area")
        return
    if image is None or not all(_is_number(image.get(side)) for side in ("width", "height")):
        return
    width, height = image["width"], image["height"]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        yield Fault("error", where, f"the bbox {box} lies outside the image of {width} x {height} pixels")
    elif min(x, y, width - x - w, height - y - h) < -EDGE_TOLERANCE:
        yield Fault(
            "warning", where, f"the bbox {box} reaches out of the image of {width} x {height} pixels, it is clipped"
        )


def _segmentation_faults(annotation, image, where):
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        try:
            compressed = pycocotools.mask.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
            pycocotools.mask.area(compressed)
        except Exception as e:  # pycocotools raises whatever its C code meets
            yield Fault("error", where, f"the run-length mask cannot be read ({e})")
            return
        if image is not None and list(size) != [image.get("height"), image.get("width")]:
            expected = [image.get("height"), image.get("width")]
            yield Fault("error", where, f"the mask has the size {size}, the image {expected} (height, width)")
        return
    polygons = segmentation if isinstance(segmentation, list) else [None]
    if not all(isinstance(polygon, list) and all(map(_is_number, polygon)) for polygon in polygons):
        yield Fault("error", where, f"expected a list of polygons or a run-length mask, got {_shorten(segmentation)}")
    elif not all(math.isfinite(v) for polygon in polygons for v in polygon):
        yield Fault("error", where, "a polygon is not finite")
    elif not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        yield Fault("error", where, "no polygon has three points, training would leave the object out")


def _mask_faults(json_file, annotations):
    """What matters to Mask R-CNN alone."""
    objects = [a.get("segmentation") for a in annotations if not a.get("iscrowd")]
    masked = [segmentation for segmentation in objects if segmentation]
    if masked and len(masked) < len(objects):
        yield Fault(
            "warning",
            json_file,
            f"{len(objects) - len(masked)} annotations lack a segmentation, no masks can be trained",
        )
    encoded = sum(isinstance(segmentation, dict) for segmentation in masked)
    if encoded:
        yield Fault("warning", json_file, f"{encoded} run-length masks: training masks needs INPUT.MASK_FORMAT bitmask")


def _duplicates(image, annotations):
    first = {}
    for annotation in annotations:
        key = _hashable((annotation.get("category_id"), str(annotation.get("bbox")), bool(annotation.get("iscrowd"))))
        if key in first:
            where = f"{_image(image)}, annotation {annotation.get('id')}"
            yield Fault("warning", where, f"same box and category as annotation {first[key]} (duplicate)")
        else:
            first[key] = annotation.get("id")


def _file_faults(image, image_dir) -> list[Fault]:
    if not isinstance(image.get("file_name"), str):
        return []
    path = os.path.join(image_dir, image["file_name"])
    if not os.path.isfile(path):
        return [Fault("error", _image(image), f"there is no file {path}")]
    try:
        with Image.open(path) as opened:
            mode = opened.mode
            opened.load()
            size = ImageOps.exif_transpose(opened).size
    except Exception as e:  # Pillow's decoders raise whatever a damaged file leads them to
        return [Fault("error", _image(image), f"cannot be read: {e}")]
    faults = []
    expected = (image.get("width"), image.get("height"))
    if size != expected:
        what = f"the file (turned as its EXIF says) has the size {size}, the json says {expected} (width, height)"
        faults.append(Fault("error", _image(image), what))
    if mode.startswith(("I", "F")):
        faults.append(Fault("warning", _image(image), f"pixels of mode {mode} are clipped to 8 bits when read"))
    return faults


def _image(image) -> str:
    name = image.get("file_name")
    return f"image {image.get('id')}" + (f" ({name})" if name else "")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hashable(value):
    return value if isinstance(value, int | float | str | tuple) else repr(value)


def _shorten(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
