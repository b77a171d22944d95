"""Memory that torch frees on a CPU stays with the process, which needs it again in the next step.

By itself glibc gives each large block back to the kernel, which fills the next one with zeros, page by page: with
images of 800 px that is a seventh to a quarter of a step (benchmarks/bm_freed_memory.py).
"""

import ctypes
import os
import platform

from detectron2.config import CfgNode

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory(cfg: CfgNode) -> bool:
    """Sets glibc's malloc for the rest of this process, which may then hold more memory than it ever used at once.

    Does nothing where the model is not on the CPU, where ``MODEL.LIBRA.KEEP_FREED_MEMORY`` is False, where malloc is
    not glibc's, and where the user has set it up by ``MALLOC_...`` or ``GLIBC_TUNABLES``.

    Returns:
        Whether it was set.
    """
    if not cfg.MODEL.LIBRA.KEEP_FREED_MEMORY or cfg.MODEL.DEVICE != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
