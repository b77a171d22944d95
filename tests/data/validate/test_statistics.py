"""Boxes in other units are told from odd but sound ones by all of them together."""

import numpy as np
import pytest

from libra_d2.data.validate.statistics import statistics_faults

WIDTH, HEIGHT = 640, 480


def annotations(count=40, seed=0, polygons=True, area=True):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        w, h = rng.integers(20, 200, 2).tolist()
        x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
        annotation = {"id": i, "image_id": 1, "bbox": [x, y, w, h]}
        if polygons:
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if area:
            annotation["area"] = w * h
        found.append(annotation)
    return found


def faults(found, width=WIDTH, height=HEIGHT):
    image = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
    return [(fault.severity, fault.what) for fault in statistics_faults("a.json", found, lambda _: image)]


def change_boxes(found, change):
    for annotation in found:
        annotation["bbox"] = change(*annotation["bbox"])
    return found


def to_corners(x, y, w, h):
    return [x, y, x + w, y + h]


def to_fractions(x, y, w, h):
    return [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


EVIDENCE = [{}, {"polygons": False}, {"area": False}, {"polygons": False, "area": False}]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_sound_boxes_pass(evidence, seed):
    assert faults(annotations(seed=seed, **evidence)) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_corners_are_an_error(evidence, seed):
    [(severity, what)] = faults(change_boxes(annotations(seed=seed, **evidence), to_corners))
    assert severity == "error"
    assert "right only if read as the corners x1, y1, x2, y2" in what
    assert "write x2 - x1 and y2 - y1" in what


def test_a_single_box_as_corners_is_found_by_its_polygon():
    found = annotations()
    found[7]["bbox"] = to_corners(*found[7]["bbox"])
    [(severity, what)] = faults(found)
    assert severity == "error"
    assert f"1 of 40 boxes, first {found[7]['bbox']} of image 1 (a.jpg), annotation 7, are right only" in what


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("factor", [1, 2])
def test_fractions_are_an_error(evidence, factor):
    found = change_boxes(annotations(**evidence), lambda *box: [factor * v for v in to_fractions(*box)])
    [(severity, what)] = faults(found)
    assert severity == "error"
    assert "smaller than a pixel, as fractions" in what


def test_fractions_in_a_part_of_the_file_are_an_error():
    found = annotations(polygons=False, area=False)
    change_boxes(found[:10], to_fractions)
    assert [severity for severity, _ in faults(found)] == ["error"]


def test_percentages_are_a_warning():
    found = annotations(polygons=False, area=False)
    change_boxes(found, lambda *box: [100 * v for v in to_fractions(*box)])
    [(severity, what)] = faults(found)
    assert severity == "warning"
    assert "as percentages do" in what


def test_polygons_as_fractions_are_an_error():
    found = annotations()
    for annotation in found:
        polygon = annotation["segmentation"][0]
        annotation["segmentation"] = [[v / (HEIGHT if i % 2 else WIDTH) for i, v in enumerate(polygon)]]
    [(severity, what)] = faults(found)
    assert severity == "error"
    assert "fractions of the image beside a bbox in pixels" in what


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_polygons_elsewhere_than_their_boxes_are_an_error_where_most_are(share):
    found = annotations()
    for annotation in found[: int(share * len(found))]:
        annotation["segmentation"] = [[v + 300 for v in annotation["segmentation"][0]]]
    [(severity, what)] = faults(found)
    assert severity == ("error" if share > 0.5 else "warning")
    assert "elsewhere than the polygons of the same annotation" in what


@pytest.mark.parametrize(("polygons", "factor"), [(True, 9), (False, 9), (False, 0.01), (False, 0)])
def test_areas_that_contradict_their_boxes_are_an_error(polygons, factor):
    found = annotations(polygons=polygons)
    for annotation in found:
        annotation["area"] *= factor
    [(severity, what)] = faults(found)
    assert severity == "error"
    assert "remove area if the bbox is right" in what


def test_a_thin_mask_may_be_far_smaller_than_its_box():
    found = annotations()
    for annotation in found:
        annotation["area"] *= 0.01
    assert faults(found) == []


def test_boxes_of_larger_images_are_an_error():
    [(severity, what)] = faults(annotations(), width=200, height=150)
    assert severity == "error"
    assert "boxes and images do not belong together" in what


def test_large_objects_that_reach_out_are_no_corners():
    """As in CrowdHuman, whose boxes go on where people are cut off."""
    found = annotations(polygons=False, area=False)
    for i, annotation in enumerate(found[:15]):
        annotation["bbox"] = [10 * i, 100, 200, 450]
    assert faults(found) == []
