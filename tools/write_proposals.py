#!/usr/bin/env python
"""Writes the proposals of a trained model's RPN to a file that Detectron2's Fast R-CNN configs train on.

    tools/write_proposals.py --config-file CONFIG.yaml --dataset coco_2017_train --output train.pkl \\
        MODEL.WEIGHTS model_final.pth MODEL.RPN.POST_NMS_TOPK_TEST 2000

The config may be that of an RPN alone or of any two-stage model. `--dataset` is a registered name; one's own COCO json
files are `libra_train` and `libra_val` of a config saved by train_net.py. Every image gets its proposals, those without
objects too, sorted by objectness, in pixels of the image file. Used as DATASETS.PROPOSAL_FILES_TRAIN or _TEST together
with MODEL.LOAD_PROPOSALS True and MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals.
"""

import argparse
import pickle
import sys
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork, build_model
from detectron2.structures import BoxMode

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.checkpoint.whole_file import whole_file
from libra_d2.data import complete_config, register_datasets
from libra_d2.engine.arguments import given_keys, load_config


def build_rpn(cfg) -> ProposalNetwork:
    """The backbone and RPN of the config with its weights.

    Raises:
        ValueError: the config has no RPN, names no weights, or the weights do not fill backbone and RPN.
    """
    if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise ValueError("expected the config of a model with an RPN, got one that reads proposals from a file")
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("expected a trained model: add MODEL.WEIGHTS FILE")
    meta_arch = cfg.MODEL.META_ARCHITECTURE
    if not issubclass(META_ARCH_REGISTRY.get(meta_arch), GeneralizedRCNN | ProposalNetwork):
        raise ValueError(f"MODEL.META_ARCHITECTURE: expected a model with an RPN, got {meta_arch}")
    model = build_model(cfg)
    checkpointer = LibraCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    lost = [name for name in checkpointer.not_loaded if name.startswith(("backbone.", "proposal_generator."))]
    if lost:
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS}: expected all weights of backbone and RPN, {len(lost)} are missing, e.g. {lost[0]}; "
            "take the config the weights were trained with"
        )
    return ProposalNetwork(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    ).to(cfg.MODEL.DEVICE)


@torch.no_grad()
def propose(model: ProposalNetwork, loader) -> dict:
    """Detectron2's proposal file: see :func:`detectron2.data.load_proposals_into_dataset`."""
    content = {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": BoxMode.XYXY_ABS.value}
    model.eval()
    for inputs in loader:
        for image, output in zip(inputs, model(inputs), strict=True):
            found = output["proposals"].to("cpu")
            content["ids"].append(image["image_id"])
            content["boxes"].append(found.proposal_boxes.tensor.numpy())
            content["objectness_logits"].append(found.objectness_logits.numpy())
    return content


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dataset", metavar="NAME", help="registered data set; the first of DATASETS.TRAIN if unset")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    args = parser.parse_args(argv)
    try:
        if not args.output.parent.is_dir():
            raise ValueError(f"--output: there is no folder {args.output.parent}")
        cfg = load_config(args.config_file, args.opts)
        complete_config(cfg, given_keys(args.opts))
        register_datasets(cfg)
        dataset = args.dataset or cfg.DATASETS.TRAIN[0]
        if dataset not in DatasetCatalog:
            raise ValueError(f"--dataset: expected a registered data set, got {dataset!r}")
        model = build_rpn(cfg)
        content = propose(model, build_detection_test_loader(cfg, dataset))
        with whole_file(args.output) as f:
            pickle.dump(content, f, protocol=4)
    except (ValueError, OSError) as e:
        print(f"write_proposals.py: {e}", file=sys.stderr)
        return 1
    print(f"{sum(map(len, content['boxes']))} proposals for {len(content['ids'])} images of {dataset}: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
