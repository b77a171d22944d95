"""Annotations drawn on their image, by Detectron2's Visualizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import Visualizer

from libra_d2.data.random_state import preserved_rng, seed_cpu

_DRAWN = ("bbox", "bbox_mode", "category_id", "iscrowd", "segmentation")


def draw_annotations(image: np.ndarray, annotations: Sequence[dict], class_names: Sequence[str]) -> np.ndarray:
    """The image with the boxes, masks and class names of its objects; a crowd's name ends in "|crowd".

    Args:
        image: uint8 [H, W, 3], RGB.
        annotations: those of a Detectron2 dataset dict; some may have a "segmentation" and others none.
        class_names: by "category_id".

    Returns:
        uint8 [H, W, 3], RGB.
    """
    visualizer = Visualizer(image, Metadata(thing_classes=list(class_names)))
    shown = [{key: annotation[key] for key in _DRAWN if key in annotation} for annotation in annotations]
    with preserved_rng():
        seed_cpu(0)  # Detectron2 draws the colours
        for has_mask in (True, False):  # it asks the first annotation whether all have one
            alike = [annotation for annotation in shown if ("segmentation" in annotation) == has_mask]
            visualizer.draw_dataset_dict({"annotations": alike})
    return visualizer.output.get_image()
