"""Small models and batches for the tests of this folder."""

from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import nn

import libra_d2

CONFIGS = Path(libra_d2.__file__).parents[1] / "configs"
ARCHITECTURES = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "retinanet")


def small_cfg(config: str = "libra_faster_rcnn_R_50_FPN_1x.yaml", *opts):
    """A config of this repository with a narrow, random ResNet, 5 classes and few proposals."""
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(CONFIGS / config))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.NUM_GROUPS = 1
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.001  # random weights score low
    cfg.merge_from_list(list(opts))
    return cfg


def small_config_name(architecture: str, folder: str = "") -> str:
    return f"{folder}libra_{architecture}_R_50_FPN_1x.yaml"


def objects(size, boxes=(), classes=None, masks=False) -> Instances:
    """Annotated objects of one image; ``boxes`` XYXY."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([0] * len(boxes) if classes is None else classes, dtype=torch.int64)
    instances = Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
    if masks:
        triangles = [[np.array([x1, y1, x2, y1, x2, y2])] for x1, y1, x2, y2 in boxes.double().numpy()]
        instances.gt_masks = PolygonMasks(triangles)
    return instances


def batch(num_images: int = 2, *, size=(64, 96), masks=False, seed=0) -> list[dict]:
    """Random images; every second one is without objects."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for n in range(num_images):
        boxes = [[4, 6, 40, 44], [30, 20, 80, 60], [50, 4, 62, 16]] if n % 2 == 0 else []
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        inputs.append(
            {
                "image": image,
                "instances": objects(size, boxes, list(range(len(boxes))), masks),
                "height": size[0],
                "width": size[1],
            }
        )
    return inputs


def random_boxes(count: int, size=(64, 96), seed=0) -> torch.Tensor:
    """float32 [count, 4], XYXY, inside an image of ``size`` (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corners = torch.rand(2, count, 2, generator=generator) * limit
    return torch.cat([corners.amin(0), corners.amax(0) + 1], dim=1).clamp(max=max(size))


class Pyramid(Backbone):
    """A backbone that returns given features, one learnable scale a level."""

    def __init__(self, sizes: dict[str, tuple[int, int]], channels: int = 4):
        super().__init__()
        self.sizes = sizes
        self.fpn_lateral = nn.ModuleDict({name: nn.Conv2d(3, channels, 1) for name in sizes})
        self._out_features = list(sizes)
        self._out_feature_channels = dict.fromkeys(sizes, channels)
        self._out_feature_strides = {name: 2 ** int(name[1:]) for name in sizes}

    @property
    def size_divisibility(self):
        return 48

    @property
    def padding_constraints(self):
        return {"square_size": 96}

    def forward(self, x):
        return {
            name: self.fpn_lateral[name](nn.functional.interpolate(x, size=size, mode="bilinear"))
            for name, size in self.sizes.items()
        }


class CountWaits(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operators that make the host wait for a GPU: those whose result the host has to read."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        by_mask = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)
            for i in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if by_mask or any(name.startswith(wait) for wait in self.WAITS):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))
