"""The data of a run, checked before it starts: hours later is too late."""

import logging
import time
from collections.abc import Collection

from detectron2.config import CfgNode

from libra_d2.checks import UserError
from libra_d2.data.class_names import OWN_DATASETS, refuse_unknown, thing_classes
from libra_d2.data.coco_json import names_in
from libra_d2.data.json_file import read_json
from libra_d2.data.validate import content_faults
from libra_d2.data.validate.boxes import is_closed

logger = logging.getLogger(__name__)

_NAMED = 3


def check_datasets(cfg: CfgNode, splits: Collection[str]) -> None:
    """Finds what would stop a run, spoil what it learns, or stop its evaluation; call ``complete_config`` first.

    Your own json files are checked as ``libra-d2 check`` checks them. Of the training images the headers are read, of
    the validation images every pixel.

    Args:
        cfg: a config.
        splits: the data sets that the run reads, "TRAIN" and "VAL".

    Raises:
        UserError: it names the first errors and the command that lists all.
        FileError: a json cannot be read.
    """
    data = cfg.MODEL.LIBRA.DATA
    for split in splits:
        if data[f"{split}_JSON"]:
            _check_own(cfg, split, data[f"{split}_JSON"], data[f"{split}_IMAGES"])
        for dataset in cfg.DATASETS.TRAIN if split == "TRAIN" else cfg.DATASETS.TEST:
            names, found = list(data.CLASS_NAMES), thing_classes(dataset)
            if dataset not in OWN_DATASETS and names and found and names != found:
                raise UserError(
                    f"DATASETS.{'TRAIN' if split == 'TRAIN' else 'TEST'}: {dataset} has the classes {found}, the model "
                    f"has {names} (MODEL.LIBRA.DATA.CLASS_NAMES); both have to be the same"
                )


def _check_own(cfg, split, json_file, images) -> None:
    start = time.perf_counter()
    command = f"libra-d2 check {json_file} {images}"
    content = read_json(json_file)
    errors, warnings = [], 0
    max_size = cfg.INPUT.MAX_SIZE_TRAIN if split == "TRAIN" else cfg.INPUT.MAX_SIZE_TEST
    for fault in content_faults(content, json_file, images, decode=split == "VAL", max_size=max_size):
        if fault.severity == "warning":
            warnings += 1
            continue
        errors.append(f"{fault.where}: {fault.what}")
        if len(errors) > _NAMED:
            break
    if errors:
        rest = "; and more" if len(errors) > _NAMED else ""
        raise UserError(f"{json_file} cannot be used: {'; '.join(errors[:_NAMED])}{rest}. `{command}` lists all")
    refuse_unknown(names_in(content, json_file), cfg.MODEL.LIBRA.DATA.CLASS_NAMES, json_file)
    _check_use(cfg, split, json_file, content.get("annotations", []), "annotations" in content)
    seconds = time.perf_counter() - start
    logger.info(f"Checked {json_file} and its {len(content['images'])} images in {seconds:.1f} s: no errors")
    if warnings:
        logger.warning(f"{json_file}: {warnings} warnings, `{command}` lists them")


def _check_use(cfg, split, json_file, annotations, is_annotated) -> None:
    """What depends on the config."""
    objects = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    if not objects and (is_annotated or split == "TRAIN"):
        raise UserError(
            f"{json_file}: expected annotations that are no crowds, got none: there is nothing to "
            f"{'train' if split == 'TRAIN' else 'evaluate'} on"
        )
    if not cfg.MODEL.MASK_ON:
        return
    masked = objects if split == "TRAIN" else annotations  # COCO's evaluation asks for the masks of crowds, too
    without = [annotation for annotation in masked if not annotation.get("segmentation")]
    if without:
        raise UserError(
            f"{json_file}: expected a segmentation in every annotation, because of MODEL.MASK_ON, got {len(without)} "
            f"without, the first in image {without[0].get('image_id')}; MODEL.MASK_ON False is for boxes"
        )
    run_lengths = any(isinstance(annotation["segmentation"], dict) for annotation in masked)
    if split == "TRAIN" and run_lengths and cfg.INPUT.MASK_FORMAT == "polygon":
        raise UserError(f"{json_file}: expected polygons, got run-length masks; add INPUT.MASK_FORMAT bitmask")
    for annotation in masked if split == "VAL" else ():
        polygons = annotation["segmentation"]
        if isinstance(polygons, list) and not all(map(is_closed, polygons)):
            raise UserError(
                f"{json_file}: expected polygons of three points or more, because COCO's evaluation of masks takes "
                f"others for boxes, got {polygons} in annotation {annotation['id']}"
            )
