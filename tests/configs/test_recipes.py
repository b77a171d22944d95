"""The configs that people start from: each builds, and is Detectron2's recipe but for what makes it Libra."""

import re
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

import libra_d2
from tests.configs.test_ablations import difference

CONFIGS = Path(libra_d2.__file__).parents[1] / "configs"
LEAVES = sorted(
    path for folder in (CONFIGS, CONFIGS / "finetune", CONFIGS / "quickstart") for path in folder.glob("libra_*")
)


def load(path):
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_builds(path):
    cfg = load(path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        build_model(cfg)


PARTS = {
    "META_ARCHITECTURE",
    "PROPOSAL_GENERATOR.NAME",
    "ROI_HEADS.NAME",
    "ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
    "RPN.POST_NMS_TOPK_TRAIN",
}
RECIPES = {
    "libra_faster_rcnn": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", PARTS),
    "libra_mask_rcnn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", PARTS),
    "libra_cascade_rcnn": ("Misc/cascade_mask_rcnn_R_50_FPN_1x", {*PARTS, "MASK_ON"}),
    "libra_fast_rcnn": ("COCO-Detection/fast_rcnn_R_50_FPN_1x", PARTS),
    "libra_retinanet": (
        "COCO-Detection/retinanet_R_50_FPN_1x",
        {"META_ARCHITECTURE", "RETINANET.BBOX_REG_LOSS_TYPE", "LIBRA.BALANCED_L1.BETA"},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_is_detectron2s_but_for_what_makes_it_libra(name):
    theirs, parts = RECIPES[name]
    cfg, other = load(CONFIGS / f"{name}_R_50_FPN_1x.yaml"), libra_d2.get_cfg()
    other.merge_from_file(model_zoo.get_config_file(f"{theirs}.yaml"))
    assert {key.removeprefix("MODEL.") for key in difference(cfg, other)} <= parts


LIBRA_OFF = {"SAMPLER.POSITIVE", "SAMPLER.NEGATIVE", "RPN.NEG_POS_UB", "RPN.NORMALIZER", "BFP.ENABLED", "BFP.INIT"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("libra_*")), ids=lambda path: path.stem)
def test_fine_tuning_is_the_zoos_recipe_of_that_name_with_balanced_l1_and_starts_from_its_model(path):
    cfg, other = load(path), libra_d2.get_cfg()
    known = model_zoo.model_zoo._ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX
    (config,) = [config for config, url in known.items() if cfg.MODEL.WEIGHTS == f"detectron2://{config}/{url}"]
    assert {*path.stem.split("_")} - {"libra", "1x"} <= {*re.split("[_/]", config)}
    other.merge_from_file(model_zoo.get_config_file(f"{config}.yaml"))
    changed = {
        key.removeprefix("MODEL.") for key in difference(cfg, other) if not key.startswith(("SOLVER.", "MODEL.WEIGHTS"))
    }
    classes = {"META_ARCHITECTURE", "PROPOSAL_GENERATOR.NAME", "ROI_HEADS.NAME"}
    of_libra = {key.removeprefix("LIBRA.") for key in changed if key.startswith("LIBRA.")}
    if "retinanet" in path.stem:
        assert of_libra == {"BALANCED_L1.BETA", "BFP.ENABLED", "BFP.INIT"}
    else:
        assert of_libra == LIBRA_OFF
    (loss,) = {key for key in changed if not key.startswith("LIBRA.")} - classes
    assert loss.endswith("BBOX_REG_LOSS_TYPE")
