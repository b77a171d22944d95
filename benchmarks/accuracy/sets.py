"""The data sets: where each is found, what its files must be, and how its recipe differs from the quickstart's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUICKSTART = ROOT / "configs" / "quickstart" / "libra_faster_rcnn_trees.yaml"
CACHE = ROOT / ".cache"
TILES = CACHE / "accuracy"  # folds.py writes them


@dataclass(frozen=True)
class DataSet:
    """A training and a validation half; ``group`` is the set in the tables, which may be evaluated in several folds.

    The hashes are sha256; ``images_hash`` is that of sorted name + NUL + bytes of every image, one after the other.
    ``tiles`` is what the files of tiles begin with that are cut here. ``class_weights`` are inverse to the square root
    of a class's share of the training boxes, 1 in the mean of the boxes.
    """

    name: str
    group: str
    recipe: Path
    source: str = ""
    train_hash: str = ""
    val_hash: str = ""
    images_hash: str = ""
    tiles: Path | None = None
    class_weights: str = "[1.0]"

    def files(self, data: Path | None) -> list[str]:
        """The arguments of train_net.py that say where the set is; ``data`` is the folder given with --data."""
        if self.tiles:
            parts = {part: self.tiles.with_name(f"{self.tiles.name}_{part}") for part in ("train", "val")}
            jsons = {part: folder.with_name(f"{folder.name}.json") for part, folder in parts.items()}
        else:
            parts = dict.fromkeys(("train", "val"), _folder(self, data) / "images")
            jsons = {part: _folder(self, data) / f"{part}.json" for part in parts}
        return [
            argument
            for part, images in parts.items()
            for argument in (f"--{part}-json", str(jsons[part]), f"--{part}-images", str(images))
        ]

    def check(self, data: Path | None) -> None:
        """Stops where a file of the set is absent or is not the one that the results were made with."""
        if self.tiles:
            return  # the wheel that they are cut from is checked when it is fetched
        folder = _folder(self, data)
        for name, wanted in (
            ("train.json", self.train_hash),
            ("val.json", self.val_hash),
            ("images", self.images_hash),
        ):
            path = folder / name
            if not path.exists():
                raise SystemExit(f"{self.name}: expected {path}, it does not exist; it is made from {self.source}")
            found = hash_images(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            if found != wanted:
                raise SystemExit(f"{path}: expected sha256 {wanted}, got {found}; make it again from {self.source}")


def hash_images(folder: Path) -> str:
    """sha256 over the files of a folder: name, NUL and bytes of each, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _folder(dataset: DataSet, data: Path | None) -> Path:
    if data is None:
        raise SystemExit(f"--data: expected the folder that has {dataset.name}/ in it, got none; see README.md")
    return data.resolve() / dataset.name


_ALL = [
    DataSet(
        "facemask",
        "facemask",
        HERE / "photographs.yaml",
        "github.com/iniakunhuda/detr-facemask-dataset at 6592676986d862cbba7766ff98aeb687fbd46d85",
        "4d5b39c9c03822afd0583bd6dc019ecb0160fa69627243469267c6919b859731",
        "b08ddb5d5e756271c4f3b60b165ed10e8b12e161df8ec187b6fcb445fc8354b0",
        "d262751e8120769ac912005fc352afe4542dcc403f93869927eb90d0768a2b89",
        class_weights="[3.68, 0.75, 1.58]",
    ),
    DataSet(
        "deeppcb",
        "deeppcb",
        HERE / "boards.yaml",
        "github.com/tangsanli5201/DeepPCB at 08e98c4db5922613fb97176eb3d6497d48260cb1",
        "d272e14b03e9e823cca59e0bb2a2eda1938687891e554eb265cda0956e5adb9a",
        "3636b3c0773e19685f124eb38f635f31c06a2cb282fbab34e7b97aa66e939ac2",
        "4329d1bcdbd08a646bddc0d6a7c230f7e2a1aa891f08b42821c177f3ef781e5e",
        class_weights="[0.95, 1.06, 0.91, 1.0, 1.07, 1.06]",
    ),
    DataSet(
        "coco_person",
        "coco_person",
        HERE / "photographs.yaml",
        "github.com/minto5z/coco_yolo at 4715f5ca05a6ffc148d4c4e5b0a131663655f2be",
        "7902588359c4d29bc83b75ff72b8e667a49fcd7d2a58aedf11289821665648e4",
        "9592fa71f7c5e43853926bfc4ae311e99006a677ec6814eaa9a563a56246d2a3",
        "d9b08a102019795079db4fc186969bf28fa291325d5484a70c80d7239bf86fdc",
    ),
    DataSet("trees_fold0", "trees", QUICKSTART, tiles=TILES / "fold0"),
    DataSet("trees_fold1", "trees", QUICKSTART, tiles=TILES / "fold1"),
    # what `make quickstart` trains and evaluates on: most of one of these photographs, and its last strip
    DataSet("quickstart", "quickstart", QUICKSTART, tiles=CACHE / "quickstart" / "trees"),
]
SETS = {dataset.name: dataset for dataset in _ALL}
GROUPS = {group: [d.name for d in _ALL if d.group == group] for group in dict.fromkeys(d.group for d in _ALL)}
