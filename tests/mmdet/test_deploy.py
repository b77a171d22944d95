"""Back to MMDetection: a model of libra_d2, whatever its config, detects there what it detects here."""

import functools
from pathlib import Path

import torch
from detectron2.modeling import build_model

import libra_d2
from libra_d2.cli.main import run as run_command
from libra_d2.mmdet.names import to_detectron2
from tests.mmdet.converted import agree, detect, in_float64

ROOT = Path(libra_d2.__file__).parents[1]
main = functools.partial(run_command, "convert")

# Detectron2's habits, under names of which MMDetection's config knows the opposite
CONFIG = """
_BASE_: "{base}"
MODEL:
  PIXEL_STD: [57.375, 57.120, 58.395]  # else random weights give features beyond all measure
  {extra}
TEST:
  DETECTIONS_PER_IMAGE: 60
"""
EXTRA = {
    "faster_rcnn": "ROI_HEADS: {SCORE_THRESH_TEST: 0.55, NMS_THRESH_TEST: 0.4}",
    "retinanet": "LIBRA: {RETINANET: {CLIP_BEFORE_NMS: True}, BFP: {REFINE_LEVEL: p5}}",
}


NAMES = ("faster_rcnn", "retinanet")


def convert_back(name, weights, folder, capsys):
    """(our config, MMDetection's config, `--cfg-options`, MMDetection's state dict), by the command line."""
    ours, theirs, config = folder / "ours.pth", folder / "theirs.pth", folder / f"{name}.yaml"
    torch.save({"model": weights}, ours)
    config.write_text(CONFIG.format(base=ROOT / "configs" / f"libra_{name}_R_50_FPN_1x.yaml", extra=EXTRA[name]))
    assert main(["--reverse", "--config-file", str(config), str(ours), str(theirs)]) == 0
    *_, options, file = capsys.readouterr().out.splitlines()
    state_dict = torch.load(theirs, weights_only=True)["state_dict"]
    options = options.removeprefix("--cfg-options ").split()
    return config, Path(file.removeprefix("config: ")).stem, options, state_dict


def test_the_printed_options_make_mmdetection_detect_the_same(mmdet, tmp_path, capsys):
    image = mmdet("faster_rcnn")["image"]
    found, questions = {}, []
    for name in NAMES:
        weights = to_detectron2(mmdet(name)["state_dict"])[1]
        config, their_config, options, state_dict = convert_back(name, weights, tmp_path, capsys)
        cfg = libra_d2.get_cfg()
        cfg.merge_from_file(str(config))
        cfg.MODEL.DEVICE = "cpu"
        assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", True)
        model = build_model(cfg).eval()
        model.load_state_dict(weights)
        in_float64(model)
        found[name] = detect(model, image.flip(0))  # the model reads BGR, the oracle's images are RGB
        assert 10 < len(found[name]) <= 60
        question = {"config": their_config, "state_dict": state_dict, "image": image}
        questions += [{**question, "options": options}, {**question, "options": []}]
    answers = mmdet("deploy", questions)
    for i, name in enumerate(NAMES):
        assert agree(found[name], answers[2 * i])
        assert not agree(found[name], answers[2 * i + 1]), "without the options it would detect the same"
