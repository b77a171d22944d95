from .coco_json import check_paths, complete_config, register_datasets
from .preflight import check_datasets

__all__ = ["check_datasets", "check_paths", "complete_config", "register_datasets"]
