"""The keys that libra_d2 adds, and reading a config from a file and the command line."""

from libra_d2.config.keys import add_libra_config, get_cfg

__all__ = ["add_libra_config", "get_cfg"]
