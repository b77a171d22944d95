from .arguments import ConfigError, argument_parser, given_keys, load_config
from .predictor import build_predictor
from .trainer import LibraTrainer

__all__ = ["ConfigError", "LibraTrainer", "argument_parser", "build_predictor", "given_keys", "load_config"]
