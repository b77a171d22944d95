"""No json, whatever is in it, does anything but be checked; and what the checks let through, training can read."""

import json

import pytest
from detectron2.data import MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from libra_d2.checks import UserError
from libra_d2.data.coco_json import load_dicts, read_class_names
from libra_d2.data.validate import find_faults
from tests.fuzz.budget import budget, little_memory

_NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 15, 16, 20, -1, 0.5, 1.0, 2.5, 1e-9, 1e30, 2**31, 2**63, 10**400])
_ODD = st.one_of(
    _NUMBERS,
    st.sampled_from([None, True, False, "", "1", "a", "../a", float("nan"), float("inf"), [], {}, [[]], [1], {"a": 1}]),
    st.text(max_size=3),
)
_ID = st.one_of(*[st.integers(1, 3)] * 6, _ODD)


def _odd(usual) -> st.SearchStrategy:
    """Mostly what is usual."""
    return st.one_of(*[usual] * 8, _ODD)


_RLE = st.fixed_dictionaries(
    {
        "size": _odd(st.just([16, 16])),
        "counts": _odd(st.just([0, 256]) | st.text(max_size=6) | st.lists(_ODD, max_size=4)),
    }
)
_POLYGON = st.lists(st.integers(0, 16) | _NUMBERS, min_size=4, max_size=9)
_ANNOTATION = st.fixed_dictionaries(
    {},
    optional={
        "id": _odd(st.integers(1, 9)),
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _odd(st.lists(_NUMBERS | _odd(st.integers(0, 16)), min_size=4, max_size=4)),
        "area": _odd(st.integers(1, 99)),
        "iscrowd": _odd(st.integers(0, 1)),
        "ignore": _ODD,
        "segmentation": _odd(st.lists(_POLYGON, max_size=2) | _RLE),
        "keypoints": _ODD,
    },
)
_IMAGE = st.fixed_dictionaries(
    {},
    optional={
        "id": _ID,
        "file_name": _odd(st.sampled_from(["a.png", "b.png", "none.png"])),
        "height": _odd(st.just(16)),
        "width": _odd(st.just(16)),
    },
)
_CATEGORY = st.fixed_dictionaries({}, optional={"id": _ID, "name": _odd(st.sampled_from("abc")), "supercategory": _ODD})
_CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "images": _odd(st.lists(_odd(_IMAGE), max_size=3)),
        "annotations": _odd(st.lists(_odd(_ANNOTATION), max_size=4)),
        "categories": _odd(st.lists(_odd(_CATEGORY), max_size=3)),
        "info": _ODD,
    },
)
_SOUND = {
    "images": [{"id": i, "file_name": name, "height": 16, "width": 16} for i, name in ((1, "a.png"), (2, "b.png"))],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [2, 3, 4, 5], "area": 20, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
}


@st.composite
def nearly_sound(draw) -> dict:
    """A sound json in which up to three values are something else, or gone."""
    content = json.loads(json.dumps(_SOUND))
    for _ in range(draw(st.integers(0, 3))):
        items = content[draw(st.sampled_from(["images", "annotations", "categories"]))]
        item = draw(st.sampled_from(items))
        key = draw(st.sampled_from(sorted(item) or ["id"]))
        if draw(st.booleans()):
            item[key] = draw(_ODD | st.lists(_NUMBERS, min_size=4, max_size=4) | st.lists(_POLYGON, max_size=2) | _RLE)
        else:
            item.pop(key, None)
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("json")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(path / name)
    return path


def check(folder, text: bytes) -> None:
    """The checks end without an exception; where they name no error, the data set can be loaded."""
    file = folder / "a.json"
    file.write_bytes(text)
    with little_memory():
        faults = list(find_faults(str(file), str(folder)))
    assert all(fault.severity in ("error", "warning") for fault in faults)
    assert not [fault for fault in faults if "\n" in str(fault)]
    try:
        names = read_class_names(str(file))
    except UserError:
        assert any(fault.severity == "error" for fault in faults)
        return
    if not any(fault.severity == "error" for fault in faults):
        if "fuzz" in MetadataCatalog:
            MetadataCatalog.remove("fuzz")
        records = load_dicts("fuzz", str(file), str(folder), names)
        assert records


@budget(0.7)
@given(content=_CONTENT | _ODD)
def test_odd_values(folder, content):
    check(folder, json.dumps(content).encode())


@budget(0.7)
@given(content=nearly_sound())
def test_nearly_sound(folder, content):
    check(folder, json.dumps(content).encode())


@budget(0.3)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4))
def test_mutated_texts(folder, edits):
    text = bytearray(json.dumps(_SOUND).encode())
    for where, new, gone in edits:
        at = int(where * len(text))
        text[at : at + gone] = new
    check(folder, bytes(text))


def test_line_breaks_in_names_break_no_line(folder):
    content = json.loads(json.dumps(_SOUND))
    content["images"][0]["file_name"] = "a\nerror: image 2: forged.png"
    check(folder, json.dumps(content).encode())


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{\x00}\x00", b"1" * 10_000])
def test_texts_of_the_worst(folder, text):
    check(folder, text)
