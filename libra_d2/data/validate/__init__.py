"""What is wrong with a COCO json and its images, found before training finds it."""

from libra_d2.data.validate.fault import Fault
from libra_d2.data.validate.find import content_faults, find_faults, read_content

__all__ = ["Fault", "content_faults", "find_faults", "read_content"]
