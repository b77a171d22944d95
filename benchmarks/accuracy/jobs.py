"""What is trained: the protocols, the listed search, and the jobs in the order in which they tell most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import screens
from arms import ARMS, CAUSES, PARTS
from changes import OF_THE_SET
from sets import GROUPS, ROOT, SETS

OUTPUT = ROOT / "output" / "accuracy"

Cell = tuple[float, int]  # learning rate, iterations


def cell_of(words: Sequence[str] | None) -> Cell | None:
    """The cell that ``--cell RATE ITERATIONS`` names."""
    return (float(words[0]), int(words[1])) if words else None


@dataclass(frozen=True)
class Protocol:
    """Where a training starts, and the cells that every arm may search; the first one is used until then."""

    name: str
    sets: tuple[str, ...]
    search: tuple[Cell, ...]
    weights: str = ""  # an empty one is the recipe's own
    others: tuple[str, ...] = ()  # more KEY VALUE pairs

    def opts(self) -> list[str]:
        return [*(["MODEL.WEIGHTS", self.weights] if self.weights else []), *self.others]


# Plain Detectron2, trained once and long; the second protocol fine-tunes it
DETECTOR_SET, DETECTOR_CELL, DETECTOR_SEED = "coco_person", (0.0005, 6000), 1
DETECTOR = OUTPUT / "detector" / "model_final.pth"

# faces, boards, persons and trees; the quickstart's strip has trees that the folds have, too
_FOUR = tuple(name for name in SETS if name != "quickstart")
_UNSEEN = tuple(name for name in _FOUR if name != DETECTOR_SET)
_EIGHT = ("SOLVER.IMS_PER_BATCH", "8")
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("imagenet", _FOUR, ((0.0005, 600), (0.001, 600), (0.0005, 1200), (0.001, 1200))),
        Protocol(
            "detector",
            _UNSEEN,
            ((0.0005, 600), (0.0002, 600), (0.0005, 1200), (0.0002, 1200)),
            str(DETECTOR.relative_to(ROOT)),
        ),
        # For a GPU, which is hardly busy with two such images: four times as many an iteration
        Protocol("batch8", _FOUR, ((0.001, 450),), others=_EIGHT),
        Protocol("detector_batch8", _UNSEEN, ((0.001, 450),), str(DETECTOR.relative_to(ROOT)), _EIGHT),
        # `make quickstart`, with other seeds and arms
        Protocol("quickstart", ("quickstart",), ((0.0005, 800),)),
    )
}
SEARCH_SEEDS = (0, 10, 11)  # cells are chosen by the first of them, single changes are judged by all
TEST_SEEDS = (1, 2, 3, 4, 5)
FIRST = ("detectron2", "recommended")


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    set: str
    protocol: str
    arm: str
    learning_rate: float
    iterations: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}_{self.protocol}_{self.arm}_{self.learning_rate:g}_{self.iterations}_seed{self.seed}"

    def opts(self) -> list[str]:
        """``KEY VALUE`` pairs that turn the set's recipe into this job."""
        solver = ["SOLVER.BASE_LR", str(self.learning_rate), "SOLVER.MAX_ITER", str(self.iterations)]
        arm = [SETS[self.set].class_weights if value == OF_THE_SET else value for value in ARMS[self.arm]]
        return [*arm, *PROTOCOLS[self.protocol].opts(), *solver, "SEED", str(self.seed)]


def final_jobs(protocol: str, cell: Cell | None = None) -> list[Job]:
    """What the parts are judged by, seed by seed; the arms whose scatter tells how many seeds it takes come first."""
    others = tuple(arm for arm in PARTS if arm not in FIRST)
    return _jobs(protocol, TEST_SEEDS, FIRST, cell) + _jobs(protocol, TEST_SEEDS, others, cell)


def cause_jobs(protocol: str, cell: Cell | None = None) -> list[Job]:
    """Single changes, and what they are compared with, on the search seeds."""
    return _jobs(protocol, SEARCH_SEEDS, (*PARTS, *CAUSES), cell)


def screen_jobs(protocol: str, cell: Cell | None = None, screen: str = "screen") -> list[Job]:
    """The runs of a screen (screens.py), set by set, with the first search seed; every other set is turned round."""
    rate, iterations = cell or PROTOCOLS[protocol].search[0]
    return [
        Job(name, protocol, screens.name_of(screen, on), rate, iterations, SEARCH_SEEDS[0])
        for place, name in enumerate(PROTOCOLS[protocol].sets)
        for on in screens.design(screen, turned=place % 2 == 1)
    ]


def search_jobs(protocol: str, arms: Sequence[str] = tuple(PARTS)) -> list[Job]:
    """The same cells for every arm."""
    cells = PROTOCOLS[protocol].search
    return [job for cell in cells for job in _jobs(protocol, SEARCH_SEEDS[:1], arms, cell)]


def _jobs(protocol: str, seeds: Sequence[int], arms: Sequence[str], cell: Cell | None) -> list[Job]:
    rate, iterations = cell or PROTOCOLS[protocol].search[0]
    sets = PROTOCOLS[protocol].sets
    return [Job(name, protocol, arm, rate, iterations, seed) for seed, name, arm in product(seeds, sets, arms)]


def only(jobs: Iterable[Job], words: Iterable[str]) -> Iterator[Job]:
    """The jobs that all kinds of words allow: sets (or groups of them), protocols, arms and seeds, as in ``seed3``.

    Words of one kind are alternatives; a kind without words allows everything.
    """
    kinds: dict[str, set] = {"set": set(), "protocol": set(), "arm": set(), "seed": set()}
    for word in words:
        if word in GROUPS:
            kinds["set"] |= set(GROUPS[word])
        elif word in SETS:
            kinds["set"].add(word)
        elif word in PROTOCOLS:
            kinds["protocol"].add(word)
        elif word in ARMS:
            kinds["arm"].add(word)
        elif word.startswith("seed") and word[4:].isdigit():
            kinds["seed"].add(int(word[4:]))
        else:
            known = ", ".join([*GROUPS, *PROTOCOLS, *ARMS])
            raise SystemExit(f"--only: expected seedN or one of {known}, got {word!r}")
    return (job for job in jobs if all(not allowed or getattr(job, kind) in allowed for kind, allowed in kinds.items()))
