import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from libra_d2.data.validate import find_faults
from tests.engine.tiny import write_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    file, images = write_dataset(folder, num_images=4)
    return json.loads(file.read_text()), images


def faults_of(content, images, tmp_path):
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    return list(find_faults(str(file), str(images)))


def set_in(*path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def test_nothing_is_found_in_a_sound_dataset(dataset, tmp_path):
    content, images = dataset
    assert faults_of(content, images, tmp_path) == []


# Each change, and what has to stand in the one line that names it. Annotation 1 belongs to image 1.
ERRORS = {
    "zero width": (set_in("annotations", 0, "bbox", value=[5, 5, 0, 9]), "image 1 (001.png), annotation 1: the bbox"),
    "negative height": (set_in("annotations", 0, "bbox", value=[5, 5, 9, -9]), "annotation 1: the bbox"),
    "nan": (set_in("annotations", 0, "bbox", value=[5, float("nan"), 9, 9]), "annotation 1: the bbox"),
    "outside": (set_in("annotations", 0, "bbox", value=[500, 5, 9, 9]), "annotation 1: the bbox"),
    "three numbers": (set_in("annotations", 0, "bbox", value=[5, 5, 9]), "annotation 1: expected a bbox"),
    "no bbox": (lambda c: c["annotations"][0].pop("bbox"), "annotation 1: expected a bbox"),
    "category": (set_in("annotations", 0, "category_id", value=99), "annotation 1: there is no category 99"),
    "image": (set_in("annotations", 0, "image_id", value=99), "image 99, annotation 1: there is no image 99"),
    "same annotation id": (set_in("annotations", 1, "id", value=1), "annotation 1: another annotation has the same id"),
    "text as annotation id": (set_in("annotations", 0, "id", value="a"), "annotation a: expected an integer id"),
    "same image id": (
        lambda c: c["images"].append(dict(c["images"][0], file_name="004.png")),
        "image 1 (004.png): another",
    ),
    "missing file": (set_in("images", 0, "file_name", value="gone.png"), "image 1 (gone.png): there is no file"),
    "size": (set_in("images", 0, "width", value=95), "image 1 (001.png): the file"),
    "no height": (lambda c: c["images"][0].pop("height"), "image 1 (001.png): expected a positive integer height"),
    "same category name": (
        set_in("categories", 0, "name", value="blue"),
        "category 7: another category has the same name",
    ),
    "ignore": (set_in("annotations", 0, "ignore", value=1), 'annotation 1: Detectron2 refuses "ignore"'),
    "polygon of two points": (
        set_in("annotations", 0, "segmentation", value=[[1, 1, 2, 2]]),
        "annotation 1: no polygon",
    ),
    "mask of another size": (
        set_in("annotations", 0, "segmentation", value={"size": [2, 2], "counts": [1, 3]}),
        "annotation 1: the mask has the size [2, 2]",
    ),
    "categories missing": (lambda c: c.pop("categories"), 'expected a list "categories"'),
    "iscrowd null": (
        set_in("annotations", 0, "iscrowd", value=None),
        "annotation 1: iscrowd: expected 0 or 1, got None",
    ),
    "iscrowd text": (set_in("annotations", 0, "iscrowd", value="0"), "iscrowd: expected 0 or 1, got '0'"),
    "ignore null": (set_in("annotations", 0, "ignore", value=None), 'annotation 1: Detectron2 refuses "ignore"'),
    "area as text": (set_in("annotations", 0, "area", value="9"), "annotation 1: area: expected a number"),
    "area as list": (set_in("annotations", 0, "area", value=[9]), "annotation 1: area: expected a number"),
    "area null": (set_in("annotations", 0, "area", value=None), "annotation 1: area: expected a number"),
    "negative area": (set_in("annotations", 0, "area", value=-1), "annotation 1: area: expected a number"),
    "huge integer": (set_in("annotations", 0, "bbox", value=[5, 5, 9, 10**400]), "annotation 1: the bbox"),
    "image ids of mixed types": (
        lambda c: [
            part.update({key: "1"}) for part, key in ((c["images"][0], "id"), (c["annotations"][0], "image_id"))
        ],
        '"images": some ids are numbers, others texts',
    ),
    "text for an image's id": (
        set_in("annotations", 0, "image_id", value="1"),
        "there is no image '1', but there is 1: write all ids as integers",
    ),
    "text for a category's id": (
        set_in("annotations", 0, "category_id", value="7"),
        "there is no category '7', but there is 7: write all ids as integers",
    ),
    "name null": (set_in("categories", 0, "name", value=None), "category 7: expected a text as its name"),
    "keypoints": (set_in("annotations", 0, "keypoints", value=[1, 2]), "annotation 1: keypoints: expected"),
    "flat polygon": (
        set_in("annotations", 0, "segmentation", value=[1, 1, 2, 2, 3, 3]),
        "annotation 1: expected a list",
    ),
    "run-length mask too short": (
        set_in("annotations", 0, "segmentation", value={"size": [64, 96], "counts": [100, 20]}),
        "annotation 1: the runs of the mask have 120 pixels together, its size [64, 96] has 6144",
    ),
    "run-length mask that is no text": (
        set_in("annotations", 0, "segmentation", value={"size": [64, 96], "counts": "\x07"}),
        "annotation 1: the run-length mask cannot be read",
    ),
    "backslashes": (
        set_in("images", 0, "file_name", value="images\\001.png"),
        "but there is 001.png: file_name is relative to the folder of images, with / between folders",
    ),
    "folder twice": (set_in("images", 0, "file_name", value="images/001.png"), "but there is 001.png"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_named_with_image_and_annotation(name, dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    change, line = ERRORS[name]
    change(content)
    errors = [str(fault) for fault in faults_of(content, images, tmp_path) if fault.severity == "error"]
    assert any(line in error for error in errors), errors


WARNINGS = {
    "crowd only": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"] if a["image_id"] == 1],
        "all of its annotations",
    ),
    "no annotations": (
        lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 1]),
        "image 1 (001.png): no annotations",
    ),
    "none at all": (set_in("annotations", value=[]), "image 1 (001.png): no annotations"),
    "duplicate": (lambda c: c["annotations"].append(dict(c["annotations"][0], id=999)), "annotation 999: same box"),
    "some without masks": (lambda c: c["annotations"][0].pop("segmentation"), "1 annotations lack a segmentation"),
    "run-length mask": (
        set_in("annotations", 0, "segmentation", value={"size": [64, 96], "counts": [1000, 5144]}),
        "1 run-length masks: training masks needs INPUT.MASK_FORMAT bitmask",
    ),
    "idle root": (
        lambda c: (
            [category.update(supercategory="shapes") for category in c["categories"]],
            c["categories"].append({"id": 0, "name": "shapes", "supercategory": "none"}),
        ),
        "category 0: 'shapes' has no annotations, it only stands above others",
    ),
    "a polygon of two points beside a sound one": (
        lambda c: c["annotations"][0]["segmentation"].append([1, 1, 2, 2]),
        "annotation 1: a polygon has less than three points",
    ),
    "no annotations key": (lambda c: c.pop("annotations"), 'there is no "annotations"'),
    "over the edge": (set_in("annotations", 0, "bbox", value=[90, 5, 20, 9]), "annotation 1: the bbox"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_training_survives_is_a_warning(name, dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    change, line = WARNINGS[name]
    change(content)
    faults = faults_of(content, images, tmp_path)
    assert any(line in str(fault) for fault in faults), faults
    assert {fault.severity for fault in faults} == {"warning"}


def test_a_box_may_reach_a_pixel_over_the_edge(dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    content["annotations"][0]["bbox"] = [-0.7, 0, 97, 64.9]
    assert faults_of(content, images, tmp_path) == []


def test_few_boxes_without_area_among_many_are_a_warning(dataset, tmp_path):
    """COCO's own training set has two among 860,000."""
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    first = content["annotations"][0]
    content["annotations"] += [dict(first, id=1000 + i, bbox=[1 + i / 1e4, 1, 9, 9]) for i in range(2000)]
    first["bbox"] = [5, 5, 0, 9]
    faults = [fault for fault in faults_of(content, images, tmp_path) if "has no area" in fault.what]
    assert [fault.severity for fault in faults] == ["warning"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_every_unicode_encoding_of_json_is_read(encoding, dataset, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(dataset[0]).encode(encoding))
    assert list(find_faults(str(file), str(dataset[1]))) == []


@pytest.mark.parametrize("raw", [b"<xml>", b"", b'{"images": "\xe9"}', b"[" * 100_000])
def test_what_is_no_json_is_one_error(raw, dataset, tmp_path):
    (tmp_path / "a.json").write_bytes(raw)
    assert [fault.severity for fault in find_faults(str(tmp_path / "a.json"), str(dataset[1]))] == ["error"]


def test_a_truncated_image_is_an_error(dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    whole = (images / "001.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    content["images"][0]["file_name"] = "cut.png"
    assert [str(f)[:30] for f in faults_of(content, images, tmp_path)] == ["error: image 1 (cut.png): cann"]


def test_the_size_is_that_of_the_image_turned_as_its_exif_says(dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (64, 96)).save(images / "turned.jpg", exif=exif)
    content["images"][0]["file_name"] = "turned.jpg"  # the json says 96 x 64
    assert faults_of(content, images, tmp_path) == []


def test_the_command_prints_faults_and_exits_with_1_for_errors_only(dataset, tmp_path):
    content, images = copy.deepcopy(dataset[0]), dataset[1]

    def run():
        file = tmp_path / "annotations.json"
        file.write_text(json.dumps(content))
        command = [sys.executable, "-m", "libra_d2.cli", "check", file, images]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    content["annotations"].append(dict(content["annotations"][0], id=999))
    result = run()
    fault, count, _, described, *_ = result.stdout.splitlines()
    assert (result.returncode, count.split(": ")[-1]) == (0, "0 errors, 1 warnings"), result
    assert described.startswith("images ")
    content["annotations"][0]["bbox"] = [5, 5, 0, 9]
    result = run()
    assert result.returncode == 1
    assert "error: image 1 (001.png), annotation 1: the bbox [5, 5, 0, 9]" in result.stdout
