"""Writes the proposals of a trained model's RPN to a file that Detectron2's Fast R-CNN configs train on.

example:
  libra-d2 proposals --config-file CONFIG.yaml --dataset coco_2017_train --output train.npz \\
      MODEL.WEIGHTS model_final.pth MODEL.RPN.POST_NMS_TOPK_TEST 2000

The config may be that of an RPN alone or of any two-stage model. --dataset is a registered name; your own COCO json
files are libra_train and libra_val of a config that training saved. Every image gets its proposals, those without
objects too, sorted by objectness, in pixels of the image file. A FILE.npz holds arrays; any other name gives a pickle,
which Detectron2 reads, too, running whatever such a file says; libra_d2 runs nothing.

Used as DATASETS.PROPOSAL_FILES_TRAIN or _TEST together with MODEL.LOAD_PROPOSALS True and
MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals.
"""

import argparse
import pickle
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.structures import BoxMode

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checks import FileError, UserError
from libra_d2.config.lazy import meta_architecture
from libra_d2.data.proposals import write_npz
from libra_d2.engine.setup import setup
from libra_d2.inference import load_trained


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dataset", metavar="NAME", help="registered data set; the first of DATASETS.TRAIN if unset")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    return parser


def run(args) -> int:
    if not args.output.parent.is_dir():
        raise FileError(f"--output: there is no folder {args.output.parent}")
    cfg = setup(args, any_classes=True)
    dataset = args.dataset or cfg.DATASETS.TRAIN[0]
    if dataset not in DatasetCatalog:
        raise UserError(f"--dataset: expected a registered data set, got {dataset!r}")
    model = load_rpn(cfg)
    content = propose(model, build_detection_test_loader(cfg, dataset))
    with atomic_write(args.output) as f:
        if args.output.suffix == ".npz":
            write_npz(content, f)
        else:
            pickle.dump(content, f, protocol=4)
    print(f"{sum(map(len, content['boxes']))} proposals for {len(content['ids'])} images of {dataset}: {args.output}")
    return 0


def load_rpn(cfg) -> ProposalNetwork:
    """The backbone and RPN of the config with its weights.

    Raises:
        UserError: the config has no RPN, or the weights do not fill backbone and RPN.
    """
    if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise UserError("expected the config of a model with an RPN, got one that reads proposals from a file")
    meta_arch = meta_architecture(cfg)
    if not issubclass(meta_arch, GeneralizedRCNN | ProposalNetwork):
        raise UserError(f"MODEL.META_ARCHITECTURE: expected a model with an RPN, got {meta_arch.__name__}")
    model = load_trained(cfg, parts=("backbone.", "proposal_generator."))
    network = ProposalNetwork(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    return network.to(cfg.MODEL.DEVICE).eval()


@torch.no_grad()
def propose(model: ProposalNetwork, loader) -> dict:
    """Detectron2's proposal file: see :func:`detectron2.data.load_proposals_into_dataset`."""
    content = {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": BoxMode.XYXY_ABS.value}
    for inputs in loader:
        for image, output in zip(inputs, model(inputs), strict=True):
            found = output["proposals"].to("cpu")
            content["ids"].append(image["image_id"])
            content["boxes"].append(found.proposal_boxes.tensor.numpy())
            content["objectness_logits"].append(found.objectness_logits.numpy())
    return content
