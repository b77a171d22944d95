"""The report of an evaluation: a folder of tables and pictures, and report.html, one file that needs no network."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from libra_d2.evaluation.coco import loaded
from libra_d2.evaluation.coco_tables import Tables, coco_tables
from libra_d2.evaluation.mistakes import Image as Judged
from libra_d2.evaluation.mistakes import Mistakes, best_threshold, count, judge
from libra_d2.visualize.detections import Scene, plot_detections
from libra_d2.visualize.evaluation import plot_confusion, plot_curves, plot_mistakes
from libra_d2.visualize.style import save

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .75rem; text-align: right }
th { border-bottom: 2px solid #222 } td { border-bottom: 1px solid #e6e6e6 }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
"""


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
    scenes = list(_worst(images, mistakes, truth, image_root, num_worst))

    pictures = {
        "curves": plot_curves(tables["bbox"].recall, tables["bbox"].precision),
        "mistakes": plot_mistakes(mistakes.kinds, mistakes.missed),
        "confusion": plot_confusion(mistakes.confusion, names),
        **({"worst": plot_detections([scene for _, scene in scenes])} if scenes else {}),
    }
    for name, figure in pictures.items():
        save(figure, folder / f"{name}.png", dpi=110)
    for task, of_task in tables.items():
        _write_csv(folder / f"{task}_by_class.csv", of_task)
    numbers = {task: {k: None if math.isnan(v) else v for k, v in t.overall.items()} for task, t in tables.items()}
    numbers |= {"threshold": mistakes.threshold, "kinds": mistakes.kinds, "missed": mistakes.missed}
    (folder / "report.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_page(title, folder, tables, mistakes, [name for name, _ in scenes]), encoding="utf-8")
    return page


def _worst(
    images: list[Judged], mistakes: Mistakes, truth: COCO, root: str, number: int
) -> Iterable[tuple[str, Scene]]:
    """(file name, what is to be drawn) of the images with the most mistakes whose files can be read."""
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
        yield name, Scene(pixels, *boxes, of_image.scores[kept], labels)
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
        ["all", sum(number for _, number, _ in tables.by_class), *tables.overall.values()],
        *([name, number, *figures.values()] for name, number, figures in tables.by_class),
    ]


def _page(title: str, folder: Path, tables: dict[str, Tables], mistakes: Mistakes, worst: Sequence[str]) -> str:
    def picture(name: str) -> str:
        content = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        return f'<img alt="{name}" src="data:image/png;base64,{content}">'

    parts = [f"<h1>{html.escape(title)}</h1>"]
    for task, of_task in tables.items():
        parts += [f"<h2>{'Boxes' if task == 'bbox' else 'Masks'}</h2>", _table(*_rows(of_task))]
    parts += [
        "<p>Percent. APs, APm and APl are those of small, medium and large objects (up to 32 x 32, up to 96 x 96 "
        "pixels, and larger).</p>",
        picture("curves"),
        "<h2>Mistakes</h2>",
        f"<p>Detections with a score of {mistakes.threshold:.2f} or more, where F1 is highest. A detection is correct "
        "that has an IoU of 0.5 or more with an object of its class; a duplicate if a better one has found that "
        "object; badly localised from an IoU of 0.1 on; of the wrong class if it has 0.5 or more with an object of "
        "another; background otherwise.</p>",
        picture("mistakes"),
        picture("confusion"),
    ]
    if worst:
        listed = ", ".join(html.escape(name) for name in worst)
        parts += ["<h2>The images with the most mistakes</h2>", f"<p>{listed}</p>", picture("worst")]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _table(head: Sequence[str], *rows: Sequence) -> str:
    def cell(value) -> str:
        if not isinstance(value, float):
            return html.escape(str(value))
        return "–" if math.isnan(value) else f"{value:.1f}"

    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
