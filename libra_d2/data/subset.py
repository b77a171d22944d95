"""A part of a data set that stands for the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Record = TypeVar("Record")


def evenly_spread(records: Sequence[Record], limit: int) -> list[Record]:
    """As many of the records as ``limit`` says, evenly spread over all of them; all where there are no more."""
    count = min(limit, len(records))
    return [records[i * len(records) // count] for i in range(count)]
