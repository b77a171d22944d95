"""The image files that a json names."""

import concurrent.futures
import os
from collections.abc import Iterator

from PIL import Image

from libra_d2.data.image import beyond_8_bits, orientation
from libra_d2.data.validate.fault import Fault, error, is_number, name_image


def file_faults(images: list[dict], image_dir: str, decode: bool, max_size: int) -> Iterator[Fault]:
    """Faults of the files, several of which are read at once.

    Args:
        images: entries of the json.
        image_dir: where their file names start.
        decode: read every pixel; otherwise only the headers, and the pixels of files that seem to be truncated.
        max_size: the longer side after resizing, see ``INPUT.MAX_SIZE_TEST``; 0 for no limit.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for faults in pool.map(lambda image: _faults(image, image_dir, decode, max_size), images):
            yield from faults


def _faults(image, image_dir, decode, max_size) -> list[Fault]:
    where = name_image(image)
    if not isinstance(image.get("file_name"), str):
        return []
    path = os.path.join(image_dir, image["file_name"])
    if "\0" in path or not os.path.isfile(path):
        return [error(where, f"there is no file {path}{_near(image['file_name'], image_dir)}")]
    try:
        with Image.open(path) as opened:
            if decode or not _seems_whole(opened, path):
                opened.load()
            deep = beyond_8_bits(opened)
            raw, turn = opened.size, orientation(opened)
    except Exception as e:  # Pillow's decoders raise whatever a damaged file leads them to
        return [error(where, f"cannot be read: {e}")]
    faults = []
    size = raw[::-1] if turn in (5, 6, 7, 8) else raw
    expected = (image.get("width"), image.get("height"))
    if size != expected and all(map(is_number, expected)):
        remedy = ""
        if raw == expected:
            remedy = ", which is the size before the turn; write that after it, and boxes of the turned image"
        what = f"the file (turned as its EXIF says) has the size {size}, the json says {expected} (width, height)"
        faults.append(error(where, what + remedy))
    if max_size and min(raw) * max_size / max(raw) < 0.5:
        what = f"nothing of {raw[0]} x {raw[1]} pixels is left when the longer side becomes {max_size}"
        faults.append(error(where, f"{what} (INPUT.MAX_SIZE_TRAIN or _TEST); cut the image into pieces"))
    if deep:
        faults.append(error(where, deep))
    return faults


def _seems_whole(opened: Image.Image, path: str) -> bool:
    """Whether the end of a JPEG or PNG file has the mark that ends it."""
    mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(opened.format, b"")
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - 4096))
        return mark in f.read()


def _near(name: str, image_dir: str) -> str:
    """What the name should have been, where that is found."""
    slashes = name.replace("\\", "/")
    for other in (slashes, os.path.basename(slashes), slashes.partition("/")[2]):
        if other and other != name and "\0" not in other and os.path.isfile(os.path.join(image_dir, other)):
            return f", but there is {other}: file_name is relative to the folder of images, with / between folders"
    return "; write file_name with / between folders" if "\\" in name else ""
