"""Predictions in files: a journal that an interrupted run goes on with, COCO's results form, and a table."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.utils import comm

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checks import UserError
from libra_d2.data.json_file import read_json
from libra_d2.inference.inputs import ImageFile, Video

COLUMNS = ("file_name", "image_id", "category", "category_id", "score", "x", "y", "width", "height")


def fingerprint(cfg: CfgNode) -> str:
    """Differs between configs, or weights, that may predict different boxes."""
    comparable = cfg.clone()
    comparable.defrost()
    comparable.OUTPUT_DIR = ""
    files = (cfg.MODEL.WEIGHTS, cfg.MODEL.LIBRA.LAZY.FILE)
    text = comparable.dump() + "".join(stamp_of(file) for file in files if os.path.exists(file))
    return hashlib.sha256(text.encode()).hexdigest()


def stamp_of(path: str) -> str:
    """Differs between versions of a file."""
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns}"


class Journal:
    """What was predicted, a line each, as soon as it is drawn; a run that is killed leaves whole lines.

    Each rank writes a file of its own and reads those of all; all ranks have to make one at the same time.

    Args:
        folder: where it is kept; None: nowhere.
        fingerprint: predictions of a journal with another one are forgotten.

    Raises:
        FileError: nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike | None, fingerprint: str):
        self._records: dict[str, dict] = {}
        file = Path(folder, f".predictions.rank{comm.get_rank()}.jsonl") if folder is not None else Path(os.devnull)
        if folder is not None:
            old = sorted(Path(folder).glob(".predictions.rank*.jsonl"))
            for journal in old:
                self._records.update(_read(journal, fingerprint))
            comm.synchronize()
            if comm.is_main_process():
                _write(file, fingerprint, self._records.values())
            comm.synchronize()  # what the others had is safe
            if not comm.is_main_process():
                _write(file, fingerprint)
            elif comm.get_world_size() == 1:
                for journal in set(old) - {file}:
                    journal.unlink()
        self._file = open(file, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str, stamp: str, drawing: str, part: str = "") -> list[dict] | None:
        """The detections on a file; None where it has changed since, or its drawing is gone.

        Args:
            part: what will become a part of the drawing, and does for it.
        """
        record = self._records.get(key)
        if record is None or (record["stamp"], record["drawing"]) != (stamp, drawing):
            return None
        return record["detections"] if os.path.exists(drawing) or (part and os.path.exists(part)) else None

    def add(self, key: str, stamp: str, drawing: str, detections: list[dict]) -> None:
        record = {"key": key, "stamp": stamp, "drawing": drawing, "detections": detections}
        self._records[key] = record
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def _write(file: Path, fingerprint: str, records: Iterable[dict] = ()) -> None:
    with atomic_write(file, text=True) as f:
        for line in ({"fingerprint": fingerprint}, *records):
            f.write(json.dumps(line) + "\n")


def _read(file: Path, fingerprint: str) -> dict[str, dict]:
    records = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for i, line in enumerate(lines):
        try:
            content = json.loads(line)
        except ValueError:  # it was being written when the run was killed
            break
        if i == 0 and content.get("fingerprint") != fingerprint:
            break
        if i:
            records[content["key"]] = content
    return records


def category_ids(json_files: Sequence[str], metadata: Metadata) -> dict[int, int]:
    """{class of the model, from 0: id to write}.

    Ids are those that the json files give the classes' names, else those of Detectron2's data set, else 1, 2 and so on.

    Raises:
        UserError: the files give a name different ids.
    """
    names = list(metadata.get("thing_classes", ()))
    by_name: dict[str, int] = {}
    for file in json_files:
        categories = read_json(file).get("categories") or ()
        for category in (c for c in categories if isinstance(c, dict) and {"id", "name"} <= set(c)):
            if by_name.setdefault(str(category["name"]), category["id"]) != category["id"]:
                raise UserError(f"--input {file}: the category {category['name']} has another id than in files before")
    if by_name:
        unused = itertools.count(max(by_name.values()) + 1)
        return {i: by_name[name] if name in by_name else next(unused) for i, name in enumerate(names)}
    if known := metadata.get("thing_dataset_id_to_contiguous_id"):
        return {i: number for number, i in known.items()}
    return {}


def coco_results(inputs: Sequence[ImageFile | Video], found: dict, ids: dict[int, int]) -> list[dict]:
    """COCO's results with a "file_name" each, in the order of the inputs.

    Images that no json gives an id, and frames of videos, are numbered from 1, or from behind the ids of the json.

    Args:
        inputs: in the order of their numbers.
        found: {(path, number of the frame or None): detections}.
        ids: of :func:`category_ids`.
    """
    given = [item.image_id for item in inputs if isinstance(item, ImageFile) and isinstance(item.image_id, int)]
    unused = itertools.count(max(given, default=0) + 1)
    entries = []
    for item in inputs:
        frames = [None] if isinstance(item, ImageFile) else sorted(n for path, n in found if path == item.path)
        for number in frames:
            image_id = getattr(item, "image_id", None)
            image_id = next(unused) if image_id is None else image_id
            name = item.path if number is None else f"{item.path}#{number}"
            for detection in found.get((item.path, number), ()):
                category = ids.get(detection["category_id"], detection["category_id"] + 1)
                entries.append({**detection, "image_id": image_id, "category_id": category, "file_name": name})
    return entries


def write_predictions(folder: str | os.PathLike, entries: list[dict], ids: dict[int, int], names: Sequence) -> None:
    """Writes predictions.json, which pycocotools' ``loadRes`` reads, and predictions.csv.

    Args:
        entries: those of :func:`coco_results`.
        ids: of :func:`category_ids`.
        names: of the model's classes.

    Raises:
        FileError: they cannot be written.
    """
    by_id = {ids.get(i, i + 1): name for i, name in enumerate(names)}
    with atomic_write(Path(folder) / "predictions.json", text=True) as f:
        json.dump(entries, f)
    with atomic_write(Path(folder) / "predictions.csv", text=True) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in entries:
            category = entry["category_id"]
            row = [entry["file_name"], entry["image_id"], by_id.get(category, category), category, entry["score"]]
            writer.writerow([*row, *entry["bbox"]])
