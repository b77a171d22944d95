"""What a user can do about errors that torch raises without saying it."""

import re

_REMEDIES = (
    (
        r"Timed out waiting|timed out after|Wait timeout|Timed out after",
        "waited for another rank longer than --dist-timeout: its process is stopped, or the network between the "
        "machines is down; continue with --resume",
    ),
    (
        r"Connection closed by peer|Connection reset|Broken pipe|\[gloo\]|third_party/gloo|Socket Timeout|recvBytes",
        "lost the connection to another rank; that rank's output, or its log.txt.rankN in OUTPUT_DIR, says why",
    ),
    (
        r"EADDRINUSE|[Aa]ddress already in use",
        "--dist-url: expected a free port, got one that another run uses; add --dist-url auto, or for several machines "
        "name another port",
    ),
    (
        r"DataLoader worker .* (killed|exited)|insufficient shared memory|Bus error",
        "a process that loads data was ended, as happens when memory or /dev/shm is full: reduce "
        "DATALOADER.NUM_WORKERS, and continue with --resume",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "the disk of OUTPUT_DIR is full: make room, and continue with --resume",
    ),
    (
        r"out of memory|can't allocate memory|not enough memory",
        "memory has run out: reduce SOLVER.IMS_PER_BATCH, INPUT.MAX_SIZE_TRAIN or INPUT.MIN_SIZE_TRAIN; continue with "
        "--resume",
    ),
)


def remedy(error: BaseException) -> str | None:
    """What to tell the user, with the words of torch; None where the error is nothing that a user causes."""
    text = str(error)
    for pattern, what in _REMEDIES:
        if found := re.search(pattern, text):
            line = next(line for line in text.splitlines() if found[0] in line)
            return f"{what} ({line.strip()[:300]})"
    return None


def is_lost_rank(error: BaseException) -> bool:
    """Whether a message of :func:`remedy` only says that another rank has ended, which knows better why."""
    return str(error).startswith(_REMEDIES[1][1])
