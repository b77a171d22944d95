"""What is exported finds what PyTorch finds, at the size of the sample image and at others."""

import argparse
import re
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.checks import FileError, UserError
from libra_d2.cli import export
from libra_d2.config import get_cfg
from libra_d2.inference import onnx as onnx_export
from libra_d2.inference.agreement import compare
from libra_d2.inference.onnx_detector import export_detector, run_detector
from libra_d2.inference.torchscript import detections, run_torchscript
from tests.engine.tiny import LIBRA, write_config

RCNN = {**LIBRA, "LIBRA": {"BFP": {"ENABLED": True}}}
MASKS = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8}
MODELS = {
    "Faster R-CNN": RCNN,
    "Mask R-CNN": {**RCNN, "MASK_ON": True, "ROI_MASK_HEAD": MASKS},
    "Cascade R-CNN": {
        **RCNN,
        "ROI_HEADS": {"NAME": "LibraCascadeROIHeads"},
        "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True, "BBOX_REG_LOSS_TYPE": "balanced_l1"},
    },
    "RetinaNet": {"META_ARCHITECTURE": "LibraRetinaNet", "LIBRA": RCNN["LIBRA"]},
}


SMOOTH = ("MODEL.LIBRA.BFP.ATTENTION", "cosine")  # of random weights the paper's softmax is all or nothing


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(export, "log_to_terminal", lambda: None)


@pytest.fixture
def exported(tmp_path, capsys):
    """Exports a model with random weights; returns (the model, its config, the image, what was printed)."""

    def run(model, kind, *opts, part=None, dynamic=False, fp16=False, change=lambda model: None):
        torch.manual_seed(0)
        config = write_config(tmp_path / "tiny.yaml", MODEL=model)
        weights = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]
        weights += ["MODEL.DEVICE", "cpu", "INPUT.MAX_SIZE_TEST", "256", *opts]
        cfg = get_cfg()
        cfg.merge_from_file(str(config))
        cfg.merge_from_list(weights)
        built = build_model(cfg).eval()
        change(built)
        torch.save({"model": built.state_dict()}, tmp_path / "model.pth")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(
            tmp_path / "a.png"
        )
        args = argparse.Namespace(config_file=str(config), format=kind, output=str(tmp_path / "out"), dynamic=dynamic)
        args.part, args.fp16 = part, fp16
        args.sample_image = str(tmp_path / "a.png")
        args.opts = ["MODEL.WEIGHTS", str(tmp_path / "model.pth"), *map(str, weights)]
        assert export.run(args) == 0
        return built, export.sample(cfg, args.sample_image), capsys.readouterr().out

    return run


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_torchscript_is_the_whole_detector(model, exported, tmp_path):
    built, image, printed = exported(model, "torchscript")
    traced = torch.jit.load(str(tmp_path / "out" / "model.ts"))
    for part in (image, image[:, 16:, :64].contiguous()):
        expected = detections(built, part)
        boxes, classes, *_, scores, size = traced(part)
        assert len(expected)
        torch.testing.assert_close(boxes, expected.pred_boxes.tensor)
        torch.testing.assert_close(scores, expected.scores)
        assert classes.tolist() == expected.pred_classes.tolist()
        assert tuple(size.tolist()) == expected.image_size
    masks = "pred_masks, " if "MASK_ON" in model else ""
    assert f"model.ts: image to pred_boxes, pred_classes, {masks}scores, image_size; at 3 x 64 x 85 and" in printed


@pytest.mark.parametrize("model", [RCNN, MODELS["RetinaNet"]], ids=["Faster R-CNN", "RetinaNet"])
def test_torchscript_in_fp16(model, exported, tmp_path):
    _, _, printed = exported(model, "torchscript", *SMOOTH, fp16=True)
    assert "at 3 x 64 x 85 and 3 x 42 x 85 " in printed
    weights = torch.jit.load(str(tmp_path / "out" / "model.ts")).state_dict()
    assert {weights[name].dtype for name in weights if "res2.0.conv1.weight" in name} == {torch.float16}


def test_a_file_that_finds_something_else_is_found_out(exported, monkeypatch):
    def run(file, image, names):
        found = run_torchscript(file, image, names)
        return {**found, "scores": found["scores"] / 2}

    monkeypatch.setattr(export, "run_torchscript", run)
    with pytest.raises(RuntimeError, match="model.ts finds other boxes than PyTorch: 20. detections"):
        exported(RCNN, "torchscript")
    with pytest.raises(UserError, match="--fp16: 20. detections .*: this model's values do not fit float16"):
        exported(RCNN, "torchscript", fp16=True)


@pytest.mark.parametrize("dynamic", [False, True], ids=["one size", "all sizes"])
def test_onnx_is_the_backbone_and_its_pyramid(dynamic, exported, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    built, image, printed = exported(RCNN, "onnx", "INPUT.FORMAT", "RGB", dynamic=dynamic)
    assert "model.onnx: image to p2, p3, p4, p5, p6; onnxruntime differs from PyTorch by" in printed
    file = str(tmp_path / "out" / "model.onnx")
    session = runtime.InferenceSession(file)
    image = torch.rand(3, 192, 224) * 255 if dynamic else image
    found = session.run(None, {"image": image.numpy()})
    inputs = built.preprocess_image([{"image": image}]).tensor
    with torch.no_grad():
        expected = built.backbone(inputs)
    assert [output.name for output in session.get_outputs()] == list(expected)
    for level, values in zip(expected.values(), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(values), level, rtol=1e-4, atol=1e-4 * level.abs().max().item())
    built.backbone.refine.conv_out.bias.data += 1
    assert onnx_export.largest_error(built, file, [image]) > 1e-4, "another model is found out"


def test_fp16_halves_the_weights_and_keeps_the_maps(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, _, printed = exported(RCNN, "onnx", *SMOOTH, fp16=True)
    error = float(re.search(r"onnxruntime differs from PyTorch by (\S+) at 3 x 64 x 85$", printed)[1])
    assert 1e-4 < error < 0.05
    graph = onnx.load(str(tmp_path / "out" / "model.onnx")).graph
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert {weights.data_type for weights in graph.initializer if len(weights.dims) == 4} == {half}  # convolutions
    assert [weights.data_type for weights in graph.initializer if len(weights.dims) == 2] == [full] * 4  # attention
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_values_that_float16_cannot_hold_are_found_out(exported, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def enlarge(model):
        model.backbone.bottom_up.fpn_output4.weight.data *= 1000

    with pytest.raises(UserError, match=r"--fp16: expected maps within 0.05 .*, got (nan|inf): this model's values"):
        exported(RCNN, "onnx", *SMOOTH, fp16=True, change=enlarge)
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_onnx_of_the_whole_detector(model, exported, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    built, image, printed = exported(model, "onnx", part="detector", dynamic=True)
    names = "pred_boxes, pred_classes, pred_masks, scores" if "MASK_ON" in model else "pred_boxes, pred_classes, scores"
    assert f"detector.onnx: image to {names}; at 3 x 64 x 85 and 3 x 42 x 85 " in printed
    file = tmp_path / "out" / "detector.onnx"
    tolerance = export._TOLERANCE
    for other in (image, torch.rand(3, 130, 201) * 255, torch.rand(3, 33, 20) * 255):
        expected, found = detections(built, other), run_detector(file, other)
        assert len(expected) > 10
        assert sorted(found) == sorted(expected.get_fields())
        assert compare(expected, found, tolerance).is_within(tolerance)
        assert (found["pred_boxes"].amax(0)[:2] <= torch.tensor(other.shape[:0:-1])).all()
    for parameter in built.backbone.parameters():
        parameter.data *= 1.1
    assert not compare(detections(built, image), run_detector(file, image), tolerance).is_within(tolerance)


def test_onnx_of_the_whole_detector_in_fp16_and_where_nothing_is_found(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    confident = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.95)
    built, image, printed = exported(MODELS["Mask R-CNN"], "onnx", *SMOOTH, *confident, part="detector", fp16=True)
    file = tmp_path / "out" / "detector.onnx"
    kinds = Counter(weights.data_type for weights in onnx.load(str(file)).graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT16] > kinds[onnx.TensorProto.FLOAT] > 0
    assert 0 < len(detections(built, image)) < 100
    assert f"at 3 x 64 x 85 {len(detections(built, image))} detections of PyTorch" in printed
    black = torch.zeros_like(image)
    assert len(detections(built, black)) == 0
    shapes = {name: tuple(values.shape) for name, values in run_detector(file, black).items()}
    assert shapes == {"pred_boxes": (0, 4), "pred_classes": (0,), "pred_masks": (0, 1, 28, 28), "scores": (0,)}


def test_an_image_without_detections_checks_nothing(exported):
    with pytest.raises(UserError, match="--sample-image: expected an image on which the model finds something"):
        exported(RCNN, "torchscript", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0)


def test_an_operator_of_the_detector_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Unusual(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    cfg = get_cfg()
    cfg.merge_from_file(str(write_config(tmp_path / "tiny.yaml", MODEL={**RCNN, "DEVICE": "cpu"})))
    model = build_model(cfg).eval()
    model.roi_heads.box_head.append(Unusual())
    with pytest.raises(UserError, match="^--format onnx: the operator aten::special_bessel_j0 cannot be exported"):
        export_detector(model, torch.rand(3, 64, 64) * 255, tmp_path / "detector.onnx")


def test_an_operator_that_cannot_be_exported_is_named():
    error = RuntimeError(
        "Error when translating node %x : [num_users=1] = call_function[target=torch.ops.aten.foo.default]"
    )
    assert onnx_export.why_not(error) == "the operator aten.foo.default cannot be exported (RuntimeError)"
    error = ValueError("Unsupported: ONNX export of operator adaptive_max_pool2d, input size")
    assert "the operator adaptive_max_pool2d cannot be exported" in onnx_export.why_not(error)
    assert "(ValueError: what)" in onnx_export.why_not(ValueError("what"))


def test_a_missing_package_is_a_sentence_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(onnx_export, "_NEEDED", ("torch", "no_such_runtime"))
    with pytest.raises(UserError, match=r"needs no_such_runtime: pip install 'libra_d2\[export\]'"):
        onnx_export.check_packages()


def test_what_cannot_be_exported_is_said(tmp_path):
    cfg = get_cfg()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(FileError, match="--sample-image: .*a.png cannot be read"):
        export.sample(cfg, str(tmp_path / "a.png"))
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match="INPUT.FORMAT: expected BGR or RGB, got 'L'"):
        export.sample(cfg, str(tmp_path / "a.png"))
    with pytest.raises(UserError, match="--dynamic: expected --format onnx"):
        export.run(argparse.Namespace(format="torchscript", dynamic=True, part=None))
    with pytest.raises(UserError, match="--part: expected detector with --format torchscript, got pyramid"):
        export.run(argparse.Namespace(format="torchscript", dynamic=False, part="pyramid"))
