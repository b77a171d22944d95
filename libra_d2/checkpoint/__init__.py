from .checkpointer import LibraCheckpointer

__all__ = ["LibraCheckpointer"]
