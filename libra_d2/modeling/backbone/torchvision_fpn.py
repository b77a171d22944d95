"""Any convolutional classifier of torchvision as the bottom-up half of Detectron2's FPN."""

from __future__ import annotations

import difflib

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from libra_d2.checkpoint.safe_load import load_file
from libra_d2.checkpoint.state_dict import non_finite, state_dict_of
from libra_d2.checks import UserError

__all__ = ["TorchvisionBackbone", "build_torchvision_fpn_backbone"]

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
PROBE_SIZE = 128


class TorchvisionBackbone(Backbone):
    """The last feature map at each of the strides 4, 8, 16 and 32 of a torchvision classifier.

    The maps have the names of Detectron2's ResNet stages (res2, res3, res4, res5), so its FPN configs fit unchanged.
    Batch normalisation is frozen: its statistics and its affine parameters stay what the weights say.

    Args:
        name: a model of ``torchvision.models`` that is convolutional throughout, such as "resnet50", "mobilenet_v2",
            "efficientnet_b0" or "convnext_tiny".
        weights: a ``.pth`` file or URL of a state dict in torchvision's names, a name of its weights enum such as
            "IMAGENET1K_V1" (torchvision downloads it), or "" for random weights. Classifier weights are ignored.
        freeze_at: how many stages have parameters that are not trained, counted as Detectron2 does: 0 none, 1 the stem
            (up to stride 2), 2 the stem and res2, ... 5 everything.

    Raises:
        UserError: ``name`` is unknown or lacks one of the strides, or ``weights`` does not fit it.
    """

    def __init__(self, name: str, weights: str = "", freeze_at: int = 0):
        super().__init__()
        if name not in torchvision.models.list_models(torchvision.models):
            near = difflib.get_close_matches(name, torchvision.models.list_models(torchvision.models))
            raise UserError(
                f"MODEL.LIBRA.TORCHVISION.NAME: expected a classifier of torchvision.models, got {name!r}"
                + (f"; did you mean one of {near}?" if near else "")
            )
        model = torchvision.models.get_model(name, weights=None)
        if weights:
            _load_weights(model, name, weights)
        model = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
        ends, order = _probe(model, name)
        _freeze(ends, order, freeze_at)
        self.body = create_feature_extractor(
            model,
            {ends[stage]: stage for stage in STRIDES},
            tracer_kwargs={"leaf_modules": [FrozenBatchNorm2d]},  # its forward branches on requires_grad
        )
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
        self.train()
        self._shapes = {stage: ShapeSpec(channels=maps[stage].shape[1], stride=STRIDES[stage]) for stage in STRIDES}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Takes normalised images [N, 3, H, W]; returns {"res2": [N, C, H/4, W/4], ..., "res5": [N, C, H/32, W/32]}."""
        return self.body(x)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def _probe(model: nn.Module, name: str) -> tuple[dict[str, str], list[tuple[str, nn.Module]]]:
    """Runs an image through the model.

    Returns:
        which module ends the stem and each stage, and all modules in the order in which they end.
    """
    order: list[tuple[str, nn.Module]] = []
    last: dict[int, str] = {}

    def note(path: str, module: nn.Module, output: object) -> None:
        order.append((path, module))
        # two levels of modules are the stages and their blocks; deeper ones are the inside of a block
        if path.count(".") < 2 and isinstance(output, Tensor) and output.dim() == 4:
            height, width = output.shape[2:]
            if height == width and height and PROBE_SIZE % height == 0:
                last[PROBE_SIZE // height] = path

    hooks = [
        module.register_forward_hook(lambda module, _, output, path=path: note(path, module, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
    except Exception as error:  # whatever a model that is not convolutional finds wrong with the size
        raise UserError(
            f"MODEL.LIBRA.TORCHVISION.NAME: expected a model that takes images of any size, got {name!r}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    missing = [stride for stride in STRIDES.values() if stride not in last]
    if missing:
        raise UserError(
            f"MODEL.LIBRA.TORCHVISION.NAME: expected a model with [N, C, H, W] feature maps at strides "
            f"{list(STRIDES.values())}, got {name!r}, which has none at {missing}"
        )
    first_block = next(path for path, _ in order if path.count(".") < 2)
    ends = {"stem": last.get(2, first_block), **{stage: last[stride] for stage, stride in STRIDES.items()}}
    return ends, order


def _freeze(ends: dict[str, str], order: list[tuple[str, nn.Module]], freeze_at: int) -> None:
    if not freeze_at:
        return
    end = list(ends.values())[min(freeze_at, len(ends)) - 1]
    for path, module in order:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        if path == end:
            return


def _load_weights(model: nn.Module, name: str, weights: str) -> None:
    enum = torchvision.models.get_model_weights(name)
    where = f"MODEL.LIBRA.TORCHVISION.WEIGHTS {weights}"
    try:
        if weights in enum.__members__:
            state = enum[weights].get_state_dict(progress=True, check_hash=True)
        else:
            state = state_dict_of(load_file(PathManager.get_local_path(weights)), where)
    except OSError as error:
        raise UserError(
            f"MODEL.LIBRA.TORCHVISION.WEIGHTS: expected a file, a URL or one of {list(enum.__members__)}, "
            f"got {weights!r}, which cannot be read ({error}); '' will do where MODEL.WEIGHTS holds the trained model"
        ) from error
    wanted = model.state_dict()
    wrong = [
        key
        for key in wanted
        if not key.startswith(("classifier.", "fc.", "head.", "heads."))
        and not key.endswith("num_batches_tracked")
        and (key not in state or state[key].shape != wanted[key].shape)
    ]
    if wrong:
        raise UserError(
            f"MODEL.LIBRA.TORCHVISION.WEIGHTS: expected the state dict of torchvision's {name}, got {weights!r}, "
            f"in which {len(wrong)} of {len(wanted)} tensors are missing or of another shape, such as {wrong[0]!r}"
        )
    fitting = {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}
    if bad := non_finite(fitting):
        raise UserError(f"{where}: expected finite weights, got NaN or infinity in {len(bad)}, such as {bad[0]!r}")
    model.load_state_dict(fitting, strict=False)


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds Detectron2's FPN over a :class:`TorchvisionBackbone`.

    ``MODEL.LIBRA.TORCHVISION`` says which model and weights, ``MODEL.BACKBONE.FREEZE_AT`` what is not trained, and
    ``MODEL.FPN`` the rest. ``MODEL.FPN.IN_FEATURES`` that begin with res2 give p2 ... p6 (max-pooled), those that begin
    with res3 give p3 ... p7 (two more convolutions, as in RetinaNet).

    Weights of torchvision need ``INPUT.FORMAT`` "RGB", ``MODEL.PIXEL_MEAN`` [123.675, 116.28, 103.53] and
    ``MODEL.PIXEL_STD`` [58.395, 57.12, 57.375].
    """
    if input_shape.channels != 3:
        raise UserError(f"build_torchvision_fpn_backbone: expected images of 3 channels, got {input_shape.channels}")
    bottom_up = TorchvisionBackbone(
        cfg.MODEL.LIBRA.TORCHVISION.NAME, cfg.MODEL.LIBRA.TORCHVISION.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT
    )
    in_features, out_channels = cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS
    if "res2" in in_features:
        top_block = LastLevelMaxPool()
    else:
        top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, out_channels)
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=out_channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
