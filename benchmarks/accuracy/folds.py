"""Spatial cross-validation: each photograph is halved; a fold trains on one half of both and evaluates on the others.

Every box of both photographs is evaluated in exactly one fold and one tile: the one that shows most of it. In the other
tiles that touch it, it is "iscrowd": a detection there counts neither way.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import prepare_quickstart as quickstart  # noqa: E402
from pinned_wheel import TREES  # noqa: E402

PHOTOGRAPHS = {
    "yell528_": "2019_YELL_2_528000_4978000_image_crop2",
    "yell541_": "2019_YELL_2_541000_4977000_image_crop",
}
FOLDS = (0, 1)  # the evaluated half: left, right


def write(folder: Path) -> None:
    """Leaves fold0_train.json, fold0_val.json, ... and a folder of tiles for each, where they are not there yet."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    wheel = TREES.fetch()
    for fold in FOLDS:
        for part in ("train", "val"):
            (unfinished / f"fold{fold}_{part}").mkdir(parents=True)
    photographs = {prefix: quickstart.read_photograph(wheel, name) for prefix, name in PHOTOGRAPHS.items()}
    for fold in FOLDS:
        train, val = [], []
        for prefix, (image, boxes) in photographs.items():
            width, height = image.size
            halves = [(0, width // 2), (width // 2, width)]
            tiles = quickstart.overlapping(*halves[1 - fold], height)
            train += quickstart.cut(
                image, boxes, tiles, unfinished / f"fold{fold}_train", quickstart.mostly_hidden, prefix
            )
            everywhere = [tile for half in halves for tile in quickstart.grid(*half, height)]
            tiles = quickstart.grid(*halves[fold], height)
            val += quickstart.cut(
                image, boxes, tiles, unfinished / f"fold{fold}_val", shown_better_elsewhere(everywhere), prefix
            )
        quickstart.write_coco(train, unfinished / f"fold{fold}_train.json")
        quickstart.write_coco(val, unfinished / f"fold{fold}_val.json")
    unfinished.rename(folder)


def shown_better_elsewhere(tiles: list[quickstart.Tile]):
    """Says of a box and a tile whether an other of ``tiles`` shows more of the box; of equals, the first is best."""

    def visible(box: quickstart.Box, tile: quickstart.Tile) -> float:
        shown = quickstart.clip(box, tile)
        return quickstart.area(shown) if shown else 0.0

    return lambda box, tile: max(tiles, key=lambda other: visible(box, other)) != tile
