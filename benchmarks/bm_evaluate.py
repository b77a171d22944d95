"""COCO's evaluation of boxes by the evaluator that libra-d2 uses, beside Detectron2's with pycocotools.

python benchmarks/bm_evaluate.py [--images 5000] [--detections 100]

Objects and detections are drawn at random: 7 objects of an image on average and 80 classes, as in COCO; half of the
detections lie near an object.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from side_by_side import machine, markdown, median_ms

from libra_d2.evaluation.coco import FasterCOCOEvaluator

NAME, SIDE, CLASSES = "simulated", 640, 80


def simulate(images: int, detections: int) -> tuple[dict, list]:
    """A COCO json, and predictions as Detectron2's evaluator gathers them."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for image in range(1, images + 1):
        objects = rng.poisson(7)
        sizes = np.exp(rng.uniform(np.log(8), np.log(400), (objects, 2)))
        boxes = np.concatenate([rng.uniform(0, 1, (objects, 2)) * (SIDE - sizes), sizes], axis=1)
        classes = rng.integers(0, CLASSES, objects)
        annotations += [
            {"image_id": image, "category_id": int(k) + 1, "bbox": list(map(float, box)), "iscrowd": 0}
            for k, box in zip(classes, boxes, strict=True)
        ]
        found, found_classes = rng.uniform(0, SIDE, (detections, 4)), rng.integers(0, CLASSES, detections)
        if objects:
            near = rng.integers(0, objects, detections // 2)
            found[: detections // 2] = boxes[near] + rng.normal(0, 0.1, (len(near), 4)) * boxes[near][:, [2, 3, 2, 3]]
            found_classes[: detections // 2] = classes[near]
        found[:, 2:] = np.maximum(found[:, 2:], 1)
        instances = [
            {"image_id": image, "category_id": int(k), "bbox": list(map(float, box)), "score": float(score)}
            for k, box, score in zip(found_classes, found, rng.random(detections), strict=True)
        ]
        predictions.append({"image_id": image, "instances": instances})
    for number, annotation in enumerate(annotations, 1):
        annotation.update(id=number, area=annotation["bbox"][2] * annotation["bbox"][3])
    truth = {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)],
    }
    return truth, predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of an image")
    args = parser.parse_args()
    truth, predictions = simulate(args.images, args.detections)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(truth))
        DatasetCatalog.register(NAME, list)
        MetadataCatalog.get(NAME).set(json_file=str(file), thing_classes=[str(k) for k in range(CLASSES)])
        MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id = {k + 1: k for k in range(CLASSES)}

        def rival(kind, **arguments):
            evaluator = kind(NAME, tasks=("bbox",), allow_cached_coco=False, **arguments)

            def run():
                evaluator.reset()
                evaluator._predictions = [
                    {**image, "instances": [dict(instance) for instance in image["instances"]]} for image in predictions
                ]
                with contextlib.redirect_stdout(io.StringIO()):
                    figures[kind.__name__] = evaluator.evaluate()["bbox"]["AP"]

            return run

        rivals = {"libra_d2": rival(FasterCOCOEvaluator), "Detectron2": rival(COCOEvaluator, use_fast_impl=False)}
        times = median_ms(rivals)
    print(machine())
    ratio = times["Detectron2"] / times["libra_d2"]
    row = [f"{args.images:,} x {args.detections}", *(value / 1e3 for value in times.values()), f"{ratio:.1f}x"]
    print(markdown(["images x detections", *(f"{name}, s" for name in times), "ratio"], [row]))
    print("AP:", figures)


if __name__ == "__main__":
    main()
