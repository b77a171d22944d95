"""COCO's evaluation by faster-coco-eval: pycocotools' figures, to 12 digits and more, in a fraction of the time."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO

__all__ = ["FasterCOCOEvaluator", "evaluate", "loaded"]


def evaluate(
    truth: COCO,
    results: list[dict],
    task: str = "bbox",
    max_detections: Sequence[int] = (1, 10, 100),
    image_ids: Sequence[int] | None = None,
) -> COCOeval_faster:
    """Matches detections to objects and accumulates precision and recall.

    Args:
        results: COCO's results, not empty.
        task: "bbox" or "segm".
        max_detections: of an image; AP counts the last number of them, AR each number.
        image_ids: those that count; None for all.

    Returns:
        pycocotools' ``eval`` and ``summarize()``, and after that ``stats``.
    """
    evaluation = COCOeval_faster(truth, loaded(truth, results, task), task, print_function=print)
    evaluation.params.maxDets = list(max_detections)
    if image_ids is not None:
        evaluation.params.imgIds = list(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def loaded(truth: COCO, results: list[dict], task: str = "bbox") -> COCO:
    """Results as COCO evaluates them: for masks, the size is that of the mask, as in Detectron2's evaluation."""
    without = {"bbox": "segmentation", "segm": "bbox"}[task]
    return truth.loadRes([{key: value for key, value in result.items() if key != without} for result in results])


class FasterCOCOEvaluator(COCOEvaluator):
    """Detectron2's for boxes and masks, with the same files, tables and figures."""

    def _eval_predictions(self, predictions, img_ids=None) -> None:
        results = [result for prediction in predictions for result in prediction["instances"]]
        if places := self._metadata.get("thing_dataset_id_to_contiguous_id"):
            ids = {place: category for category, place in places.items()}
            for result in results:
                result["category_id"] = ids[result["category_id"]]
        if self._output_dir:
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                file.write(json.dumps(results))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        for task in sorted(self._tasks or self._tasks_from_predictions(results)):
            evaluation = None  # COCO's API does not know what to do with no result at all
            if results:
                evaluation = evaluate(self._coco_api, results, task, self._max_dets_per_image, img_ids)
                evaluation.summarize()
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)
