"""Draws a model's detections on images; takes the arguments of Detectron2's demo, for images.

example:
  libra-d2 predict --config-file output/config.yaml --input a.jpg 'photos/*.png' --output drawn \\
      --opts MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import contextlib
import glob
import os
import sys
from collections.abc import Iterator

import tqdm
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from libra_d2.checks import FileError, UserError
from libra_d2.data.class_names import thing_classes
from libra_d2.data.image import read_8_bits
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
    names = output_names(files, args.output)
    predictor, metadata = build_predictor(cfg), metadata_of(cfg)
    failed = 0
    for file, name in zip(tqdm.tqdm(files, disable=len(files) < 2 or None), names, strict=True):
        try:
            found = draw(predictor, metadata, file, name)
        except _NotDrawn as error:
            failed += 1
            tqdm.tqdm.write(f"{file}: {error}", file=sys.stderr)
        else:
            tqdm.tqdm.write(f"{file}: {found} detections, drawn in {name}")
    if failed:
        tqdm.tqdm.write(f"{failed} of {len(files)} images were not drawn", file=sys.stderr)
    return 1 if failed else 0


class _NotDrawn(Exception):
    """What is wrong with one image; the others are drawn."""


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # an image can make Pillow, torch and matplotlib raise anything
        message = " ".join(str(error).split())
        raise _NotDrawn(f"{what} ({type(error).__name__}{': ' if message else ''}{message})") from error


def draw(predictor: DefaultPredictor, metadata: Metadata, file: str, name: str) -> int:
    """Draws the detections on one image; returns their number."""
    with _step("cannot be read"):
        image = read_8_bits(file)
    height, width = image.shape[:2]
    with _step(f"nothing can be predicted on its {width} x {height} pixels"):
        instances = predictor(image)["instances"].to("cpu")
    with _step("its detections cannot be drawn"):
        drawing = Visualizer(image[:, :, ::-1], metadata, instance_mode=ColorMode.IMAGE)
        drawing = drawing.draw_instance_predictions(instances).get_image()
    with _step(f"cannot be written to {name}"):
        Image.fromarray(drawing).save(name)
    return len(instances)


def metadata_of(cfg: CfgNode) -> Metadata:
    """Names and colours to draw with: those of the config's data set, or the class names alone where it has others."""
    names = list(cfg.MODEL.LIBRA.DATA.CLASS_NAMES)
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if not names or thing_classes(dataset) == names:
            return MetadataCatalog.get(dataset)
    return Metadata(thing_classes=names) if names else Metadata()


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
    writable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    for file in files:
        stem, suffix = os.path.splitext(os.path.basename(file))
        if suffix.lower() not in writable:
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


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise FileError(f"--output: expected a folder to write to, got {path} ({error})") from error
