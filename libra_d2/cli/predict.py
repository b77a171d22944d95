"""Predicts on images and videos: drawings, predictions.json in COCO's results form and predictions.csv.

example:
  libra-d2 predict --config-file output/config.yaml --input a.jpg 'photos/*.png' walk.mp4 --output predicted \\
      --opts MODEL.WEIGHTS output/model_final.pth

Stopped, and started again with the same arguments, it goes on where it was. What cannot be read is listed at the end.
Under torchrun (torchrun --nproc-per-node 4 demo.py ...) the ranks share the images; the result is the same.
TEST.AUG.ENABLED True predicts with Detectron2's test-time augmentation. --tile 640 cuts large images into tiles.
"""

import argparse
import os
import sys

import tqdm
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from libra_d2.checks import UserError
from libra_d2.data.class_names import thing_classes
from libra_d2.engine.freed_memory import keep_freed_memory
from libra_d2.engine.launch import launch
from libra_d2.engine.output_dir import log_to_terminal, make_output
from libra_d2.engine.setup import add_tile_arguments, setup
from libra_d2.inference import build_predictor
from libra_d2.inference.drawing import Drawer, NotDrawn
from libra_d2.inference.inputs import IMAGE_SUFFIXES, ImageFile, Video, list_inputs
from libra_d2.inference.results import Journal, category_ids, coco_results, fingerprint, write_predictions

#: seconds that a rank waits for the others, which may have long videos
_NO_LIMIT = 30 * 24 * 3600


class _FilesOnly(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string}: expected files, as --input takes them; record the camera to a video first")


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="config, e.g. the config.yaml that training saved"
    )
    parser.add_argument(
        "--input",
        "--video-input",
        nargs="+",
        required=True,
        help="images, folders of images, patterns such as 'a/*.jpg', videos, COCO json files",
    )
    parser.add_argument(
        "--images", default="", metavar="DIR", help="folder of the images that a COCO json names (that of the json)"
    )
    parser.add_argument("--output", required=True, help="a folder; for one image also the name of the file to write")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="lowest score of a prediction (%(default)g)"
    )
    add_tile_arguments(parser)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, e.g. MODEL.WEIGHTS FILE")
    parser.add_argument("--webcam", nargs="?", action=_FilesOnly, help=argparse.SUPPRESS)
    return parser


def run(args) -> int:
    log_to_terminal()
    keys = ("MODEL.RETINANET.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST")
    cfg = setup(args, overrides=[item for key in keys for item in (key, args.confidence_threshold)])
    inputs = list_inputs(args.input, getattr(args, "images", ""))
    names = output_names(inputs, args.output)
    alone = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="", dist_timeout=_NO_LIMIT)
    faults = []
    launch(_on_each_rank, args, cfg, inputs, names, faults, run=alone, device=cfg.MODEL.DEVICE)
    for path, fault in faults:
        print(f"{path}: {fault}", file=sys.stderr)
    if faults:
        print(f"{len(faults)} of {len(inputs)} images were not drawn", file=sys.stderr)
    return 1 if faults else 0


def _on_each_rank(args, cfg: CfgNode, inputs: list, names: list[str], faults: list) -> None:
    """Predicts on this rank's share, and writes the results of all; ``faults`` of all are known to the main one."""
    keep_freed_memory(cfg)
    predictor, metadata = build_predictor(cfg), metadata_of(cfg)
    is_folder = os.path.isdir(args.output)
    share = slice(comm.get_rank(), None, comm.get_world_size())
    with Journal(args.output if is_folder else None, fingerprint(cfg)) as journal:
        if len(journal) and comm.is_main_process():
            print(f"{args.output} has {len(journal)} predictions of these weights and options: those are taken over")
        shares = comm.gather(_predict_all(Drawer(predictor, metadata, journal), inputs[share], names[share]))
    if not comm.is_main_process():
        return
    found = {key: detections for of_rank, _ in shares for key, detections in of_rank.items()}
    faults += sorted(fault for _, of_rank in shares for fault in of_rank)
    if is_folder:
        jsons = [item for item in args.input if item.lower().endswith(".json")]
        ids = category_ids(jsons, metadata)
        write_predictions(args.output, coco_results(inputs, found, ids), ids, metadata.get("thing_classes", []))


def _predict_all(drawer: Drawer, inputs: list, names: list[str]) -> tuple[dict, list[tuple[str, str]]]:
    """({(path, number of the frame or None): detections}, [(path, what is wrong)])."""
    found, faults = {}, []
    total = sum(item.num_frames() if isinstance(item, Video) else 1 for item in inputs)
    with tqdm.tqdm(total=total, disable=total < 2 or not comm.is_main_process() or None) as bar:
        for item, name in zip(inputs, names, strict=True):
            try:
                if isinstance(item, Video):
                    frames, fault = drawer.video(item, name, bar.update)
                    found.update({(item.path, number): detections for number, detections in frames.items()})
                    told = f"{sum(map(len, frames.values()))} detections in {len(frames)} frames"
                    if fault:
                        faults.append((item.path, fault))
                else:
                    detections = found[item.path, None] = drawer.image(item, name)
                    told = f"{len(detections)} detections"
                    bar.update()
            except NotDrawn as error:
                faults.append((item.path, str(error)))
            else:
                bar.write(f"{item.path}: {told}, drawn in {name}")
    return found, faults


def metadata_of(cfg: CfgNode) -> Metadata:
    """Names and colours to draw with: those of the config's data set, or the class names alone where it has others."""
    names = list(cfg.MODEL.LIBRA.DATA.CLASS_NAMES)
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if not names or thing_classes(dataset) == names:
            return MetadataCatalog.get(dataset)
    return Metadata(thing_classes=names) if names else Metadata()


def output_names(inputs: list[ImageFile | Video], output: str) -> list[str]:
    """Where the drawing of each goes: ``output`` itself for a single image, files in that folder otherwise."""
    files = [item.path for item in inputs]
    is_image = len(files) == 1 and isinstance(inputs[0], ImageFile)
    if is_image and not os.path.isdir(output) and output.lower().endswith(IMAGE_SUFFIXES):
        make_output(os.path.dirname(output) or ".")
        return [output]
    make_output(output)
    names, taken = [], set()
    writable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    for item, file in zip(inputs, files, strict=True):
        stem, suffix = os.path.splitext(os.path.basename(file))
        if isinstance(item, Video):
            suffix = ".mp4"
        elif suffix.lower() not in writable:
            stem, suffix = stem + suffix, ".png"
        name, count = stem + suffix, 1
        while name in taken:  # images of the same name in different folders
            count += 1
            name = f"{stem}_{count}{suffix}"
        taken.add(name)
        names.append(os.path.join(output, name))
        if os.path.exists(names[-1]) and os.path.exists(file) and os.path.samefile(file, names[-1]):
            raise UserError(f"--output {output}: the drawing would overwrite {file}, choose another folder")
    return names
