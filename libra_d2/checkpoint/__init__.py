from .checkpointer import LibraCheckpointer, by_module

__all__ = ["LibraCheckpointer", "by_module"]
