"""The class names of your own data, where Detectron2's predictor and visualizer look for them."""

from detectron2.data import MetadataCatalog

OWN_DATASETS = ("libra_train", "libra_val")


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
