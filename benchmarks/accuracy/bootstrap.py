"""Resamples validation images: would another sample of images have told two arms apart?

    python benchmarks/accuracy/bootstrap.py --data DIR facemask balanced_l1 detectron2 [--resamples 1000]

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
from arms import ARMS, resolve
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from results import Result
from scipy import stats
from sets import GROUPS, SETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=[name for name in SETS if name in GROUPS])
    parser.add_argument("arm", choices=[*ARMS, "recommended"])
    parser.add_argument("against", choices=[*ARMS, "recommended"])
    parser.add_argument("--data", type=Path, required=True, help="as for run.py")
    parser.add_argument("--protocol", default="imagenet", choices=jobs.PROTOCOLS)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    arms = resolve(args.arm), resolve(args.against)
    pairs = paired_runs(store.read(), args.set, args.protocol, *arms)
    if not pairs:
        parser.error(f"expected two runs with the same seed of {' and '.join(arms)} in {jobs.OUTPUT}, got none")
    val = Path(SETS[args.set].files(args.data)[5])
    evaluated = [[Evaluated(val, run) for run in pair] for pair in pairs]
    print(f"{args.set}, {args.protocol}: AP of {arms[0]} less that of {arms[1]}, seeds {[a.seed for a, _ in pairs]}")
    print(interval(evaluated, args.resamples))


def paired_runs(
    results: Sequence[Result], name: str, protocol: str, arm: str, other: str
) -> list[tuple[Result, Result]]:
    """Runs of two arms with the same seed, learning rate and length whose predictions are there."""
    runs: dict[str, dict[tuple, Result]] = {arm: {}, other: {}}
    for result in results:
        if (result.set, result.protocol) == (name, protocol) and result.arm in runs and predictions(result).exists():
            runs[result.arm][result.learning_rate, result.iterations, result.seed] = result
    return [(run, runs[other][key]) for key, run in sorted(runs[arm].items()) if key in runs[other]]


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


def interval(pairs: Sequence[Sequence[Evaluated]], resamples: int) -> str:
    """The mean difference of the pairs and its percentile interval over images."""

    def difference(images: np.ndarray) -> float:
        return float(np.mean([one.ap(images) - other.ap(images) for one, other in pairs]))

    images = np.arange(pairs[0][0].count)
    found = stats.bootstrap(
        (images,),
        difference,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return f"{difference(images):+.2f} [{low:+.2f}, {high:+.2f}], standard error {found.standard_error:.2f}"


if __name__ == "__main__":
    main()
