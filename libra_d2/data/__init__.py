"""Data sets in COCO json: read, checked, registered and loaded."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.data.coco_json import check_paths, complete_config, register_datasets
from libra_d2.data.preflight import check_datasets

__all__ = ["check_datasets", "check_paths", "complete_config", "register_datasets"]
