"""What goes on inside a model that run.py trained: its pyramid, its negatives and its gradients, as tables.

    python benchmarks/accuracy/run.py --data DIR --only facemask libra seed1 --checkpoint-period 100
    python benchmarks/accuracy/measure.py output/accuracy/facemask_imagenet_libra_0.0005_600_seed1 [--images 40]

Every model_*.pth of the folder is measured on the same training images, which are spread over the whole set and not
augmented. Nothing is trained. --as ARM puts the same weights into the model of another arm, so that losses and picks
can be compared on equal features; a pyramid that the weights lack is then as new.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from arms import ARMS
from changes import OF_THE_SET
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from probes import (
    ATTENTION_HEADER,
    DRAW_HEADER,
    GRADIENT_HEADER,
    POSITIVE_HEADER,
    PYRAMID_HEADER,
    RECALL_HEADER,
    Attention,
    Draws,
    Gradients,
    Positives,
    Pyramid,
    Recall,
)
from sets import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from side_by_side import markdown  # noqa: E402

import libra_d2  # noqa: E402

PROBES = {
    PYRAMID_HEADER: Pyramid,
    ATTENTION_HEADER: Attention,
    RECALL_HEADER: Recall,
    DRAW_HEADER: Draws,
    POSITIVE_HEADER: Positives,
    GRADIENT_HEADER: Gradients,
}
OURS = ["MODEL.META_ARCHITECTURE", "LibraRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "LibraRPN"]
OURS += ["MODEL.ROI_HEADS.NAME", "LibraROIHeads"]  # what an arm takes for granted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a job: config.yaml and its checkpoints")
    parser.add_argument("--images", type=int, default=40, help="how many, in batches of two")
    parser.add_argument(
        "--as",
        dest="arm",
        choices=[arm for arm, opts in ARMS.items() if OF_THE_SET not in opts],
        help="measure the weights as another arm would start from them",
    )
    args = parser.parse_args()
    if not (args.folder / "config.yaml").exists():
        parser.error(f"folder: expected the output folder of a job, got {args.folder}, which has no config.yaml")
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(args.folder / "config.yaml"))
    if args.arm:
        cfg.merge_from_list([*OURS, *ARMS[args.arm]])
    batches = training_batches(cfg, args.images)
    rows: dict[str, list[list[object]]] = {header: [] for header in PROBES}
    for iterations, checkpoint in checkpoints(args.folder, cfg.SOLVER.MAX_ITER).items():
        model = load(cfg, checkpoint)
        for header, found in measure(model, batches).items():
            rows[header] += [[iterations, *row] for row in found]
    for header, found in rows.items():
        if found:
            print(markdown(["iterations", *header.split(" | ")], found) + "\n")


def checkpoints(folder: Path, iterations: int) -> dict[int, Path]:
    """{iterations it was trained for: file} of all of a job's checkpoints; ``iterations`` is the length of the job."""
    found = {path: path.stem.removeprefix("model_") for path in sorted(folder.glob("model_*.pth"))}
    if not found:
        raise SystemExit(f"{folder}: expected model_*.pth, got none; run.py keeps them with --checkpoint-period N")
    # Detectron2 counts from 0; the last one is written twice, and model_final sorts behind the digits
    return {iterations if digits == "final" else int(digits) + 1: path for path, digits in found.items()}


def load(cfg, checkpoint: Path) -> torch.nn.Module:
    """The model of a config with all weights of a checkpoint; only a balanced pyramid's own may be missing."""
    seed_all_rng(0)
    model = build_model(cfg)
    weights = torch.load(checkpoint, weights_only=True, map_location=cfg.MODEL.DEVICE)["model"]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.startswith(("backbone.refine.", "backbone.gate"))]
    if missing or unexpected:
        raise SystemExit(
            f"{checkpoint}: expected the weights of the same model but for a new pyramid, got none for {missing} "
            f"and unknown ones for {unexpected}; --as takes arms that add to what was trained"
        )
    return model


def training_batches(cfg, count: int) -> list[list[dict]]:
    """Training samples in pairs, at the middle of the sizes that are trained on."""
    data = cfg.MODEL.LIBRA.DATA
    records = load_coco_json(data.TRAIN_JSON, data.TRAIN_IMAGES, "measured")  # the name makes class ids start at 0
    records = [record for record in records if any(not a["iscrowd"] for a in record["annotations"])]
    records = records[:: max(1, len(records) // count)][:count]
    sizes = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
    resize = T.ResizeShortestEdge([sizes[len(sizes) // 2]], cfg.INPUT.MAX_SIZE_TRAIN, "choice")
    mapper = DatasetMapper(is_train=True, augmentations=[resize], image_format=cfg.INPUT.FORMAT)
    samples = [mapper(record) for record in records]
    return [samples[i : i + 2] for i in range(0, len(samples) - 1, 2)]


def measure(model: torch.nn.Module, batches: list[list[dict]]) -> dict[str, list[list[object]]]:
    """The rows of all tables; a probe that the model has no place for gives none."""
    probes = {header: probe(model) for header, probe in PROBES.items() if probe.fits(model)}
    seed_all_rng(0)
    model.train()
    with EventStorage():
        for batch in batches:
            losses = model(batch)
            for probe in probes.values():
                probe.after(losses)
    for probe in probes.values():
        probe.remove()
    return {header: probe.rows() for header, probe in probes.items()}


if __name__ == "__main__":
    main()
