"""A predictor is a trained model: weights that were left at random are an error."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from PIL import Image

from libra_d2.checkpoint.safe_tensors import safetensors_bytes
from libra_d2.checks import UserError
from libra_d2.config.files import load_config
from libra_d2.inference import build_predictor, load_trained
from tests.modeling.builders import small_cfg

CONFIG = "libra_faster_rcnn_R_50_FPN_1x.yaml"


def save(tmp_path, change, *opts):
    """A checkpoint of a model, and the config that names it."""
    cfg = small_cfg(CONFIG, *opts)
    state = change(build_model(cfg).state_dict())
    torch.save({"model": state}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    return cfg


def without(*parts):
    return lambda state: {name: value for name, value in state.items() if not any(part in name for part in parts)}


def plain(state):
    """As Detectron2's own model has it."""
    own = without("refine", "gate")(state)
    return {name.replace("backbone.bottom_up.", "backbone."): value for name, value in own.items()}


IDENTITY = ("MODEL.LIBRA.BFP.INIT", "identity")


@pytest.mark.parametrize("opts", [(), IDENTITY])
def test_its_own_checkpoint_is_taken_whole(tmp_path, opts):
    cfg = save(tmp_path, lambda state: state, *opts)
    saved = torch.load(cfg.MODEL.WEIGHTS)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in build_predictor(cfg).model.state_dict().items())


def test_a_plain_detectors_weights_do_where_the_pyramid_starts_as_the_identity(tmp_path):
    assert build_predictor(save(tmp_path, plain, *IDENTITY)).model.backbone.gate == 0


@pytest.mark.parametrize(
    ("change", "opts", "lacking"),
    [
        (plain, (), r"backbone.refine \(8\)"),
        (without("refine"), IDENTITY, r"backbone.refine \(8\)"),  # its gate is open
        (without("bbox_pred"), (), r"roi_heads.box_predictor \(2\)"),
    ],
)
def test_weights_left_at_random_are_an_error(tmp_path, change, opts, lacking):
    with pytest.raises(ValueError, match=f"it lacks {lacking}"):
        build_predictor(save(tmp_path, change, *opts))


def test_another_list_of_classes_than_that_of_the_weights_is_refused(tmp_path):
    cfg = save(tmp_path, lambda state: state)
    content = torch.load(cfg.MODEL.WEIGHTS)
    torch.save({**content, "class_names": ["a", "b", "c", "d", "e"]}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["a", "b", "c", "d", "e"]
    load_trained(cfg)
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["a", "b", "c", "e", "d"]
    with pytest.raises(ValueError, match=r"trained on the classes \['a', .*'e'\], the config has \['a', .*'d'\]"):
        load_trained(cfg)
    load_trained(cfg, parts=("backbone.", "proposal_generator."))  # an RPN knows no classes


GREY = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[110.0]", "MODEL.PIXEL_STD", "[60.0]")
YUV = ("INPUT.FORMAT", "YUV-BT.601", "MODEL.PIXEL_MEAN", "[0.5, 0.0, 0.0]", "MODEL.PIXEL_STD", "[0.2, 0.2, 0.2]")


@pytest.mark.parametrize("opts", [GREY, YUV, ("INPUT.FORMAT", "RGB"), ()])
def test_the_model_gets_images_in_the_format_that_training_reads(tmp_path, opts):
    cfg = save(tmp_path, lambda state: state, "INPUT.MIN_SIZE_TEST", "0", *opts)
    predictor = build_predictor(cfg)
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]["image"]))
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(file)
    assert "instances" in predictor(read_image(str(file), "BGR"))
    expected = read_image(str(file), cfg.INPUT.FORMAT).astype("float32")
    assert np.array_equal(seen[0].numpy().transpose(1, 2, 0), expected)


def test_a_format_that_nothing_reads_is_refused(tmp_path):
    cfg = save(tmp_path, lambda state: state)
    cfg.INPUT.FORMAT = "CMYK"
    with pytest.raises(ValueError, match=r"INPUT.FORMAT: expected one of \['BGR', 'RGB', 'L', .*\], got 'CMYK'"):
        build_predictor(cfg)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(tmp_path, value):
    cfg = save(tmp_path, lambda state: {name: torch.full_like(t, value) for name, t in state.items()})
    with pytest.raises(UserError, match=r"NaN or infinity in backbone.bottom_up \(\d+\), .* diverged"):
        load_trained(cfg)


def test_no_weights_are_an_error():
    with pytest.raises(UserError, match="MODEL.WEIGHTS '' is not this detector after training"):
        load_trained(small_cfg(CONFIG))


def test_weights_saved_from_a_compiled_model_or_as_safetensors_are_the_same(tmp_path):
    cfg = save(tmp_path, lambda state: {f"_orig_mod.{name}": value for name, value in state.items()})
    compiled = load_trained(cfg).state_dict()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(compiled))
    got = load_trained(cfg).state_dict()
    assert all(torch.equal(value, got[name]) for name, value in compiled.items())


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class TestHostileFiles:
    """`load_config` and `build_predictor` run nothing of a config and of weights that somebody else wrote."""

    def config(self, tmp_path, base=False):
        hostile = f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:os.mkdir [{tmp_path / 'was_run'}]\n"
        (tmp_path / "hostile.yaml").write_text(hostile)
        (tmp_path / "derived.yaml").write_text("_BASE_: hostile.yaml\n")
        return str(tmp_path / ("derived.yaml" if base else "hostile.yaml"))

    @pytest.mark.parametrize("base", [False, True])
    def test_a_config(self, tmp_path, base):
        with pytest.raises(UserError, match="could not determine a constructor"):
            load_config(self.config(tmp_path, base), [])
        assert not (tmp_path / "was_run").exists()

    def test_detectron2_would_run_it(self, tmp_path):
        """Why the README shows another way first."""
        get_detectron2_cfg().merge_from_file(self.config(tmp_path))
        assert (tmp_path / "was_run").exists()

    def test_a_value_on_the_command_line(self, tmp_path):
        load_config("", ["OUTPUT_DIR", f"__import__('os').mkdir({str(tmp_path / 'was_run')!r})"])
        assert not (tmp_path / "was_run").exists()

    @pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pyth", "w.safetensors", "w"])
    @pytest.mark.parametrize("write", [lambda x: pickle.dumps(x), lambda x: b"PK\x03\x04" + pickle.dumps(x)])
    @pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "MODEL.LIBRA.TORCHVISION.WEIGHTS"])
    def test_weights(self, tmp_path, name, write, key):
        file = tmp_path / name
        file.write_bytes(write({"model": {}, "__author__": Attack(tmp_path / "was_run")}))
        backbone = ("MODEL.BACKBONE.NAME", "build_torchvision_fpn_backbone") if "VISION" in key else ()
        with pytest.raises(UserError, match=name):
            build_predictor(small_cfg(CONFIG, *backbone, key, str(file)))
        assert not (tmp_path / "was_run").exists()

    @pytest.mark.parametrize("legacy", [False, True])
    def test_weights_of_torch_save(self, tmp_path, legacy):
        file = tmp_path / "w.pkl"
        content = {"model": {}, "extra": Attack(tmp_path / "was_run")}
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=r"'(posix|nt).mkdir', which is not run"):
            build_predictor(small_cfg(CONFIG, "MODEL.WEIGHTS", str(file)))
        assert not (tmp_path / "was_run").exists()


def test_augmented_prediction_is_that_of_the_evaluation(tmp_path):
    opts = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 64), "INPUT.FORMAT", "RGB")
    cfg = save(tmp_path, lambda state: state, *opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    record = {"file_name": str(tmp_path / "image.png"), "height": 50, "width": 70}
    with torch.no_grad():
        expected = GeneralizedRCNNWithTTA(cfg, load_trained(cfg))([DatasetMapper(cfg, is_train=False)(record)])[0]
    found = build_predictor(cfg)(read_image(str(tmp_path / "image.png"), "BGR"))
    assert len(found["instances"])
    torch.testing.assert_close(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
    torch.testing.assert_close(found["instances"].scores, expected["instances"].scores)
    cfg.TEST.AUG.ENABLED = False
    plain_scores = build_predictor(cfg)(pixels)["instances"].scores
    assert not torch.equal(plain_scores, found["instances"].scores)


def test_augmented_prediction_that_cannot_be_is_refused(tmp_path):
    cfg = small_cfg("libra_retinanet_R_50_FPN_1x.yaml", "TEST.AUG.ENABLED", True)
    with pytest.raises(UserError, match="TEST.AUG.ENABLED: expected False: .* got True with LibraRetinaNet"):
        build_predictor(cfg)
