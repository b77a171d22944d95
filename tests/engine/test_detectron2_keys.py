"""What docs/detectron2_keys.md calls tested: training takes a step with it and learns from a finite loss."""

import math

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase

from libra_d2.config import get_cfg
from libra_d2.data import complete_config, register_datasets
from libra_d2.engine import LibraTrainer
from tests.engine.tiny import write_config, write_dataset

LIBRA = {
    "META_ARCHITECTURE": "LibraRCNN",
    "PROPOSAL_GENERATOR": {"NAME": "LibraRPN"},
    "ROI_HEADS": {"NAME": "LibraROIHeads"},
    "LIBRA": {"BFP": {"ENABLED": True}},
}
SMALL_MASK_HEAD = ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
KEYS = {
    "precise batch normalisation": ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2],
    "pictures while training": ["VIS_PERIOD", 1],
    "sigmoid": ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True],
    "boxes of no class": ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True],
    "predicted boxes": ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True],
    "GIoU": ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"],
    "masks of no class": ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True, *SMALL_MASK_HEAD],
    "bit masks": ["MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask", *SMALL_MASK_HEAD],
    "cosine": ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.001],
    "a range of sizes": ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
    "rare classes more often": [
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.REPEAT_THRESHOLD", 0.5),
    ],
    "Nesterov, biases of their own": ["SOLVER.NESTEROV", True, "SOLVER.BIAS_LR_FACTOR", 2.0],
    "clipping by norm": ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"],
    "levels averaged in FPN": ["MODEL.FPN.FUSE_TYPE", "avg", "MODEL.FPN.NORM", "BN"],
    "a batch for more processes": ["SOLVER.REFERENCE_WORLD_SIZE", 2, "SOLVER.IMS_PER_BATCH", 4],
    "crops": ["INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "none"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    yield write_dataset(tmp_path_factory.mktemp("data"), num_images=4)
    DatasetCatalog.remove("libra_train")
    MetadataCatalog.remove("libra_train")


@pytest.mark.parametrize("opts", KEYS.values(), ids=KEYS)
def test_training_takes_it(opts, data, tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(str(write_config(tmp_path / "tiny.yaml", MODEL=LIBRA)))
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 1, *opts])
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.MODEL.LIBRA.DATA.TRAIN_IMAGES = map(str, data)
    complete_config(cfg)
    register_datasets(cfg)
    losses = []

    class Losses(HookBase):
        def after_step(self):
            losses.append(self.trainer.storage.latest()["total_loss"][0])

    trainer = LibraTrainer(cfg)
    trainer.register_hooks([Losses()])
    trainer.train()
    assert losses
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
