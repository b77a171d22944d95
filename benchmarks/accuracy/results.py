"""results.csv: one line a run, only ever appended to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from jobs import Job

RESULTS = Path(__file__).with_name("results.csv")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Result(Job):
    """COCO AP in percent of a job on the validation images, and what it took."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    classes: str = ""  # AP of each class in the json's order, with blanks between
    seconds: int = 0  # training and evaluation
    date: str = ""
    device: str = ""  # a GPU's name; empty for a CPU

    def job(self) -> Job:
        return Job(*(getattr(self, field.name) for field in fields(Job)))


def _number(text: str) -> float:
    return float(text or "nan")  # older files lack some


def _whole(text: str) -> int:
    return int(text or 0)


_TYPES = dict.fromkeys(("iterations", "seed", "seconds"), _whole) | dict.fromkeys(("learning_rate", *METRICS), _number)


def read(path: Path = RESULTS) -> list[Result]:
    """All results; none where the file does not exist."""
    if not path.exists():
        return []
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [Result(**{key: _TYPES.get(key, str)(value) for key, value in row.items()}) for row in rows]


def append(result: Result, path: Path = RESULTS) -> None:
    """Adds a line, and a header to an empty file."""
    new = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(result))


def remaining(jobs: Iterable[Job], results: Iterable[Result]) -> Iterator[Job]:
    """The jobs without a result, each once: what several lists ask for is one run."""
    done = {result.job() for result in results}
    return (job for job in dict.fromkeys(jobs) if job not in done)
