"""Path aggregation network (Liu et al., CVPR 2018), the bottom-up path behind FPN as MMDetection builds it."""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool


class PAFPN(FPN):
    """FPN with a second, bottom-up path over its outputs.

    Each output of FPN gets the stride-2 convolution of the finer one added; all but the finest then pass a 3x3
    convolution. Arguments and output names are those of :class:`detectron2.modeling.FPN`, whose checkpoints load into
    it: only ``pafpn_*`` is new. A ``top_block`` that reads a pyramid level reads the final one.
    """

    def __init__(self, bottom_up, in_features, out_channels, norm="", **kwargs):
        super().__init__(bottom_up, in_features, out_channels, norm=norm, **kwargs)
        self._fpn_levels = self._out_features[: len(in_features)]
        for level in self._fpn_levels[1:]:
            for role, stride in (("downsample", 2), ("output", 1)):
                conv = Conv2d(
                    out_channels,
                    out_channels,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    bias=norm == "",
                    norm=get_norm(norm, out_channels),
                )
                weight_init.c2_xavier_fill(conv)
                self.add_module(f"pafpn_{role}{level.removeprefix('p')}", conv)

    def forward(self, x):
        features = super().forward(x)
        finer = features[self._fpn_levels[0]]
        for level in self._fpn_levels[1:]:
            stage = level.removeprefix("p")
            finer = features[level] + self.get_submodule(f"pafpn_downsample{stage}")(finer)
            features[level] = self.get_submodule(f"pafpn_output{stage}")(finer)
        if self.top_block is not None and self.top_block.in_feature in features:
            names = self._out_features[len(self._fpn_levels) :]
            features.update(zip(names, self.top_block(features[self.top_block.in_feature]), strict=True))
        return features


@BACKBONE_REGISTRY.register()
def build_resnet_pafpn_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ``build_resnet_fpn_backbone`` with :class:`PAFPN` instead of FPN."""
    return PAFPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
