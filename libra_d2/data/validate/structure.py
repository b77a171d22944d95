"""The json itself: its lists, ids and references, and what an annotation says besides its box and mask."""

import collections
from collections.abc import Iterator

from libra_d2.data.validate.fault import (
    Fault,
    error,
    hashable,
    is_number,
    name_annotation,
    name_image,
    shorten,
    warning,
)


def read_lists(content: object, json_file: str) -> tuple[dict[str, list[dict]], list[Fault]]:
    """The lists of images, annotations and categories, without what is no object, and the faults of that."""
    if not isinstance(content, dict):
        expected = "expected an object with images, annotations and categories"
        return {}, [error(json_file, f"{expected}, got {shorten(content)}")]
    lists, faults = {}, []
    for key in ("images", "annotations", "categories"):
        value = content.get(key)
        if key == "annotations" and key not in content:
            faults.append(warning(json_file, 'there is no "annotations": nothing can be trained or evaluated on it'))
            value = []
        elif not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            faults.append(error(json_file, f'expected a list "{key}" of objects, got {shorten(value)}'))
            value = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        elif not value:
            severity = warning if key == "annotations" else error
            faults.append(severity(json_file, f'the list "{key}" is empty'))
        lists[key] = value
    return lists, faults


def category_faults(categories: list[dict], annotations: list[dict]) -> Iterator[Fault]:
    ids = set()
    names = collections.Counter(str(category.get("name")) for category in categories)
    for category in categories:
        where = f"category {category.get('id')}"
        yield from _id_faults(category, ids, where, "category")
        name = category.get("name")
        if "name" not in category:
            yield error(where, "has no name")
        elif not isinstance(name, str) and not is_number(name):
            yield error(where, f"expected a text as its name, got {shorten(name)}")
        elif names[str(name)] > 1:
            yield error(where, f"another category has the same name {name!r}")
    yield from _mixed_ids(categories, "categories")
    yield from _idle_roots(categories, annotations)


def _idle_roots(categories, annotations):
    """Roboflow puts a category above the others that no annotation has."""
    used = {hashable(annotation.get("category_id")) for annotation in annotations}
    for category in categories:
        below = [other for other in categories if other is not category and other.get("supercategory")]
        below = [other for other in below if other["supercategory"] == category.get("name")]
        is_root = category.get("supercategory") in (None, "", "none")
        if annotations and below and is_root and hashable(category.get("id")) not in used:
            yield warning(
                f"category {category.get('id')}",
                f"{category.get('name')!r} has no annotations, it only stands above others: the model gets a "
                "class that never occurs; remove it from the list of categories",
            )


def image_entry_faults(entries: list[dict]) -> Iterator[Fault]:
    files = collections.Counter(str(entry.get("file_name")) for entry in entries)
    ids = set()
    for entry in entries:
        where = name_image(entry)
        yield from _id_faults(entry, ids, where, "image")
        if not isinstance(entry.get("file_name"), str):
            yield error(where, f"expected a file_name, got {shorten(entry.get('file_name'))}")
        elif files[entry["file_name"]] > 1:
            yield warning(where, "another image has the same file_name (duplicate)")
        for side in ("height", "width"):
            if not is_number(entry.get(side)) or entry[side] <= 0 or entry[side] % 1:
                yield error(where, f"expected a positive integer {side}, got {shorten(entry.get(side))}")
    yield from _mixed_ids(entries, "images")


def annotation_faults(annotations: list[dict], images: dict, category_ids: set) -> Iterator[Fault]:
    """All but the box and the segmentation."""
    ids = set()
    image_twins, category_twins = ({str(known): known for known in group} for group in (images, category_ids))
    for annotation in annotations:
        image = images.get(hashable(annotation.get("image_id")))
        where = name_annotation(annotation, image)
        yield from _id_faults(annotation, ids, where, "annotation")
        if image is None:
            yield error(where, f"there is no image {_missing(annotation.get('image_id'), image_twins)}")
        if hashable(annotation.get("category_id")) not in category_ids:
            yield error(where, f"there is no category {_missing(annotation.get('category_id'), category_twins)}")
        if annotation.get("iscrowd", 0) not in (0, 1):
            yield error(
                where,
                f"iscrowd: expected 0 or 1, got {shorten(annotation['iscrowd'])}, so training would leave the object "
                "out; write 0 for a single object",
            )
        if annotation.get("ignore", 0) != 0:
            found = shorten(annotation["ignore"])
            yield error(where, f'Detectron2 refuses "ignore" (got {found}); use "iscrowd": 1, or remove the key')
        area = annotation.get("area", 0)
        if not is_number(area) or area < 0:
            yield error(
                where,
                f"area: expected a number of pixels, got {shorten(area)}; without the key it is computed",
            )
        keypoints = annotation.get("keypoints") or []
        if not isinstance(keypoints, list) or len(keypoints) % 3 or not all(map(is_number, keypoints)):
            yield error(where, f"keypoints: expected a list of x, y, visibility in turn, got {shorten(keypoints)}")


def annotations_of_images(annotations: list[dict], images: dict) -> dict[object, list[dict]]:
    """{image id: its annotations}; every image has an entry."""
    found = {image_id: [] for image_id in images}
    for annotation in annotations:
        found.get(hashable(annotation.get("image_id")), []).append(annotation)
    return found


def occupancy_faults(images: dict, per_image: dict[object, list[dict]]) -> Iterator[Fault]:
    """Images without objects, and objects that are there twice."""
    for image_id, image in images.items():
        annotations = per_image[image_id]
        if not annotations:
            yield warning(name_image(image), "no annotations")
        elif all(annotation.get("iscrowd") for annotation in annotations):
            yield warning(name_image(image), "all of its annotations are crowds, which are not trained on")
        first = {}
        for annotation in annotations:
            box, crowd = str(annotation.get("bbox")), bool(annotation.get("iscrowd"))
            key = hashable((hashable(annotation.get("category_id")), box, crowd))
            if key in first:
                where = name_annotation(annotation, image)
                yield warning(where, f"same box and category as annotation {first[key]} (duplicate)")
            else:
                first[key] = annotation.get("id")


def _id_faults(item, ids, where, kind):
    """Also collects the ids."""
    found = item.get("id")
    # A text does as the id of an image or a category; COCO's evaluation computes with those of annotations.
    if not is_number(found) and not (isinstance(found, str) and kind != "annotation"):
        yield error(where, f"expected an integer id, got {shorten(found)}")
    elif found in ids:
        yield error(where, f"another {kind} has the same id; number them through the whole file")
    ids.add(hashable(found))


def _mixed_ids(items, kind):
    numbers = [item["id"] for item in items if is_number(item.get("id"))]
    texts = [item["id"] for item in items if isinstance(item.get("id"), str)]
    if numbers and texts:
        what = f"some ids are numbers, others texts, e.g. {numbers[0]} and {texts[0]!r}: Detectron2 sorts by them"
        yield error(f'"{kind}"', f"{what}; write all as integers")


def _missing(found, twins: dict) -> str:
    """Names an id that is not known, and the one that was probably meant: of the same text, but another type."""
    twin = twins.get(str(found))
    return shorten(found) + ("" if twin is None else f", but there is {twin!r}: write all ids as integers")
