"""Large images in tiles: SAHI cuts the image and sorts out what was found in several tiles."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import nn

from libra_d2.checks import UserError, number, require_packages, value_of
from libra_d2.inference.tile_masks import TileMasks

_NEEDED = ("sahi", "shapely")
_NEAR = 1 / 16  # of what two tiles share: so near to a border, a detection may be of a part of an object


def check_tiles(cfg: CfgNode) -> None:
    """Raises UserError where tiles are asked for and cannot be: a wrong value, a missing package, an unfit model."""
    number(cfg, "MODEL.LIBRA.TILES.OVERLAP", "a part of a tile, from 0 to below 1", lambda x: 0 <= x < 1)
    size = number(cfg, "MODEL.LIBRA.TILES.SIZE", "pixels, or 0 for whole images", lambda x: x >= 0)
    if not size:
        return
    require_packages("--tile", _NEEDED, "tiles")
    for key in ("MODEL.LOAD_PROPOSALS", "MODEL.KEYPOINT_ON"):
        if value_of(cfg, key):
            raise UserError(f"MODEL.LIBRA.TILES.SIZE: expected 0 with {key} True, which tiles cannot do, got {size}")


def in_tiles(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model, made to look at its images in tiles if the config asks for them; it then needs :func:`unresized`."""
    return TiledModel(cfg, model) if cfg.MODEL.LIBRA.TILES.SIZE else model


def unresized(cfg: CfgNode) -> CfgNode:
    """The config, made to read images as they are if it asks for tiles."""
    if not cfg.MODEL.LIBRA.TILES.SIZE:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


class TiledModel(nn.Module):
    """A detector that looks at an image tile by tile.

    Tiles are resized as images are without it. A detection at the border of a tile is dropped where another tile shows
    what is there with more around it. Of detections of one class that overlap by the model's own NMS threshold the best
    is kept, whichever tiles they come from. An image that is no larger than a tile goes to the model as it is.

    Args:
        cfg: says size and overlap of the tiles, and how they are resized.
        model: one of Detectron2's detectors; stays in the mode, training or evaluation, that it is in.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training
        self._size, self._overlap = cfg.MODEL.LIBRA.TILES.SIZE, cfg.MODEL.LIBRA.TILES.OVERLAP
        self._resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._is_float = cfg.INPUT.FORMAT.startswith("YUV")
        of_model = (part.test_nms_thresh for part in model.modules() if hasattr(part, "test_nms_thresh"))
        self.nms_threshold = next(of_model, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Like Detectron2's models in evaluation mode; "image" is [C, H, W], of the size of the image itself."""
        return [{"instances": self._predict(inputs["image"])} for inputs in batched_inputs]

    def _predict(self, image: torch.Tensor) -> Instances:
        from sahi.slicing import get_slice_bboxes

        image = image if self._is_float else image.to(torch.uint8)  # what resizing of files computes with
        height, width = image.shape[1:]
        tiles = get_slice_bboxes(
            height,
            width,
            self._size,
            self._size,
            overlap_height_ratio=self._overlap,
            overlap_width_ratio=self._overlap,
        )
        found = [self._predict_tile(image[:, top:bottom, left:right]) for left, top, right, bottom in tiles]
        if len(tiles) == 1:
            return found[0]
        image_size, numbers = (height, width), torch.tensor([len(each) for each in found])
        moved = Instances.cat([moved_to(each, *tile[:2], image_size) for each, tile in zip(found, tiles, strict=True)])
        places = torch.tensor(tiles, dtype=torch.float32).repeat_interleave(numbers, dim=0)
        near = _NEAR * int(self._overlap * self._size)
        shown = shown_best(moved.pred_boxes.tensor, places, torch.tensor(tiles), image_size, near)
        return best_of(moved[shown], self.nms_threshold)

    def _predict_tile(self, tile: torch.Tensor) -> Instances:
        height, width = tile.shape[1:]
        pixels = tile.permute(1, 2, 0).numpy()
        pixels = self._resize.get_transform(pixels).apply_image(pixels)
        pixels = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return self.model([{"image": pixels, "height": height, "width": width}])[0]["instances"].to("cpu")


def moved_to(found: Instances, x: int, y: int, image_size: tuple[int, int]) -> Instances:
    """What was found in a tile, in the pixels of its image.

    Args:
        found: boxes and, if the model has them, masks in the pixels of the tile.
        x, y: the corner of the tile.
        image_size: (height, width).
    """
    fields = dict(found.get_fields())
    fields["pred_boxes"] = Boxes(found.pred_boxes.tensor + torch.tensor([x, y, x, y]))
    if found.has("pred_masks"):
        fields["pred_masks"] = TileMasks.of_tile(found.pred_masks, x, y, image_size)
    return Instances(image_size, **fields)


def shown_best(
    boxes: torch.Tensor, places: torch.Tensor, tiles: torch.Tensor, image_size: tuple[int, int], near: float
) -> torch.Tensor:
    """Which boxes are away from the borders of their tile, or near one in every tile: bool [N].

    Args:
        boxes: float [N, 4], XYXY pixels of the image.
        places: [N, 4], the tile that each was found in.
        tiles: [T, 4], all tiles; borders of the image are none of theirs.
        image_size: (height, width).
        near: pixels from a border.
    """
    own = _room(boxes, places, image_size)
    most = _room(boxes[:, None], tiles, image_size).amax(1)
    return (own >= near) | (most < near)


def _room(boxes: torch.Tensor, tiles: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Pixels from boxes [..., 4] to the nearest border, inside the image, of tiles; negative for what sticks out."""
    height, width = image_size
    before, behind = boxes[..., :2] - tiles[..., :2], tiles[..., 2:] - boxes[..., 2:]
    before = before.masked_fill(tiles[..., :2] == 0, float("inf"))
    behind = behind.masked_fill(tiles[..., 2:] == torch.tensor([width, height]), float("inf"))
    return torch.minimum(before, behind).amin(-1)


def best_of(found: Instances, threshold: float) -> Instances:
    """Those that no better one of their class overlaps by ``threshold`` (IoU) or more, the best first."""
    from sahi.postprocess.combine import batched_nms

    columns = (found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None])
    kept = batched_nms(torch.cat(columns, dim=1).numpy(), "IOU", threshold)
    return found[torch.tensor(kept, dtype=torch.int64)]
