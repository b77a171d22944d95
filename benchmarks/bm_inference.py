"""Inference of Detectron2's Faster R-CNN and ours: its stages, and images a second from end to end, as Markdown tables.

python benchmarks/bm_inference.py [--part stages predictor eval] [--kind R50-FPN quickstart] [--threads 1 2]
python benchmarks/bm_inference.py --quick    # small images

R50-FPN at 800 x 1088 and the quickstart's model at 320 x 320, one image at a time, random weights, the sides in turn.
"predictor" is Detectron2's DefaultPredictor on an array; "eval" is what --eval-only does: the test loader with its
decoding, inference_on_dataset and COCO's evaluation. Takes about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectors import CONFIGS, SIDES, SIZES, Data, build, by_parts, config, picture, write_data
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from side_by_side import machine, markdown, progress

from libra_d2.engine import LibraTrainer

PARTS = ("stages", "predictor", "eval")


def stages(kind: str, size: tuple[int, int], turns: int, device: str) -> dict[str, dict[str, float]]:
    """{side: {stage: ms}}"""
    sample = picture(8, size)
    del sample["instances"]

    def infer(model) -> dict:
        with torch.no_grad():
            model([sample])
        return {}

    models = {side: build(side, "MODEL.DEVICE", device, kind=kind).eval() for side in SIDES}
    found = by_parts(models, infer, turns)
    return {side: {stage: 1e3 * seconds for stage, seconds in of.items()} for side, of in found.items()}


def predictors(kind: str, size: tuple[int, int], device: str, _: Data) -> dict[str, tuple[int, Callable[[], object]]]:
    """What to call for each side, and for how many images."""
    image = picture(8, size)["image"].permute(1, 2, 0).numpy()

    def predictor(side):
        opts = ["MODEL.DEVICE", device]
        made = DefaultPredictor(config(side, *opts, "INPUT.MIN_SIZE_TEST", min(size), kind=kind))
        made.model = build(side, *opts, kind=kind).eval()
        return lambda: made(image)["instances"].to("cpu")

    return {side: (1, predictor(side)) for side in SIDES}


def evaluations(
    kind: str, size: tuple[int, int], device: str, data: Data
) -> dict[str, tuple[int, Callable[[], object]]]:
    """As :func:`predictors`."""
    count = len(list(data.images.iterdir()))
    on_device = ["MODEL.DEVICE", device]
    opts = [*on_device, "INPUT.MIN_SIZE_TEST", min(size), "OUTPUT_DIR", str(data.images.parent)]
    opts += ["DATALOADER.NUM_WORKERS", 0]  # to start processes would outweigh so few images
    cfgs = {side: config(side, *opts, kind=kind, data=data) for side in SIDES}
    classes = ["MODEL.ROI_HEADS.NUM_CLASSES", data.classes]
    models = {side: build(side, *on_device, *classes, kind=kind).eval() for side in SIDES}

    def theirs():
        cfg = cfgs["Detectron2"]
        evaluator = COCOEvaluator(cfg.DATASETS.TEST[0], output_dir=f"{cfg.OUTPUT_DIR}/detectron2")
        return DefaultTrainer.test(cfg, models["Detectron2"], [evaluator])

    return {
        "libra_d2": (count, lambda: LibraTrainer.test(cfgs["libra_d2"], models["libra_d2"])),
        "Detectron2": (count, theirs),
    }


def images_per_second(runs: dict[str, tuple[int, Callable[[], object]]], turns: int) -> dict[str, float]:
    """The median of each; the sides take turns, the first of which is not counted."""
    rates = {side: [] for side in runs}
    for _ in range(turns + 1):
        for side, (count, run) in runs.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # COCO's tables
                run()
            rates[side].append(count / (time.perf_counter() - start))
    return {side: statistics.median(values[1:]) for side, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kind", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="small images and one turn, to see that it runs")
    args = parser.parse_args()
    turns = 1 if args.quick else args.turns
    print(machine(args.device), "\n")
    for kind in args.kind:
        size = (96, 128) if args.quick else SIZES[kind]
        if "stages" in args.part:
            columns = {}
            for threads in args.threads:
                progress(f"{kind}: stages, {threads} thread(s)")
                torch.set_num_threads(threads)
                found = stages(kind, size, turns, args.device)
                columns |= {f"{side}, {threads} thread(s)": found[side] for side in SIDES}
            parts = dict.fromkeys(part for column in columns.values() for part in column)
            rows = [[part, *(column.get(part, "") for column in columns.values())] for part in parts]
            print(markdown([f"{kind}, {size[0]} x {size[1]}, ms", *columns], rows), "\n")
        rows = []
        for part, make in (("predictor", predictors), ("eval", evaluations)):
            if part not in args.part:
                continue
            with tempfile.TemporaryDirectory() as folder:
                classes = 1 if kind == "quickstart" else 80
                data = write_data(Path(folder, f"{kind} images"), 2, size, classes)
                for threads in args.threads:
                    progress(f"{kind}: {part}, {threads} thread(s)")
                    torch.set_num_threads(threads)
                    found = images_per_second(make(kind, size, args.device, data), turns)
                    rows.append([part, threads, *found.values(), f"{found['libra_d2'] / found['Detectron2']:.2f}"])
        if rows:
            header = [f"{kind}, images/s", "threads", *(f"{side}" for side in SIDES), "ratio"]
            print(markdown(header, rows), "\n")


if __name__ == "__main__":
    main()
