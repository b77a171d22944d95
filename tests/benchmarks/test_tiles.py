"""benchmarks/tiles.py: a whole photograph and its tiles show the same trees."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import libra_d2

SCRIPT = Path(libra_d2.__file__).parents[1] / "benchmarks" / "tiles.py"
BOXES = [(10.0, 10.0, 50.0, 60.0), (310.0, 100.0, 340.0, 130.0), (400.0, 250.0, 420.0, 270.0)]


@pytest.fixture
def tiles(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("bm_tiles", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in {"prepare_quickstart", "pinned_wheel"} - before:
        sys.modules.pop(name, None)


def test_a_whole_photograph_and_its_tiles_have_the_same_trees(tiles, monkeypatch, tmp_path):
    monkeypatch.setattr(tiles.quickstart, "read_photograph", lambda *_: (Image.new("RGB", (500, 300)), BOXES))
    tiles.write(Path("a wheel"), tmp_path)
    for name in tiles.PHOTOGRAPHS:
        whole, cut = (json.loads((tmp_path / f"{name}_{kind}.json").read_text()) for kind in ("whole", "tiles"))
        assert [(image["width"], image["height"]) for image in whole["images"]] == [(500, 300)]
        assert [a["bbox"] for a in whole["annotations"]] == [[x, y, x1 - x, y1 - y] for x, y, x1, y1 in BOXES]
        assert [image["width"] for image in cut["images"]] == [320, 180]
        assert sum(not a["iscrowd"] for a in cut["annotations"]) == len(BOXES)
        for content, kind in ((whole, "whole"), (cut, "tiles")):
            assert all((tmp_path / f"{name}_{kind}" / image["file_name"]).is_file() for image in content["images"])


def test_each_way_is_an_evaluation_of_its_own(tiles, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(tiles.subprocess, "run", lambda command, **_: commands.append(command))
    for kind, flags, proposals in tiles.WAYS.values():
        with pytest.raises(FileNotFoundError):  # no evaluation has left results
            tiles.measure(tmp_path, tmp_path, kind, flags, proposals)
    outputs = {command[command.index("OUTPUT_DIR") + 1] for command in commands}
    assert len(outputs) == len(tiles.WAYS)
    assert sum("--tile" in command for command in commands) == 2
