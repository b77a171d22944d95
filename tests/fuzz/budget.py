"""How long fuzzing goes on: a short, repeatable run among the tests, minutes of new cases with `make fuzz`."""

import contextlib
import os
import resource
import sys

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def budget(share: float = 1.0) -> settings:
    """Settings for a test whose cases cost ``1 / share`` as much as those of a cheap one."""
    return settings(
        max_examples=max(20, int((EXAMPLES or 200) * share)),
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def little_memory(more: int = 1 << 30):
    """Inside, taking ``more`` bytes than there are now fails: a few bytes of a file must not ask for that."""
    if not sys.platform.startswith("linux"):
        yield
        return
    with open("/proc/self/statm") as f:
        size = int(f.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
