"""Designs in which each run switches half of seven changes on, so that every run tells about all of them.

Fractional factorials (Box, Hunter and Hunter, "Statistics for Experimenters", chapter 6): eight runs a set for seven
factors, every factor on in four of them, every pair of factors balanced. One change at a time would need four times as
many runs for the same standard error. Every other set has all levels turned round, so that, taken together, no factor
is mixed up with the joint effect of two others, as far as the sets agree. screening.py has the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from changes import (
    AGNOSTIC_BOXES,
    BALANCED_L1,
    CLASS_WEIGHTS,
    DOUBLE_WEIGHT,
    FEW_PROPOSALS,
    FLOOR,
    FOCAL,
    GATED_PYRAMID,
    GIOU,
    HALF_WEIGHT,
    MANY_PROPOSALS,
    MMDET_PYRAMID,
    NEGATIVES,
    PISA,
    POSITIVES,
    REPEATED,
    RPN_LIMITED,
    RPN_PLAIN,
    SEESAW,
)

# factor -> (off, on); the last pair of a key counts
Factors = dict[str, tuple[list[str], list[str]]]
SCREENS: dict[str, Factors] = {
    "screen": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "positives": ([], POSITIVES),
        "negatives": ([], NEGATIVES),
        "balanced_l1": ([], BALANCED_L1),
        "pyramid": ([], GATED_PYRAMID),
        "box_weight": ([], DOUBLE_WEIGHT),
        "proposals": ([], MANY_PROPOSALS),
    },
    # What the first one spoke for or left open, what it spoke against the other way round, and two rivals
    "second": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "pyramid": ([], GATED_PYRAMID),
        "balanced_l1": ([], BALANCED_L1),
        "half_weight": ([], HALF_WEIGHT),
        "few_proposals": ([], FEW_PROPOSALS),
        "pisa": ([], PISA),
        "seesaw": ([], SEESAW),
    },
    # Libra's parts again, in batches of eight (batch8), with the rival that the second one had nothing against
    "third": {
        "rpn": (RPN_PLAIN, RPN_LIMITED),
        "positives": ([], POSITIVES),
        "negatives": ([], NEGATIVES),
        "balanced_l1": ([], BALANCED_L1),
        "pyramid": ([], GATED_PYRAMID),
        "pisa": ([], PISA),
        "agnostic_boxes": ([], AGNOSTIC_BOXES),
    },
    # What users ask for beside Libra, and two of its parts in another form; the first one sets Detectron2's RPN as well
    "rivals": {
        "focal": (RPN_PLAIN, RPN_PLAIN + FOCAL),
        "class_weights": ([], CLASS_WEIGHTS),
        "giou": ([], GIOU),
        "repeat_factor": ([], REPEATED),
        "pisa": ([], PISA),
        "floor": ([], NEGATIVES + FLOOR),
        "mmdet_pyramid": ([], MMDET_PYRAMID),
    },
}


def design(screen: str, turned: bool = False) -> list[tuple[str, ...]]:
    """The factors that are on, run by run. Seven columns from three: a, b, c, ab, ac, bc and abc."""
    sign = -1 if turned else 1
    runs = []
    for a, b, c in product((-1, 1), repeat=3):
        levels = (a, b, c, a * b, a * c, b * c, a * b * c)
        runs.append(tuple(name for name, level in zip(SCREENS[screen], levels, strict=True) if sign * level > 0))
    return runs


def name_of(screen: str, on: Sequence[str]) -> str:
    return "+".join([screen, *on])


def arms(baseline: Sequence[str]) -> dict[str, list[str]]:
    """{arm: KEY VALUE pairs} of every run of every screen."""
    return {
        name_of(screen, on): [*baseline, *(pair for name, levels in factors.items() for pair in levels[name in on])]
        for screen, factors in SCREENS.items()
        for turned in (False, True)
        for on in design(screen, turned)
    }
