import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.engine.tiny import CATEGORIES, write_dataset


@pytest.fixture
def own_dataset(tmp_path):
    """The json file of a data set of boxes and masks, known to Detectron2 as "own"."""
    json_file, _ = write_dataset(tmp_path)
    DatasetCatalog.register("own", list)
    MetadataCatalog.get("own").set(
        json_file=str(json_file),
        thing_classes=[category["name"] for category in CATEGORIES],
        thing_dataset_id_to_contiguous_id={category["id"]: i for i, category in enumerate(CATEGORIES)},
    )
    yield json_file
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")
