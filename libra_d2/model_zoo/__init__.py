"""The configs that come with libra_d2, by name, as Detectron2's model_zoo has its own."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.model_zoo.model_zoo import get, get_config, get_config_file

__all__ = ["get", "get_config", "get_config_file"]
