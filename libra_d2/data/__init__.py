from .coco_json import check_paths, check_validation, complete_config, register_datasets

__all__ = ["check_paths", "check_validation", "complete_config", "register_datasets"]
