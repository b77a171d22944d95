"""A COCO data set of coloured rectangles and a config that trains on it in seconds."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}, {"id": 11, "name": "blue"}]
# For the MODEL of write_config: all of Libra, the pyramid beginning as the identity
LIBRA = {
    "META_ARCHITECTURE": "LibraRCNN",
    "PROPOSAL_GENERATOR": {"NAME": "LibraRPN"},
    "ROI_HEADS": {"NAME": "LibraROIHeads"},
    "ROI_BOX_HEAD": {"BBOX_REG_LOSS_TYPE": "balanced_l1"},
    "LIBRA": {"BFP": {"ENABLED": True, "INIT": "identity"}},
}
COLOURS = {7: (220, 30, 30), 3: (30, 200, 30), 11: (30, 30, 220)}


def write_dataset(folder: Path, num_images: int = 8, seed: int = 0) -> tuple[Path, Path]:
    """Writes images, wide and tall ones in turn, and their annotations. Returns (json file, image folder)."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for image_id in range(1, num_images + 1):
        height, width = (64, 96) if image_id % 3 else (96, 64)
        pixels = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
        for category_id in rng.permutation([7, 3, 11])[: rng.integers(1, 4)].tolist():
            w, h = rng.integers(16, 33, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLOURS[category_id]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        name = f"{image_id:03d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return file, folder / "images"


def write_config(file: Path, **overrides) -> Path:
    """Writes Detectron2's own Faster R-CNN, a sixteenth as wide; ``MODEL={...}`` and the like are merged into it."""
    content = {
        "SEED": 1,
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
            "LIBRA": {"BFP": {"ENABLED": False}},
            "RESNETS": {
                "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
                "NORM": "BN",
                "STEM_OUT_CHANNELS": 8,
                "WIDTH_PER_GROUP": 4,
                "RES2_OUT_CHANNELS": 16,
            },
            "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
            "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
            "RPN": {
                "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
                "PRE_NMS_TOPK_TRAIN": 100,
                "PRE_NMS_TOPK_TEST": 50,
                "POST_NMS_TOPK_TRAIN": 50,
                "POST_NMS_TOPK_TEST": 20,
            },
            "ROI_HEADS": {
                "NAME": "StandardROIHeads",
                "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                "BATCH_SIZE_PER_IMAGE": 16,
            },
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 32, "POOLER_RESOLUTION": 7},
            "RETINANET": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "NUM_CONVS": 1},
        },
        "INPUT": {"MIN_SIZE_TRAIN": [64, 72], "MIN_SIZE_TEST": 64, "MAX_SIZE_TRAIN": 128, "MAX_SIZE_TEST": 128},
        "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.005, "MAX_ITER": 6, "WARMUP_ITERS": 2, "STEPS": [4]},
        "DATALOADER": {"NUM_WORKERS": 0},
    }
    _merge(content, overrides)
    file.write_text(yaml.safe_dump(content))
    return file


def _merge(into: dict, other: dict) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
