"""The report of an evaluation is one file that needs nothing else."""

import json
import re

from pycocotools import mask

from libra_d2.visualize.report import write_report
from tests.evaluation.scene import draw, random_scene


def test_the_report_has_all_in_one_file(tmp_path):
    truth, results = random_scene()
    draw(truth, tmp_path / "images")
    for image in (9, 10, 11, 12):
        (tmp_path / "images" / f"{image}.png").unlink()
    page = write_report(tmp_path / "report", truth, results, title="some & data", image_root=str(tmp_path / "images"))
    text = page.read_text()
    assert "<title>some &amp; data</title>" in text
    assert "&lt;owl&gt;" in text
    assert "<owl>" not in text
    assert text.count("data:image/png;base64,") == 3
    assert text.count("data:image/jpeg;base64,") == 4
    assert not re.search(r"https?://|src=\"(?!data:)|href=", text)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    pictures = {"bbox_curves.png", "mistakes.png", "confusion.png", *(f"worst_{n}.jpg" for n in (1, 2, 3, 4))}
    assert names == {"report.html", "report.json", "bbox_by_class.csv", *pictures}
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    rows = (tmp_path / "report" / "bbox_by_class.csv").read_text().splitlines()
    assert rows[0] == "class,objects,AP,AP50,AP75,APs,APm,APl,AR"
    assert float(rows[1].split(",")[2]) == numbers["bbox"]["AP"] > 0
    assert 0 < numbers["threshold"] < 1


def test_masks_have_a_table_of_their_own(tmp_path):
    truth, results = random_scene()
    for annotation in (*truth.dataset["annotations"], *results):
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    for entry in results:
        entry["segmentation"] = mask.merge(mask.frPyObjects(entry["segmentation"], 400, 400))
    for annotation in truth.dataset["annotations"]:
        annotation["iscrowd"] = 0
    page = write_report(tmp_path, truth, results, title="masks")
    assert "<h2>Masks</h2>" in page.read_text()
    assert (tmp_path / "segm_by_class.csv").exists()
    assert (tmp_path / "segm_curves.png").exists()
    assert not list(tmp_path.glob("worst*")), "no image can be read"
