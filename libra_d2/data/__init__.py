from .coco_json import check_paths, complete_config, register_datasets

__all__ = ["check_paths", "complete_config", "register_datasets"]
