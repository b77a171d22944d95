"""Converts Libra R-CNN weights between MMDetection (2.0 and later) and libra_d2.

examples:
  libra-d2 convert IN.pth OUT.pth             MMDetection -> libra_d2
  libra-d2 convert --reverse IN.pth OUT.pth   libra_d2 -> MMDetection, e.g. for MMDeploy
  libra-d2 convert model_final.pth OUT.safetensors   a libra_d2 checkpoint, its names kept, in a format without code

IN and OUT may be .safetensors throughout. Reads published files, a runner's own checkpoints and bare state dicts of
Libra Faster R-CNN and Libra RetinaNet with ResNet-50, ResNet-101 or ResNeXt-101-64x4d; MMDetection is not
needed. The last line names the config to use.

Going back, weights do not tell everything: the order of colours, the stride of a block, ReLU before p7. --config-file
takes the config that the model was trained with and prints the --cfg-options under which MMDetection's and MMDeploy's
tools compute the same; without it they are those of configs/mmdet_compat/.
"""

import argparse

import torch

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checkpoint.safe_load import load_file
from libra_d2.checkpoint.safe_tensors import safetensors_bytes
from libra_d2.checkpoint.state_dict import plain, state_dict_of
from libra_d2.checks import UserError
from libra_d2.mmdet import (
    STAND_INS,
    batch_counters,
    mmdet_options,
    read_published,
    read_tensors,
    refuse_other_boxes,
    to_detectron2,
    to_mmdet,
)


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN.pth")
    parser.add_argument("target", metavar="OUT.pth")
    parser.add_argument("--reverse", action="store_true", help="from libra_d2 to MMDetection")
    parser.add_argument("--config-file", metavar="FILE", help="with --reverse: the config that IN.pth was trained with")
    return parser


def run(args) -> int:
    if args.config_file and not args.reverse:
        raise UserError("--config-file: expected with --reverse only; the other way the config is part of the answer")
    to_safetensors = args.target.endswith(".safetensors")
    if args.reverse:
        content, report = convert_back(args.source, args.config_file)
    elif to_safetensors and (own := own_weights(args.source)):
        content, report = own, [f"{len(own['model'])} tensors, in the names of libra_d2"]
    else:
        content, report = convert(args.source)
    with atomic_write(args.target) as f:
        if to_safetensors:
            weights = content["state_dict" if args.reverse else "model"]
            f.write(safetensors_bytes(weights, content.get("class_names", ())))
        else:
            torch.save(content, f)
    print("\n".join(report))
    return 0


def own_weights(source: str) -> dict | None:
    """Weights, and class names, of a checkpoint that libra_d2 or Detectron2 wrote; None where it is none."""
    content = plain(load_file(source, STAND_INS), source)
    if "model" not in content:
        return None
    names = content.get("class_names")
    return {
        "model": state_dict_of(content["model"], source),
        "class_names": names if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) else [],
    }


def convert(source: str) -> tuple[dict, list[str]]:
    tensors, class_names = read_published(source)
    architecture, model = to_detectron2(tensors)
    report = [f"{len(model)} tensors, {architecture.num_classes} classes"]
    if architecture.opts:
        report.append(f"add: {' '.join(architecture.opts)}")
    report.append(f"config: configs/mmdet_compat/{architecture.config}")
    content = {"model": model, "batch_counters": batch_counters(tensors)}
    return content | ({"class_names": class_names} if class_names else {}), report


def convert_back(source: str, config_file: str | None) -> tuple[dict, list[str]]:
    tensors, rest = read_tensors(source, "model")
    architecture, state_dict = to_mmdet(tensors, rest.get("batch_counters"))
    report = [f"{len(tensors)} tensors, {architecture.num_classes} classes"]
    from libra_d2.config.files import load_config  # the other direction does not need Detectron2

    compat = load_config(f"configs/mmdet_compat/{architecture.config}", [])
    cfg = load_config(config_file, []) if config_file else compat
    refuse_other_boxes(cfg, compat, architecture)
    report += [f"--cfg-options {' '.join(mmdet_options(cfg, architecture))}"]
    report += [f"config: configs/libra_rcnn/{architecture.mmdet_config}"]
    return {"meta": {}, "state_dict": state_dict}, report
