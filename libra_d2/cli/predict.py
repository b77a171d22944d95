"""Draws a model's detections on images; takes the arguments of Detectron2's demo, for images.

example:
  libra-d2 predict --config-file output/config.yaml --input a.jpg 'photos/*.png' --output drawn \\
      --opts MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import glob
import os
import sys

import tqdm
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from libra_d2.checks import FileError, UserError
from libra_d2.engine.setup import setup
from libra_d2.inference import build_predictor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class _ImagesOnly(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string}: this demo reads images only; take the frames out of the video first")


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="config, e.g. the config.yaml that training saved"
    )
    parser.add_argument(
        "--input", nargs="+", required=True, help="images, folders of images, or patterns such as 'a/*.jpg'"
    )
    parser.add_argument("--output", required=True, help="a folder; for one image also the name of the file to write")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="lowest score to be drawn")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, e.g. MODEL.WEIGHTS FILE")
    for unsupported in ("--webcam", "--video-input"):
        parser.add_argument(unsupported, nargs="?", action=_ImagesOnly, help=argparse.SUPPRESS)
    return parser


def run(args) -> int:
    for name in ("fvcore", "libra_d2", "detectron2"):
        setup_logger(name=name)
    keys = ("MODEL.RETINANET.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST")
    cfg = setup(args, overrides=[item for key in keys for item in (key, args.confidence_threshold)])
    files = list_images(args.input)
    predictor = build_predictor(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) else cfg.DATASETS.TRAIN[0])
    failed = 0
    for file, name in zip(tqdm.tqdm(files, disable=len(files) < 2), output_names(files, args.output), strict=True):
        try:
            image = read_image(file, format="BGR")
        except (OSError, ValueError) as error:
            failed += 1
            tqdm.tqdm.write(f"cannot read {file}: {error}", file=sys.stderr)
            continue
        instances = predictor(image)["instances"].to("cpu")
        drawing = Visualizer(image[:, :, ::-1], metadata, instance_mode=ColorMode.IMAGE)
        Image.fromarray(drawing.draw_instance_predictions(instances).get_image()).save(name)
        tqdm.tqdm.write(f"{file}: {len(instances)} detections, drawn in {name}")
    return 1 if failed else 0


def list_images(inputs: list[str]) -> list[str]:
    """The files that the --input arguments name."""
    files = []
    for item in inputs:
        if os.path.isdir(item):
            found = sorted(os.path.join(item, f) for f in os.listdir(item) if f.lower().endswith(IMAGE_SUFFIXES))
        else:
            found = [item] if os.path.exists(item) else sorted(glob.glob(os.path.expanduser(item)))
        if not found:
            raise FileError(f"--input: there is no image {item}")
        files += found
    return files


def output_names(files: list[str], output: str) -> list[str]:
    """Where the drawing of each file goes: ``output`` itself for a single image, files in that folder otherwise."""
    if len(files) == 1 and not os.path.isdir(output) and output.lower().endswith(IMAGE_SUFFIXES):
        make_folder(os.path.dirname(output) or ".")
        return [output]
    make_folder(output)
    names, taken = [], set()
    for file in files:
        stem, suffix = os.path.splitext(os.path.basename(file))
        name, count = stem + suffix, 1
        while name in taken:  # images of the same name in different folders
            count += 1
            name = f"{stem}_{count}{suffix}"
        taken.add(name)
        names.append(os.path.join(output, name))
        if os.path.exists(names[-1]) and os.path.samefile(file, names[-1]):
            raise UserError(f"--output {output}: the drawing would overwrite {file}, choose another folder")
    return names


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise FileError(f"--output: expected a folder to write to, got {path} ({error})") from error
