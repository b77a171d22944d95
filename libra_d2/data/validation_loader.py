"""The images whose losses an evaluation computes: with annotations, as in training, and at the size of a test."""

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from torch.utils.data import DataLoader

from libra_d2.checks import UserError
from libra_d2.data.proposals import evaluation_records
from libra_d2.data.subset import evenly_spread
from libra_d2.data.train_loader import check_masks


def build_validation_loader(cfg: CfgNode, dataset_name: str, limit: int) -> DataLoader:
    """Batches of one image each, as a model in training mode takes them, with their ``position`` in the data set.

    Ranks share the images. Those that training would leave out (``DATALOADER.FILTER_EMPTY_ANNOTATIONS``) are left out.

    Args:
        dataset_name: one of ``DATASETS.TEST``.
        limit: take this many, evenly spread over the data set; -1: take all.

    Raises:
        UserError: there is no image to compute losses on, or no masks for a model that learns masks.
    """
    records = [record for record in evaluation_records(cfg, dataset_name) if "annotations" in record]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [record for record in records if any(not a.get("iscrowd", 0) for a in record["annotations"])]
    if not records:
        raise UserError(
            f"MODEL.LIBRA.TRAIN.VALIDATION_LOSS: expected annotated images in {dataset_name}, got none; 0 switches the "
            "validation loss off"
        )
    if cfg.MODEL.MASK_ON:
        check_masks(records)
    records = [{**record, "position": i} for i, record in enumerate(records)]
    parts = DatasetMapper.from_config(cfg, True)
    parts |= {"augmentations": build_augmentation(cfg, False), "recompute_boxes": False}
    return build_detection_test_loader(
        evenly_spread(records, len(records) if limit < 0 else limit),
        mapper=DatasetMapper(**parts),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
