"""The report of an evaluation: a folder of tables and pictures, and report.html, one file that needs no network."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from libra_d2.evaluation.coco import loaded
from libra_d2.evaluation.coco_tables import Tables, coco_tables
from libra_d2.evaluation.mistakes import Image as Judged
from libra_d2.evaluation.mistakes import Mistakes, best_threshold, count, judge
from libra_d2.visualize.detections import Scene, plot_scene
from libra_d2.visualize.evaluation import plot_confusion, plot_curves, plot_mistakes
from libra_d2.visualize.report_page import DPI, figure, page, row, table
from libra_d2.visualize.style import save

_TASKS = {"bbox": "Boxes", "segm": "Masks"}
_UNITS = (
    "Percent. AP is the mean over IoUs from 0.5 to 0.95; APs, APm and APl are those of small, medium and large "
    "objects (up to 32&nbsp;×&nbsp;32 pixels, up to 96&nbsp;×&nbsp;96, and larger). A dash: there is no such object."
)


def write_report(
    folder: str | os.PathLike,
    truth: COCO,
    results: list[dict],
    *,
    title: str,
    image_root: str = "",
    max_detections: int = 100,
    num_worst: int = 4,
) -> Path:
    """Writes the report of COCO's results, and returns the path of report.html.

    Args:
        truth: the annotations.
        results: as Detectron2's COCOEvaluator writes them; not empty.
        image_root: the folder that the annotations' file names start from.
        max_detections: as many of an image count.
        num_worst: as many images are drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = ["bbox", *(["segm"] if all("segmentation" in result for result in results) else [])]
    tables = {task: coco_tables(truth, results, task, max_detections) for task in tasks}
    categories = sorted(truth.getCatIds())
    names = [category["name"] for category in truth.loadCats(categories)]
    images = judge(truth, loaded(truth, results).dataset["annotations"])
    mistakes = count(images, categories, best_threshold(images))
    worst = list(_worst(images, mistakes, truth, image_root, num_worst))

    pictures = {
        **{f"{task}_curves.png": plot_curves(t.recall, t.precision) for task, t in tables.items()},
        "mistakes.png": plot_mistakes(mistakes.kinds, mistakes.missed),
        "confusion.png": plot_confusion(mistakes.confusion, names),
        **{f"worst_{n}.jpg": plot_scene(scene) for n, (_, scene) in enumerate(worst, 1)},
    }
    for name, picture in pictures.items():
        save(picture, folder / name, dpi=DPI)
    for task, of_task in tables.items():
        _write_csv(folder / f"{task}_by_class.csv", of_task)
    numbers = {task: {k: None if math.isnan(v) else v for k, v in t.overall.items()} for task, t in tables.items()}
    numbers |= {"threshold": mistakes.threshold, "kinds": mistakes.kinds, "missed": mistakes.missed}
    (folder / "report.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    counted = f"{len(truth.imgs):,} images, {_num_objects(tables['bbox']):,} objects, {len(results):,} detections"
    file = folder / "report.html"
    parts = [f'<p class="soft">{counted}</p>', *_parts(folder, tables, mistakes, [caption for caption, _ in worst])]
    file.write_text(page(title, parts), encoding="utf-8")
    return file


def _worst(
    images: list[Judged], mistakes: Mistakes, truth: COCO, root: str, number: int
) -> Iterable[tuple[str, Scene]]:
    """(caption, what is to be drawn) of the images with the most mistakes whose files can be read."""
    judged = {image.image_id: image for image in images}
    for image_id, wrong in mistakes.worst:
        if not wrong or not number:
            return
        name, of_image = truth.loadImgs([image_id])[0]["file_name"], judged[image_id]
        try:
            pixels = np.asarray(Image.open(os.path.join(root, name)).convert("RGB"))
        except OSError:  # an evaluation may have read them from elsewhere
            continue
        kept = of_image.scores >= mistakes.threshold
        labels = [category["name"] for category in truth.loadCats(of_image.labels[kept].tolist())]
        boxes = (_corners(of_image.truth), _corners(of_image.detected[kept]))
        yield f"{name}: {wrong} mistake{'s' * (wrong > 1)}", Scene(pixels, *boxes, of_image.scores[kept], labels)
        number -= 1


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _write_csv(path: Path, tables: Tables) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(_rows(tables))


def _rows(tables: Tables) -> list[list]:
    """A head, the figures of all classes, and those of each."""
    return [
        ["class", "objects", *tables.overall],
        ["all", _num_objects(tables), *tables.overall.values()],
        *([name, number, *figures.values()] for name, number, figures in tables.by_class),
    ]


def _num_objects(tables: Tables) -> int:
    return sum(number for _, number, _ in tables.by_class)


def _parts(folder: Path, tables: dict[str, Tables], mistakes: Mistakes, worst: list[str]) -> Iterable[str]:
    for task, of_task in tables.items():
        yield f"<h2>{_TASKS[task]}</h2>"
        note = f'<p class="soft">{_UNITS}</p>' if task == "bbox" else ""
        curves = figure(folder / f"{task}_curves.png", "precision over recall")
        yield row(f"<div>{table(*_rows(of_task))}{note}</div>", curves)
    yield "<h2>Mistakes</h2>"
    yield (
        f"<p>Detections with a score of {mistakes.threshold:.2f} or more, where F1 is highest. A detection is correct "
        "that has an IoU of 0.5 or more with an object of its class; a duplicate if a better one has found that "
        "object; badly localised from an IoU of 0.1 on; of the wrong class if it has 0.5 or more with an object of "
        "another; background otherwise.</p>"
    )
    kinds = figure(folder / "mistakes.png", "how many detections are correct, or wrong in which way")
    yield row(kinds, figure(folder / "confusion.png", "objects by the class that they were found as"))
    if worst:
        yield "<h2>The images with the most mistakes</h2>"
        yield "<p>Detections in yellow with their score in percent, objects dashed in white.</p>"
        drawn = [folder / f"worst_{n}.jpg" for n in range(1, len(worst) + 1)]
        yield row(*(figure(path, "detections and objects", told) for path, told in zip(drawn, worst, strict=True)))
