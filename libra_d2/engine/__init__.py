from .arguments import ConfigError, argument_parser, given_keys, load_config
from .trainer import LibraTrainer

__all__ = ["ConfigError", "LibraTrainer", "argument_parser", "given_keys", "load_config"]
