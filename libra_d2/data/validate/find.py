"""All faults of a json file and its images, in the order in which their causes are best understood."""

from collections.abc import Iterator

from libra_d2.data.json_file import parse, read_bytes
from libra_d2.data.validate import boxes, files, structure
from libra_d2.data.validate.fault import Fault, error, hashable
from libra_d2.data.validate.statistics import statistics_faults

# Detectron2's own default of INPUT.MAX_SIZE_TRAIN and _TEST
DEFAULT_MAX_SIZE = 1333


def find_faults(json_file: str, image_dir: str) -> Iterator[Fault]:
    """Yields every fault of a COCO json file and of the images that it names.

    Raises:
        FileError: the json cannot be read.
    """
    content, faults = read_content(json_file)
    yield from faults or content_faults(content, json_file, image_dir)


def read_content(json_file: str) -> tuple[object, list[Fault]]:
    """What a json file says, or the fault that it is none.

    Raises:
        FileError: it cannot be read.
    """
    raw = read_bytes(json_file)
    try:
        return parse(raw), []
    except ValueError as e:
        return None, [error(json_file, f"is no json file: {e}")]


def content_faults(
    content: object, json_file: str, image_dir: str, *, decode: bool = True, max_size: int = DEFAULT_MAX_SIZE
) -> Iterator[Fault]:
    """:func:`find_faults` of a json that was read before.

    Args:
        content: what the json file says.
        json_file: its name.
        image_dir: the folder of its images; where it is a URL their files are not looked at.
        decode: read every pixel, not only the headers of the images, see :func:`file_faults`.
        max_size: the longer side of a resized image, ``INPUT.MAX_SIZE_TRAIN`` or ``_TEST``.
    """
    lists, faults = structure.read_lists(content, json_file)
    yield from faults
    if not lists:
        return
    annotations, categories = lists["annotations"], lists["categories"]
    images: dict = {}
    for entry in lists["images"]:
        images.setdefault(hashable(entry.get("id")), entry)

    def image_of(annotation):
        return images.get(hashable(annotation.get("image_id")))

    yield from structure.category_faults(categories, annotations)
    yield from structure.image_entry_faults(lists["images"])
    yield from statistics_faults(json_file, annotations, image_of)
    category_ids = {hashable(category.get("id")) for category in categories}
    yield from structure.annotation_faults(annotations, images, category_ids)
    yield from boxes.box_faults(annotations, image_of)
    yield from boxes.segmentation_faults(annotations, image_of)
    yield from boxes.mask_faults(json_file, annotations)
    yield from structure.occupancy_faults(images, structure.annotations_of_images(annotations, images))
    if "://" not in image_dir:
        yield from files.file_faults(list(images.values()), image_dir, decode, max_size)
