"""The class names of your own data, where Detectron2's predictor and visualizer look for them."""

from collections.abc import Collection
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from libra_d2.checks import UserError

OWN_DATASETS = ("libra_train", "libra_val")


class TrainedClasses(NamedTuple):
    """The classes that weights were trained on, in the order of the model's outputs."""

    file: str
    names: list[str]


def class_names_of(cfg: CfgNode) -> list[str]:
    """The classes that a config trains on; none where neither it nor its data set says them."""
    names = list(cfg.MODEL.LIBRA.DATA.CLASS_NAMES)
    return names or (thing_classes(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else [])


def thing_classes(dataset: str) -> list[str]:
    """The classes of a data set that is registered with Detectron2; none where its metadata do not say them."""
    names = MetadataCatalog.get(dataset).get("thing_classes", ()) if dataset in MetadataCatalog else ()
    return [str(name) for name in names]


def refuse_unknown(found: Collection[str], class_names: Collection[str], source: str, weights: str = "") -> None:
    """Raises UserError where ``source`` lists a class that the model does not have, or that ``weights`` do not know."""
    unknown = [name for name in found if name not in class_names]
    if unknown:
        remedy = (
            f"that {weights} was trained on: take weights of these classes, or remove them"
            if weights
            else "(MODEL.LIBRA.DATA.CLASS_NAMES; an empty list takes them from the training json)"
        )
        listed = "" if len(unknown) == len(found) else f" ({source} lists {list(found)})"
        raise UserError(
            f"{source}: the categories {unknown} are not among the classes {list(class_names)} {remedy}{listed}"
        )


def publish_class_names(cfg) -> None:
    """Puts ``MODEL.LIBRA.DATA.CLASS_NAMES`` into the metadata of the data sets that train_net.py makes of json files.

    So ``DefaultPredictor(cfg).metadata`` has them, with nothing but the saved config. Those of another config that the
    process used before are replaced; who holds their metadata keeps it.
    """
    names = list(cfg.MODEL.LIBRA.DATA.CLASS_NAMES)
    if not names:  # this config does not say: what a registered data set found out for itself stays
        return
    for dataset in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}.intersection(OWN_DATASETS):
        if MetadataCatalog.get(dataset).get("thing_classes", names) != names:
            MetadataCatalog.remove(dataset)
        MetadataCatalog.get(dataset).set(thing_classes=names)
