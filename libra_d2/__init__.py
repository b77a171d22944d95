"""Libra R-CNN (Pang et al., CVPR 2019) for Detectron2."""

from libra_d2.config import add_libra_config, get_cfg

__version__ = "0.2.0"
__all__ = ["add_libra_config", "get_cfg"]
