"""Resamples validation images: would another sample of images have told two arms apart?

    python benchmarks/accuracy/bootstrap.py --data DIR facemask balanced_l1 detectron2 [--resamples 1000]
    python benchmarks/accuracy/bootstrap.py --data DIR facemask detectron2        # AP itself, not a difference

It reads the predictions that run.py left in output/accuracy/, so only runs of this checkout are compared. First it
evaluates them with plain pycocotools and stops where AP is not what results.csv says. report.py's intervals are about
seeds at these images; this one is about images at these seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import jobs
import numpy as np
import results as store
from arms import ARMS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from results import Result
from scipy import stats
from sets import GROUPS, SETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=[name for name in SETS if name in GROUPS])
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("against", nargs="?", choices=ARMS, help="what is subtracted, if anything")
    parser.add_argument("--data", type=Path, required=True, help="as for run.py")
    parser.add_argument("--protocol", default="imagenet", choices=jobs.PROTOCOLS)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    arms = [arm for arm in (args.arm, args.against) if arm]
    tuples = matching_runs(store.read(), args.set, args.protocol, arms)
    if not tuples:
        parser.error(f"expected runs with the same seed of {' and '.join(arms)} in {jobs.OUTPUT}, got none")
    val = Path(SETS[args.set].files(args.data)[5])
    evaluated = [[Evaluated(val, run) for run in runs] for runs in tuples]
    print(
        f"{args.set}, {args.protocol}, seeds {[runs[0].seed for runs in tuples]}: AP of {' less that of '.join(arms)}"
    )
    print(interval(evaluated, args.resamples))


def matching_runs(results: Sequence[Result], name: str, protocol: str, arms: Sequence[str]) -> list[list[Result]]:
    """Runs with the same seed, learning rate and length, one of each arm, whose predictions are there."""
    runs: dict[tuple, dict[str, Result]] = {}
    for result in results:
        if (result.set, result.protocol) == (name, protocol) and predictions(result).exists():
            runs.setdefault((result.learning_rate, result.iterations, result.seed), {})[result.arm] = result
    return [[of[arm] for arm in arms] for _, of in sorted(runs.items()) if of.keys() >= set(arms)]


def predictions(result: Result) -> Path:
    return jobs.OUTPUT / result.job().name / "inference" / "coco_instances_results.json"


class Evaluated:
    """A run's matches of predictions with ground truths, image by image, from which AP over any images follows."""

    def __init__(self, val: Path, result: Result):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(val))
            self._coco = COCOeval(truth, truth.loadRes(json.loads(predictions(result).read_text())), "bbox")
            self._coco.params.areaRng, self._coco.params.areaRngLbl = self._coco.params.areaRng[:1], ["all"]
            self._coco.params.maxDets = [100]
            self._coco.evaluate()
        shape = len(self._coco.params.catIds), len(self._coco.params.imgIds)
        self._images = np.array([*self._coco.evalImgs, None], dtype=object)[:-1].reshape(shape)
        self.count = shape[1]
        AP = self.ap(np.arange(self.count))
        if abs(AP - result.AP) > 0.01:
            raise SystemExit(f"{predictions(result)}: expected AP {result.AP}, as results.csv has it, got {AP:.3f}")

    def ap(self, images: np.ndarray) -> float:
        """COCO AP in percent over images, by their index; some may be there more than once."""
        self._coco.evalImgs = list(self._images[:, images].ravel())
        # accumulate() takes the images of a list of different ids; these are numbers in their order
        self._coco.params.imgIds = self._coco._paramsEval.imgIds = list(range(len(images)))
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco.accumulate()
        precision = self._coco.eval["precision"]
        return 100 * float(np.mean(precision[precision > -1]))


def interval(runs: Sequence[Sequence[Evaluated]], resamples: int) -> str:
    """The mean AP of runs, or of the differences of pairs, and its percentile interval over images."""

    def value(images: np.ndarray) -> float:
        return float(np.mean([one.ap(images) - sum(other.ap(images) for other in others) for one, *others in runs]))

    images = np.arange(runs[0][0].count)
    found = stats.bootstrap(
        (images,),
        value,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return f"{value(images):+.2f} [{low:+.2f}, {high:+.2f}], standard error {found.standard_error:.2f}"


if __name__ == "__main__":
    main()
