"""Your own data as COCO json files, named by MODEL.LIBRA.DATA; no code has to be written."""

import functools
import logging
import os
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from libra_d2.checks import FileError, UserError, value_of
from libra_d2.data.class_names import OWN_DATASETS, TrainedClasses, refuse_unknown, thing_classes
from libra_d2.data.json_file import in_plain_utf8, read_json

logger = logging.getLogger(__name__)

TRAIN, VAL = OWN_DATASETS
_NUM_CLASSES_KEYS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")
_DETECTRON2_NUM_CLASSES = 80


def complete_config(cfg: CfgNode, given: Collection[str] = (), trained: TrainedClasses | None = None) -> None:
    """Fills in what follows from ``MODEL.LIBRA.DATA``: data sets, class names and their number.

    The class names are those of the weights where they say them; a json may list them in another order, or fewer.
    Otherwise they are those of the training json, ordered by id, unless ``CLASS_NAMES`` lists them. ``NUM_CLASSES`` is
    their number; a larger one that was given is kept. Without ``TRAIN_JSON`` and ``VAL_JSON`` the config names
    Detectron2's own data sets, and keeps their classes unless the weights have others.

    Args:
        cfg: is changed.
        given: keys from the command line, which a json must not override.
        trained: the classes of the weights, which the model is to keep.

    Raises:
        UserError: a json without its image folder, without categories, with more classes than were given, or with
            classes that the weights do not know.
        FileError: a json that cannot be read.
    """
    data = cfg.MODEL.LIBRA.DATA
    if not data.TRAIN_JSON and not data.VAL_JSON:
        of_dataset = [thing_classes(name) for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)]
        if trained and (data.CLASS_NAMES or trained.names not in of_dataset):
            _set_classes(cfg, given, list(data.CLASS_NAMES), "MODEL.LIBRA.DATA.CLASS_NAMES", trained)
        return
    for split in ("TRAIN", "VAL"):
        if bool(data[f"{split}_JSON"]) != bool(data[f"{split}_IMAGES"]):
            flag = f"--{split.lower()}"
            raise UserError(f"{flag}-json and {flag}-images (MODEL.LIBRA.DATA.{split}_*) have to be given together")
        for kind in ("JSON", "IMAGES"):
            path = data[f"{split}_{kind}"]
            if path and "://" not in path:
                data[f"{split}_{kind}"] = os.path.abspath(path)

    if data.TRAIN_JSON and "DATASETS.TRAIN" not in given:
        cfg.DATASETS.TRAIN = (TRAIN,)
    if "DATASETS.TEST" not in given:
        cfg.DATASETS.TEST = (VAL,) if data.VAL_JSON else ()

    source = "MODEL.LIBRA.DATA.CLASS_NAMES" if data.CLASS_NAMES else data.TRAIN_JSON or data.VAL_JSON
    names = list(data.CLASS_NAMES) or read_class_names(source)
    _set_classes(cfg, given, names, source, trained)


def _set_classes(cfg, given, names, source, trained) -> None:
    sizes = {key: value_of(cfg, key) for key in _NUM_CLASSES_KEYS}
    if trained:
        refuse_unknown(names, trained.names, source, trained.file)
        names = list(trained.names)
    for key, size in sizes.items():
        if key in given and (size < len(names) or (trained and size > len(names))):
            raise UserError(f"{key} is {size}, but there are {len(names)} classes: {', '.join(names)}")
    if not trained:
        asked = [size for key, size in sizes.items() if key in given or size != _DETECTRON2_NUM_CLASSES]
        # A model may have more classes than the json; Detectron2's evaluator asks for a name for each.
        names += [f"class {i}" for i in range(len(names), max(asked, default=0))]
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = names
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(names)


def check_paths(cfg: CfgNode, splits: Collection[str]) -> None:
    """Raises FileError where a json or image folder of these splits, "TRAIN" or "VAL", does not exist."""
    data = cfg.MODEL.LIBRA.DATA
    for key in (f"{split}_{kind}" for split in splits for kind in ("JSON", "IMAGES")):
        path = data[key]
        if path and not PathManager.exists(path):
            raise FileError(f"MODEL.LIBRA.DATA.{key}: there is no {path}")


def read_class_names(json_file: str) -> list[str]:
    """The category names of a COCO json, ordered by category id."""
    return names_in(read_json(json_file), json_file)


def names_in(content: dict, json_file: str) -> list[str]:
    """The category names of a COCO json that was read before, ordered by category id."""
    categories = content.get("categories")
    if not categories or not isinstance(categories, list):
        raise UserError(f'{json_file}: expected a COCO json file with "categories", got none')
    if not all(isinstance(category, dict) and "id" in category and "name" in category for category in categories):
        raise UserError(f"{json_file}: expected an id and a name in each of its categories, got a category without")
    ids = [category["id"] for category in categories]
    if not all(isinstance(i, int | float) for i in ids) and not all(isinstance(i, str) for i in ids):
        raise UserError(f"{json_file}: expected integers as ids of its categories, got {ids}")
    names = [str(category["name"]) for category in sorted(categories, key=lambda category: category["id"])]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{json_file}: expected different category names, got {', '.join(twice)} more than once")
    return names


def register_datasets(cfg: CfgNode) -> None:
    """Registers the data sets of ``MODEL.LIBRA.DATA`` with Detectron2. Files are read when the data are asked for.

    Calling it again does nothing, or replaces what the config no longer says.
    """
    data = cfg.MODEL.LIBRA.DATA
    names = tuple(data.CLASS_NAMES)
    for name, json_file, images in ((TRAIN, data.TRAIN_JSON, data.TRAIN_IMAGES), (VAL, data.VAL_JSON, data.VAL_IMAGES)):
        if not json_file:
            continue
        load = functools.partial(load_dicts, name, json_file, images, names)
        if name in DatasetCatalog:
            if DatasetCatalog[name].args == load.args:
                continue
            DatasetCatalog.remove(name)
        if name in MetadataCatalog:
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(thing_classes=list(names), evaluator_type="coco", image_root=images)


def complete_metadata(name: str) -> Metadata:
    """Those of a data set that is to be evaluated: "json_file" is there if COCO's evaluation can read it as it is.

    That is known once the data have been loaded; an evaluator that is made before would take a copy for the json.
    """
    metadata = MetadataCatalog.get(name)
    if not metadata.get("json_file"):
        DatasetCatalog.get(name)
    return metadata


def load_dicts(name: str, json_file: str, images: str, class_names: Collection[str]) -> list[dict]:
    """Detectron2's dataset dicts of a COCO json, labelled by the place of the category's name in ``class_names``.

    Going by names lets the validation json list its categories in another order, or only some of them.

    Raises:
        UserError: a category that is not in ``class_names``.
    """
    scratch = f"{name} as its json has it"
    if scratch in MetadataCatalog:
        MetadataCatalog.remove(scratch)
    with in_plain_utf8(json_file) as readable:
        dicts = load_coco_json(readable, images, scratch, extra_annotation_keys=["area", "id"])
    found = MetadataCatalog.get(scratch)
    found_names, class_names = [str(name) for name in found.thing_classes], list(class_names)
    refuse_unknown(found_names, class_names, json_file)
    to_class = [class_names.index(name) for name in found_names]
    # What COCO's evaluation needs: the same categories, areas, crowd flags, and no id 0, which it takes for "unmatched"
    complete = found_names == class_names and readable == json_file
    for annotation in (a for record in dicts for a in record["annotations"]):
        area, number = annotation.pop("area", None), annotation.pop("id")
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise UserError(
                f"{json_file}, annotation {number}: iscrowd: expected 0 or 1, got {annotation['iscrowd']!r}; write 0 "
                "for a single object"
            )
        complete &= area is not None and number != 0 and "iscrowd" in annotation
        annotation["category_id"] = to_class[annotation["category_id"]]
    if complete:
        # The evaluator may read the json itself; otherwise it converts these dicts, which have all it needs.
        MetadataCatalog.get(name).set(
            json_file=json_file,
            thing_dataset_id_to_contiguous_id=found.thing_dataset_id_to_contiguous_id,
        )
    return dicts
