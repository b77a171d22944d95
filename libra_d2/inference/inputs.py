"""What there is to predict on: images, folders, patterns, videos and the images of COCO json files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from libra_d2.checks import FileError, UserError
from libra_d2.data.image import read_8_bits
from libra_d2.data.json_file import read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image; ``image_id`` is that of a COCO json, if one names it."""

    path: str
    image_id: int | str | None = field(default=None, compare=False)

    def read(self) -> np.ndarray:
        """uint8 [H, W, 3], BGR; raises whatever a damaged file leads its decoder to."""
        return read_8_bits(self.path)


@dataclass(frozen=True, order=True)
class Video:
    """A video; its frames are numbered from 0."""

    path: str

    def num_frames(self) -> int:
        """As its header has it, which some formats say about; 0 where it cannot be read."""
        return max(0, int(cv2.VideoCapture(self.path).get(cv2.CAP_PROP_FRAME_COUNT)))


class VideoReader:
    """Reads a video from its start.

    Attributes:
        rate: frames a second.
        fault: after reading, what is wrong with the video; empty where it is whole.

    Raises:
        ValueError: OpenCV cannot open it.
    """

    def __init__(self, video: Video):
        self._capture = cv2.VideoCapture(video.path)
        if not self._capture.isOpened():
            raise ValueError("OpenCV finds no video in it")
        self._announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.fault = ""

    def frames(self, is_needed: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray | None]]:
        """(number, frame) in turn; a frame is uint8 [H, W, 3], BGR, or None where it is not needed."""
        number = 0
        while True:
            is_there, frame = self._capture.read() if is_needed(number) else (self._capture.grab(), None)
            if not is_there:
                break
            yield number, frame
            number += 1
        if number < max(1, self._announced - 1):  # formats that guess are a frame off
            self.fault = f"it is truncated: {number} of {self._announced} frames can be read"


def list_inputs(inputs: Sequence[str], images: str = "") -> list[ImageFile | Video]:
    """What the --input arguments name, each once and in an order that does not depend on theirs.

    Args:
        inputs: images, folders of images, patterns, videos, and COCO json files.
        images: the folder of the images that json files name; by default that of the json.

    Raises:
        FileError: one of them names nothing.
        UserError: a json names no images, or two give an image different ids.
    """
    files, videos = {}, set()
    for item in inputs:
        if os.path.isdir(item):
            found = [os.path.join(item, f) for f in os.listdir(item) if f.lower().endswith(IMAGE_SUFFIXES)]
        else:
            found = [item] if os.path.exists(item) else glob.glob(os.path.expanduser(item))
        if not found:
            raise FileError(f"--input: there is no image {item}")
        for path in found:
            suffix = os.path.splitext(path)[1].lower()
            if suffix == ".json":
                for image in images_of(path, images):
                    before = files.setdefault(os.path.abspath(image.path), image).image_id
                    if before is not None and before != image.image_id:
                        raise UserError(f"--input: {image.path} has the ids {before} and {image.image_id}")
                    files[os.path.abspath(image.path)] = image
            elif suffix in VIDEO_SUFFIXES and not os.path.isdir(path):
                videos.add(Video(path))
            else:
                files.setdefault(os.path.abspath(path), ImageFile(path))
    ids = [image.image_id for image in files.values() if image.image_id is not None]
    if len(ids) != len(set(ids)):
        raise UserError("--input: the json files give different images the same id; predict on one of them at a time")
    return [*sorted(files.values()), *sorted(videos)]


def images_of(json_file: str, folder: str = "") -> list[ImageFile]:
    """The images that a COCO json names; its annotations, if it has any, are not looked at."""
    records = read_json(json_file).get("images")
    if not isinstance(records, list) or not records:
        raise UserError(f'--input {json_file}: expected a COCO json file with "images", got none')
    folder = folder or os.path.dirname(json_file)
    images = []
    for record in records:
        if not isinstance(record, dict) or not {"id", "file_name"} <= set(record):
            raise UserError(f"--input {json_file}: expected an id and a file_name in each of its images, got {record}")
        images.append(ImageFile(os.path.join(folder, str(record["file_name"])), record["id"]))
    if not any(os.path.exists(image.path) for image in images):
        raise FileError(
            f"--input {json_file}: none of its {len(images)} images is in {folder or '.'}; add --images FOLDER"
        )
    return images
