"""A small COCO data set with detections that are right and wrong in known ways."""

import contextlib
import io

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "<owl>"}]


def coco(annotations, num_images):
    """Annotations are (image, category, box) or (image, category, box, 1) for a crowd."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 400, "width": 400} for i in range(1, num_images + 1)],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd[0] if crowd else 0,
            }
            for n, (image, category, box, *crowd) in enumerate(annotations, 1)
        ],
        "categories": CATEGORIES,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def result(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def random_scene(num_images=12, seed=0):
    """(truth, results) of boxes of all sizes; some detections are near an object, some are not."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, num_images + 1):
        for _ in range(rng.integers(0, 9)):
            size = rng.choice([12, 60, 150], 2) * rng.uniform(0.8, 1.2, 2)
            box = [*rng.uniform(0, 200, 2), *size]
            category = int(rng.choice([3, 8]))  # no owl
            annotations.append((image, category, list(map(float, box)), int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 3)):
                moved = [float(v) for v in np.array(box) + rng.normal(0, 0.1, 4) * max(size)]
                moved[2:] = [max(value, 1.0) for value in moved[2:]]
                results.append(result(image, int(rng.choice([category, 3, 8, 9])), moved, float(rng.random())))
    return coco(annotations, num_images), results


def draw(truth, folder):
    """Writes the images, each object a disc of its class's colour; the folder is new."""
    folder.mkdir()
    colours = dict(zip(sorted(truth.cats), ("#c5554a", "#4a7bc5", "#58a55c"), strict=True))
    noise = np.random.default_rng(0).normal(90, 12, (400, 400, 3)).clip(0, 255).astype(np.uint8)
    for image in truth.imgs.values():
        picture = Image.fromarray(noise)
        pen = ImageDraw.Draw(picture)
        for annotation in truth.imgToAnns[image["id"]]:
            x, y, w, h = annotation["bbox"]
            pen.ellipse((x, y, x + w, y + h), fill=colours[annotation["category_id"]])
        picture.save(folder / image["file_name"])
