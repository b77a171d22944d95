#!/usr/bin/env python
"""Converts Libra R-CNN weights between MMDetection (2.0 and later) and libra_d2.

    tools/convert_mmdet.py IN.pth OUT.pth             MMDetection -> libra_d2
    tools/convert_mmdet.py --reverse IN.pth OUT.pth   libra_d2 -> MMDetection, e.g. for MMDeploy

Reads published files, a runner's own checkpoints and bare state dicts of Libra Faster R-CNN and Libra RetinaNet with
ResNet-50, ResNet-101 or ResNeXt-101-64x4d; MMDetection is not needed. The last line names the config to use.

Going back, weights do not tell everything: the order of colours, the stride of a block, ReLU before p7. `--config-file`
takes the config that the model was trained with and prints the `--cfg-options` under which MMDetection's and MMDeploy's
tools compute the same; without it they are those of configs/mmdet_compat/.
"""

import argparse
import sys
from pathlib import Path

import torch

from libra_d2.checkpoint.mmdet import batch_counters, to_detectron2, to_mmdet
from libra_d2.checkpoint.mmdet_file import read_mmdet, read_tensors
from libra_d2.checkpoint.mmdet_options import mmdet_options, refuse_other_boxes
from libra_d2.checkpoint.whole_file import whole_file

COMPAT = Path(__file__).resolve().parents[1] / "configs" / "mmdet_compat"


def convert(source: Path) -> tuple[dict, list[str]]:
    tensors = read_mmdet(source)
    architecture, model = to_detectron2(tensors)
    report = [f"{len(model)} tensors, {architecture.num_classes} classes"]
    if architecture.opts:
        report.append(f"add: {' '.join(architecture.opts)}")
    report.append(f"config: configs/mmdet_compat/{architecture.config}")
    return {"model": model, "batch_counters": batch_counters(tensors)}, report


def convert_back(source: Path, config_file: str | None) -> tuple[dict, list[str]]:
    tensors, rest = read_tensors(source, "model")
    architecture, state_dict = to_mmdet(tensors, rest.get("batch_counters"))
    report = [f"{len(tensors)} tensors, {architecture.num_classes} classes"]
    from libra_d2.engine import load_config  # the other direction does not need Detectron2

    compat = load_config(str(COMPAT / architecture.config), [])
    cfg = load_config(config_file, []) if config_file else compat
    refuse_other_boxes(cfg, compat, architecture)
    report += [f"--cfg-options {' '.join(mmdet_options(cfg, architecture))}"]
    report += [f"config: configs/libra_rcnn/{architecture.mmdet_config}"]
    return {"meta": {}, "state_dict": state_dict}, report


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN.pth", type=Path)
    parser.add_argument("target", metavar="OUT.pth", type=Path)
    parser.add_argument("--reverse", action="store_true", help="from libra_d2 to MMDetection")
    parser.add_argument("--config-file", metavar="FILE", help="with --reverse: the config that IN.pth was trained with")
    args = parser.parse_args(argv)
    if args.config_file and not args.reverse:
        parser.error("--config-file: expected with --reverse only; the other way the config is part of the answer")
    try:
        content, report = convert_back(args.source, args.config_file) if args.reverse else convert(args.source)
        with whole_file(args.target) as f:
            torch.save(content, f)
    except (ValueError, OSError) as e:
        print(f"convert_mmdet.py: {e}", file=sys.stderr)
        return 1
    print("\n".join(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
