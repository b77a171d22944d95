"""What is trained: the arms, the grid that two of them search, and the jobs that follow; and the results so far."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

from folds import FOLDS, ROOT

RECIPE = ROOT / "configs" / "quickstart" / "libra_faster_rcnn_trees.yaml"
RESULTS = Path(__file__).with_name("results.csv")

# An arm is a list of KEY VALUE pairs on top of the recipe; the last pair of a key counts.
SAMPLING = ["MODEL.LIBRA.SAMPLER.POSITIVE", "instance_balanced", "MODEL.LIBRA.SAMPLER.NEGATIVE", "iou_balanced"]
BFP = ["MODEL.LIBRA.BFP.ENABLED", "True", "MODEL.LIBRA.BFP.REFINE_TYPE", "non_local", "MODEL.LIBRA.BFP.INIT", "xavier"]
BALANCED_L1 = ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "balanced_l1"]
LIBRA = SAMPLING + BFP + BALANCED_L1
BASELINE = ["MODEL.LIBRA.SAMPLER.POSITIVE", "random", "MODEL.LIBRA.SAMPLER.NEGATIVE", "random"]
BASELINE += ["MODEL.LIBRA.BFP.ENABLED", "False"]
BASELINE += ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "0.0"]  # L1
DETECTRON2 = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
DETECTRON2 += ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
PARTS = {
    "detectron2": BASELINE + DETECTRON2,
    "baseline": BASELINE,
    "sampling": BASELINE + SAMPLING,
    "bfp": BASELINE + BFP,
    "balanced_l1": BASELINE + BALANCED_L1,
    "libra": LIBRA,
}
# What could be done otherwise, one thing at a time
VARIANTS = {
    "libra_identity": [*LIBRA, "MODEL.LIBRA.BFP.INIT", "identity"],
    "libra_integrate": [*LIBRA, "MODEL.LIBRA.BFP.REFINE_TYPE", "none"],
    "libra_conv": [*LIBRA, "MODEL.LIBRA.BFP.REFINE_TYPE", "conv"],
    "libra_random_positives": [*LIBRA, "MODEL.LIBRA.SAMPLER.POSITIVE", "random"],
    "libra_random_negatives": [*LIBRA, "MODEL.LIBRA.SAMPLER.NEGATIVE", "random"],
}
# Where sampling has more to choose from: a quarter of the boxes. The second is compared with the first.
FEW_BOXES = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"]
FEW = {"few_baseline": BASELINE + FEW_BOXES, "few_sampling": BASELINE + SAMPLING + FEW_BOXES}
ARMS = PARTS | VARIANTS | FEW

SEARCHING = ("baseline", "libra")
LEARNING_RATES = (0.0005, 0.001)
LENGTHS = (400, 800)
SEARCH_SEED = 0
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Job:
    arm: str
    learning_rate: float
    iterations: int
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}_{self.learning_rate:g}_{self.iterations}_fold{self.fold}_seed{self.seed}"

    def opts(self) -> list[str]:
        """``KEY VALUE`` pairs that turn the recipe into this job."""
        solver = ["SOLVER.BASE_LR", str(self.learning_rate), "SOLVER.MAX_ITER", str(self.iterations)]
        return [*ARMS[self.arm], *solver, "SEED", str(self.seed)]


@dataclass(frozen=True)
class Result(Job):
    """COCO AP in percent of a job on the half that it did not train on."""

    AP: float
    AP50: float
    AP75: float

    def job(self) -> Job:
        return Job(*(getattr(self, field.name) for field in fields(Job)))


def read(path: Path = RESULTS) -> list[Result]:
    types = {"arm": str, "iterations": int, "fold": int, "seed": int}
    if not path.exists():
        return []
    with path.open() as file:
        return [Result(**{key: types.get(key, float)(row[key]) for key in row}) for row in csv.DictReader(file)]


def append(result: Result, path: Path = RESULTS) -> None:
    new = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(result))


def search_jobs() -> list[Job]:
    return [
        Job(arm, rate, iterations, fold, SEARCH_SEED)
        for iterations, rate, fold, arm in product(LENGTHS, LEARNING_RATES, FOLDS, SEARCHING)
    ]


def variant_jobs(results: Iterable[Result]) -> list[Job]:
    """Each variant of Libra at the learning rate and length that Libra chose; still part of the search."""
    return [Job(arm, *chosen(results, "libra"), fold, SEARCH_SEED) for fold, arm in product(FOLDS, VARIANTS)]


def doubled_jobs(results: Iterable[Result]) -> list[Job]:
    """The baseline twice as long as it chose: what a longer training would gain."""
    rate, iterations = chosen(results, "baseline")
    return [Job("baseline", rate, 2 * iterations, fold, SEARCH_SEED) for fold in FOLDS]


def final_jobs(results: Iterable[Result]) -> list[Job]:
    """The parts on every fold with every seed, seed by seed; wants :func:`search_jobs` done."""
    libra, others = chosen(results, "libra"), chosen(results, "baseline")
    return [
        Job(arm, *(libra if arm == "libra" else others), fold, seed) for seed, fold, arm in product(SEEDS, FOLDS, PARTS)
    ]


def control_jobs(results: Iterable[Result]) -> list[Job]:
    """Libra as :func:`final_jobs` has it, and the baseline at the same learning rate and length."""
    cell = chosen(results, "libra")
    return [Job(arm, *cell, fold, seed) for seed, fold, arm in product(SEEDS, FOLDS, SEARCHING)]


def few_jobs(results: Iterable[Result]) -> list[Job]:
    """Balanced and random picks of few boxes, as :func:`final_jobs` has it."""
    cell = chosen(results, "baseline")
    return [Job(arm, *cell, fold, seed) for seed, fold, arm in product(SEEDS, FOLDS, FEW)]


def chosen(results: Iterable[Result], arm: str) -> tuple[float, int]:
    """The learning rate and length at which ``arm`` had the best AP, averaged over the folds, in the search."""
    return max(search_means(results, arm).items(), key=lambda item: item[1])[0]


def search_means(results: Iterable[Result], arm: str) -> dict[tuple[float, int], float]:
    """{(learning rate, iterations): AP averaged over the folds} for each cell that all who search have been run in."""
    cells: dict[tuple[float, int], dict[Job, float]] = {}
    for result in results:
        if result.arm in SEARCHING and result.seed == SEARCH_SEED:
            cells.setdefault((result.learning_rate, result.iterations), {})[result.job()] = result.AP
    return {
        cell: statistics.mean(AP for job, AP in runs.items() if job.arm == arm)
        for cell, runs in sorted(cells.items())
        if len(runs) == len(FOLDS) * len(SEARCHING)
    }


def remaining(jobs: Iterable[Job], results: Iterable[Result]) -> Iterator[Job]:
    """The jobs without a result, each once: what several lists ask for is one run."""
    done = {result.job() for result in results}
    return (job for job in dict.fromkeys(jobs) if job not in done)
