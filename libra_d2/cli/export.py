"""Exports a trained model, and checks what it wrote against PyTorch.

examples:
  libra-d2 export --config-file output/config.yaml --format torchscript --sample-image a.jpg --output exported \\
      MODEL.WEIGHTS output/model_final.pth
  libra-d2 export --config-file output/config.yaml --format onnx --dynamic --sample-image a.jpg --output exported \\
      MODEL.WEIGHTS output/model_final.pth
  libra-d2 export --config-file output/config.yaml --format onnx --part detector --dynamic --sample-image a.jpg \\
      --output exported MODEL.WEIGHTS output/model_final.pth

torchscript (model.ts): the whole detector without postprocessing. One image [C, H, W] in, of any size; boxes, classes,
masks of 28 x 28, scores and the image's size out.
onnx (model.onnx): backbone and balanced pyramid. One image [C, H, W] in, p2 to p6 out.
onnx with --part detector (detector.onnx): the whole detector, NMS included, without postprocessing. One image
[C, H, W] in; boxes, classes, masks of 28 x 28 and scores out.

All take float32, 0..255, with channels as in INPUT.FORMAT; the sample image is resized as for prediction. With --fp16
the convolutions are of float16; what goes in and comes out stays float32.
"""

import argparse
import os

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from libra_d2.checks import FileError, UserError
from libra_d2.data.image import read_8_bits
from libra_d2.engine.output_dir import log_to_terminal, make_output
from libra_d2.engine.setup import setup
from libra_d2.inference import load_trained
from libra_d2.inference.agreement import Tolerance, compare, together
from libra_d2.inference.half import in_half
from libra_d2.inference.onnx import FEWEST, check_packages, export_onnx, largest_error
from libra_d2.inference.onnx_detector import export_detector, run_detector
from libra_d2.inference.torchscript import detections, export_torchscript, run_torchscript

_ACCURACY = 1e-4  # of the largest value; rounding adds up to a tenth of it
_ACCURACY_OF_FP16 = 0.05  # of the largest value; a fifth of it was seen of trained models
_TOLERANCE = Tolerance(pixels=0.1, value=1e-3, strays=0.02)
_TOLERANCE_OF_FP16 = Tolerance(pixels=2.0, value=0.05, strays=0.1)


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--format", choices=("onnx", "torchscript"), required=True)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--sample-image", required=True, metavar="IMAGE", help="an image to trace and check with")
    parser.add_argument(
        "--dynamic",
        action="store_true",
        help="onnx: for all sizes; of the pyramid, for multiples of its stride (usually 32, from 160 pixels on)",
    )
    parser.add_argument(
        "--part", choices=("pyramid", "detector"), help="onnx: what to export (pyramid); torchscript: only detector"
    )
    parser.add_argument("--fp16", action="store_true", help="compute in float16 where it is safe")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, e.g. MODEL.WEIGHTS FILE")
    return parser


def run(args) -> int:
    log_to_terminal()
    if args.format == "onnx":
        check_packages()
    elif args.part == "pyramid":
        raise UserError("--part: expected detector with --format torchscript, got pyramid")
    elif args.dynamic:
        raise UserError("--dynamic: expected --format onnx with it; TorchScript takes images of any size anyway")
    cfg = setup(args, overrides=["MODEL.DEVICE", "cpu"])
    image = sample(cfg, args.sample_image)
    make_output(args.output)
    print((_detector if args.format == "torchscript" or args.part == "detector" else _pyramid)(cfg, image, args))
    return 0


def _pyramid(cfg: CfgNode, image: torch.Tensor, args) -> str:
    model, file = load_trained(cfg, parts=("backbone.",)), os.path.join(args.output, "model.onnx")
    images = [image]
    if args.dynamic:
        image, other = (_cut(image, model.backbone.size_divisibility, rows) for rows in (0, 1))
        images = [image, other]
    levels = export_onnx(in_half(model) if args.fp16 else model, image, file, dynamic=args.dynamic)
    error = largest_error(model, file, images)
    if args.fp16 and not error < _ACCURACY_OF_FP16:
        os.remove(file)
        raise UserError(
            f"--fp16: expected maps within {_ACCURACY_OF_FP16} of their largest value from PyTorch's in float32, got "
            f"{error:.2g}: this model's values do not fit float16, export it without --fp16"
        )
    if not args.fp16 and not error < _ACCURACY:
        raise RuntimeError(f"{file} differs from PyTorch by {error:.2g} of the largest value")
    return f"{file}: image to {', '.join(levels)}; onnxruntime differs from PyTorch by {error:.1g} at {_sizes(images)}"


def _detector(cfg: CfgNode, image: torch.Tensor, args) -> str:
    model, images = load_trained(cfg), [image]
    if args.format == "torchscript" or args.dynamic:
        images.append(image[:, : -image.shape[1] // 3].contiguous())
    expected = [detections(model, each) for each in images]
    if not len(expected[0]):
        raise UserError("--sample-image: expected an image on which the model finds something, to check with")
    exported = in_half(model) if args.fp16 else model
    if args.format == "torchscript":
        file = os.path.join(args.output, "model.ts")
        names = export_torchscript(exported, image, file)
        found = [run_torchscript(file, each, names) for each in images]
    else:
        file = os.path.join(args.output, "detector.onnx")
        names = export_detector(exported, image, file, dynamic=args.dynamic)
        found = [run_detector(file, each) for each in images]
    tolerance = _TOLERANCE_OF_FP16 if args.fp16 else _TOLERANCE
    agreement = together([compare(*pair, tolerance) for pair in zip(expected, found, strict=True)])
    if args.fp16 and not agreement.is_within(tolerance):
        os.remove(file)
        raise UserError(f"--fp16: {agreement}: this model's values do not fit float16, export it without --fp16")
    if not agreement.is_within(tolerance):
        raise RuntimeError(f"{file} finds other boxes than PyTorch: {agreement}")
    return f"{file}: image to {', '.join(names)}; at {_sizes(images)} {agreement}"


def sample(cfg: CfgNode, path: str) -> torch.Tensor:
    """An image as the exported models take it: float32 [C, H, W], resized as for prediction.

    Raises:
        FileError: it cannot be read.
        UserError: the channels of ``INPUT.FORMAT`` are neither BGR nor RGB.
    """
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise UserError(f"INPUT.FORMAT: expected BGR or RGB, got {cfg.INPUT.FORMAT!r}, which cannot be exported")
    try:
        pixels = read_8_bits(path)
    except Exception as error:  # Pillow raises whatever a damaged file leads its decoders to
        raise FileError(f"--sample-image: {path} cannot be read ({type(error).__name__}: {error})") from error
    pixels = pixels[:, :, ::-1] if cfg.INPUT.FORMAT == "RGB" else pixels
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    pixels = resize.get_transform(pixels).apply_image(pixels)
    return torch.as_tensor(pixels.astype("float32").transpose(2, 0, 1))


def _sizes(images: list[torch.Tensor]) -> str:
    return " and ".join(" x ".join(map(str, image.shape)) for image in images)


def _cut(image: torch.Tensor, divisor: int, more_rows: int) -> torch.Tensor:
    """The image with sides that are multiples of ``divisor``: cut, or repeated where it is too small."""
    height, width = (max(FEWEST, side // divisor) for side in image.shape[1:])
    height += more_rows
    repeated = image.repeat(1, divisor * height // image.shape[1] + 1, divisor * width // image.shape[2] + 1)
    return repeated[:, : divisor * height, : divisor * width].contiguous()
