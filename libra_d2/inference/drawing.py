"""Predicts on images and videos one by one and draws what was found; one that cannot be done stops no other."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from libra_d2.data.random_state import preserved_rng, seed_cpu
from libra_d2.inference.inputs import ImageFile, Video, VideoReader
from libra_d2.inference.results import Journal, stamp_of


class NotDrawn(Exception):
    """What is wrong with one image or video."""


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # an image can make Pillow, torch and matplotlib raise anything
        message = " ".join(str(error).split())
        raise NotDrawn(f"{what} ({type(error).__name__}{': ' if message else ''}{message})") from error


class Drawer:
    """Draws, and enters what it found into a journal; what the journal has already is not done again.

    Detections are COCO's results without an image id, their categories numbered from 0.
    """

    def __init__(self, predictor: DefaultPredictor, metadata: Metadata, journal: Journal):
        self._predictor, self._metadata, self._journal = predictor, metadata, journal

    def image(self, item: ImageFile, drawing: str) -> list[dict]:
        """The detections on an image.

        Raises:
            NotDrawn: it cannot be read, predicted on, drawn or written.
        """
        with _step("cannot be read"):
            key, stamp = os.path.abspath(item.path), stamp_of(item.path)
            found = self._journal.get(key, stamp, drawing)
            image = item.read() if found is None else None
        if image is not None:
            found = self._predict(image, drawing)
            self._journal.add(key, stamp, drawing, found)
        return found

    def video(self, item: Video, drawing: str, tick: Callable[[], object]) -> tuple[dict[int, list[dict]], str]:
        """({number of a frame: its detections}, what is wrong with the video, if anything).

        Frames are drawn in a folder beside ``drawing`` and become that video when the last one is there.

        Args:
            tick: is called after each frame.

        Raises:
            NotDrawn: none of it can be read, or what is drawn cannot be written.
        """
        with _step("cannot be read"):
            reader, key, stamp = VideoReader(item), os.path.abspath(item.path), stamp_of(item.path)
        folder = drawing + ".frames"
        is_drawn = os.path.exists(drawing)
        with _step(f"cannot be written to {folder}"):
            os.makedirs(folder, exist_ok=True)

        def part(number):
            return os.path.join(folder, f"{number:06d}.jpg")

        def entered(number):
            return self._journal.get(f"{key}#{number}", stamp, drawing, part(number))

        found = {}
        for number, frame in reader.frames(lambda number: entered(number) is None):
            if frame is None:
                found[number] = entered(number)
            else:
                found[number] = self._predict(frame, part(number))
                self._journal.add(f"{key}#{number}", stamp, drawing, found[number])
                is_drawn = False
            tick()
        if found and not is_drawn:
            with _step(f"cannot be written to {drawing}"):
                write_video(drawing, [part(number) for number in found], reader.rate)
        shutil.rmtree(folder)
        if not found:
            raise NotDrawn(f"cannot be read ({reader.fault})")
        return found, reader.fault

    def _predict(self, image: np.ndarray, drawing: str) -> list[dict]:
        height, width = image.shape[:2]
        with _step(f"nothing can be predicted on its {width} x {height} pixels"):
            instances = self._predictor(image)["instances"].to("cpu")
            detections = instances_to_coco_json(instances, None)
        with _step("its detections cannot be drawn"), preserved_rng():
            seed_cpu(0)  # Detectron2 draws the colours
            visualizer = Visualizer(image[:, :, ::-1], self._metadata, instance_mode=ColorMode.IMAGE)
            draw_instances(visualizer, instances)
            drawn = visualizer.output.get_image()
        with _step(f"cannot be written to {drawing}"):
            Image.fromarray(drawn).save(drawing)
        return detections


def draw_instances(visualizer: Visualizer, instances: Instances, masks_at_once: int = 2**28) -> None:
    """Detectron2's drawing of predictions, a part at a time where their masks are too much for the memory.

    Args:
        instances: on the CPU.
        masks_at_once: pixels of bitmaps; a mask has as many as the image.
    """
    height, width = instances.image_size
    at_once = max(1, masks_at_once // (height * width)) if instances.has("pred_masks") else max(1, len(instances))
    if len(instances) > at_once:  # as Detectron2 does with those it draws together: the small ones on top
        instances = instances[instances.pred_boxes.area().argsort(descending=True)]
    for first in range(0, len(instances), at_once):
        visualizer.draw_instance_predictions(instances[first : first + at_once])


def write_video(path: str, images: Sequence[str], rate: float) -> None:
    """Makes a video of image files of one size.

    Raises:
        OSError: OpenCV cannot write such a video.
    """
    height, width = cv2.imread(images[0]).shape[:2]
    unfinished = f"{os.path.splitext(path)[0]}.unfinished.mp4"
    writer = cv2.VideoWriter(unfinished, cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {width} x {height} pixels as mp4")
    for image in images:
        writer.write(cv2.imread(image))
    writer.release()
    os.replace(unfinished, path)
