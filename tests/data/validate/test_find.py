"""Whatever a json says, the checks end; and where they find no error, Detectron2 reads and evaluates it."""

import copy
import json
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libra_d2.data.coco_json import load_dicts
from libra_d2.data.validate import content_faults

SOUND = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 90, "height": 60} for i in (1, 2)],
    "annotations": [
        {
            "id": i,
            "image_id": 1 + i % 2,
            "category_id": 3 + i % 2,
            "bbox": [10, 10, 5 * i, 20],
            "area": 100 * i,
            "iscrowd": int(i == 4),
            "segmentation": [[10, 10, 10 + 5 * i, 10, 10 + 5 * i, 30, 10, 30]],
        }
        for i in (1, 2, 3, 4)
    ],
    "categories": [{"id": 3, "name": "a", "supercategory": "c"}, {"id": 4, "name": "b", "supercategory": "c"}],
}
RUNS = {"size": [60, 90], "counts": [60 * 10 + 10, 20, 60 * 80 - 30]}
VALUES = st.recursive(
    st.one_of(
        st.sampled_from([None, True, False, "", "1", "a", 0, 1, 2, 3, -1, 0.5, 1e300, 10**400, float("nan"), RUNS]),
        st.sampled_from(
            [[], {}, [0, 0, 1, 1], [[1, 1, 2, 2]], [[1, 1, 30, 1, 30, 30]], {"size": [60, 90], "counts": "1"}]
        ),
        st.integers(-5, 100),
        st.floats(),
        st.text(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=4,
)
KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "ignore", "keypoints", "file_name")
CHANGES = st.tuples(
    st.sampled_from(["images", "annotations", "categories"]),
    st.integers(0, 3),
    st.sampled_from([*KEYS, "width", "height", "name", "supercategory", "", "delete"]),
    VALUES,
)


def changed(changes):
    content = copy.deepcopy(SOUND)
    for part, index, key, value in copy.deepcopy(changes):
        items = content[part]
        if not isinstance(items, list) or not items:
            continue
        if key == "":
            content[part] = value
        elif key == "delete":
            items.pop(index % len(items))
        elif isinstance(items[index % len(items)], dict):
            items[index % len(items)][key] = value
    return content


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHANGES, min_size=1, max_size=3))
def test_what_has_no_errors_is_read_and_evaluated(changes):
    content = changed(changes)
    if any(fault.severity == "error" for fault in content_faults(content, "a.json", "s3://images")):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.json"
        file.write_text(json.dumps(content))
        names = [str(category["name"]) for category in sorted(content["categories"], key=lambda c: c["id"])]
        try:
            dicts = load_dicts("fuzzed", str(file), "images", names)
            DatasetCatalog.register("fuzzed", lambda: dicts)
            MetadataCatalog.get("fuzzed").set(thing_classes=names)
            evaluator = COCOEvaluator("fuzzed", tasks=("bbox",), output_dir=folder, allow_cached_coco=False)
            evaluator.reset()
            for record in dicts:
                instances = Instances((60, 90))
                instances.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 20.0, 30.0]]))
                instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
                evaluator.process([record], [{"instances": instances}])
            evaluator.evaluate()
        finally:
            for catalog in (DatasetCatalog, MetadataCatalog):
                if "fuzzed" in catalog:
                    catalog.remove("fuzzed")


@pytest.mark.parametrize("content", [None, 5, "a", [], {}, {"images": 5}, {"images": [5], "annotations": [[]]}])
def test_what_is_no_coco_json_is_an_error(content):
    assert any(fault.severity == "error" for fault in content_faults(content, "a.json", "s3://images"))
