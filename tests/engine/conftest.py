import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from libra_d2.config import get_cfg
from libra_d2.data import complete_config, register_datasets
from tests.engine.tiny import write_config, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    yield write_dataset(folder / "train"), write_dataset(folder / "val", 2, seed=1)
    for name in ("libra_train", "libra_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def config(data, tmp_path):
    def build(output="out", opts=(), **overrides):
        cfg = get_cfg()
        cfg.merge_from_file(str(write_config(tmp_path / "tiny.yaml", **overrides)))
        (train, train_images), (val, val_images) = data
        cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / output), *opts])
        cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.MODEL.LIBRA.DATA.TRAIN_IMAGES = str(train), str(train_images)
        cfg.MODEL.LIBRA.DATA.VAL_JSON, cfg.MODEL.LIBRA.DATA.VAL_IMAGES = str(val), str(val_images)
        complete_config(cfg)
        register_datasets(cfg)
        (tmp_path / output).mkdir(exist_ok=True)
        return cfg

    return build
