"""The names that evaluations give their results, as metrics.json has them."""

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from libra_d2.data.class_names import thing_classes

_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_METRICS = {"lvis": (*_COCO, "APr", "APc", "APf"), "pascal_voc": ("AP", "AP50", "AP75")}


VALIDATION_LOSS = "validation_loss"


def lower_is_better(name: str) -> bool:
    """Whether a metric is a loss; of all others, such as AP, higher values are better."""
    return VALIDATION_LOSS in name.replace("_EMA/", "/").split("/")


def metric_names(cfg: CfgNode) -> list[str]:
    """What the evaluations of a run report, e.g. "bbox/AP" or "bbox/AP-tree"; with several test sets "NAME/bbox/AP".

    Of the validation losses it has their sum alone: what a model calls the others is not known before it is built.
    """
    suffixes = ("", "_EMA") if cfg.MODEL.LIBRA.TRAIN.EMA_DECAY else ("",)
    several = len(cfg.DATASETS.TEST) > 1
    return [
        f"{dataset}{suffix}/{task}/{metric}" if several else f"{task}{suffix}/{metric}"
        for suffix in suffixes
        for dataset in cfg.DATASETS.TEST
        for task, metric in _of_dataset(cfg, dataset)
    ]


def _of_dataset(cfg: CfgNode, dataset: str) -> Iterable[tuple[str, str]]:
    kind = MetadataCatalog.get(dataset).get("evaluator_type", "coco")
    metrics = list(_METRICS.get(kind, _COCO))
    classes = thing_classes(dataset)
    if kind not in _METRICS and len(classes) > 1:  # with a single class Detectron2 leaves it at the AP of all
        metrics += [f"AP-{name}" for name in classes]
    has_masks = cfg.MODEL.MASK_ON and kind != "pascal_voc"
    yield from ((task, metric) for task in ("bbox", "segm")[: 1 + has_masks] for metric in metrics)
    if cfg.MODEL.LIBRA.TRAIN.VALIDATION_LOSS:
        yield VALIDATION_LOSS, "total_loss"
