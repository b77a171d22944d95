"""A LazyConfig as --config-file: its model, and all the rest of the config that it names."""

import pytest
from detectron2.modeling import build_model

from libra_d2 import model_zoo
from libra_d2.checks import UserError
from libra_d2.config import lazy
from libra_d2.config.files import load_config
from libra_d2.engine.setup import enter_process
from libra_d2.inference.predictor import check_augmented_test
from libra_d2.modeling import LibraRetinaNet, LibraROIHeads

NAME = "lazy/libra_faster_rcnn_R_50_FPN_1x.py"
META = ["MODEL.DEVICE", "cpu"]


def test_the_model_is_that_of_the_file_and_the_rest_that_of_its_recipe():
    cfg = load_config(NAME, META)
    yaml = load_config("libra_faster_rcnn_R_50_FPN_1x.yaml", META)
    assert (cfg.SOLVER, cfg.INPUT, cfg.DATASETS, cfg.TEST) == (yaml.SOLVER, yaml.INPUT, yaml.DATASETS, yaml.TEST)
    assert cfg.MODEL.WEIGHTS == yaml.MODEL.WEIGHTS
    assert isinstance(build_model(cfg).roi_heads, LibraROIHeads)
    assert load_config("configs/lazy/finetune/libra_mask_rcnn_R_101_FPN_1x.py", META).MODEL.MASK_ON
    assert model_zoo.get_config(NAME).MODEL.LIBRA.LAZY.FILE == cfg.MODEL.LIBRA.LAZY.FILE


def test_what_the_command_line_says_reaches_the_model():
    opts = ["model.roi_heads.batch_size_per_image", "77", "SOLVER.MAX_ITER", "5", "model.backbone.refine_type", "conv"]
    cfg = load_config(NAME, [*META, *opts])
    assert cfg.SOLVER.MAX_ITER == 5
    cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.7])
    cfg.merge_from_list(["TEST.DETECTIONS_PER_IMAGE", 300, "INPUT.FORMAT", "RGB"])
    model = build_model(cfg)
    assert model.roi_heads.box_sampler.options["num_samples"] == 77
    assert type(model.backbone.refine).__name__ == "ConvRefine"
    predictor = model.roi_heads.box_predictor
    assert (predictor.num_classes, predictor.test_score_thresh, predictor.test_topk_per_image) == (3, 0.7, 300)
    assert model.input_format == "RGB"


@pytest.mark.parametrize("kind", ["cascade_rcnn", "retinanet"])
def test_every_kind_of_model_learns_what_the_config_says(kind):
    cfg = load_config(f"lazy/libra_{kind}_R_50_FPN_1x.py", META)
    for node in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET):
        node.NUM_CLASSES, node.SCORE_THRESH_TEST = 3, 0.7
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    model = build_model(cfg)
    if isinstance(model, LibraRetinaNet):
        assert (model.num_classes, model.test_score_thresh, model.max_detections_per_image) == (3, 0.7, 300)
        assert model.head.cls_score.out_channels == 3 * 9
    else:
        found = {(p.num_classes, p.test_score_thresh, p.test_topk_per_image) for p in model.roi_heads.box_predictor}
        assert found == {(3, 0.7, 300)}


def test_commands_see_what_the_file_says(tmp_path):
    (tmp_path / "own.py").write_text(
        "from detectron2 import model_zoo\n"
        "model = model_zoo.get_config('common/models/mask_rcnn_fpn.py').model\n"
        "model.roi_heads.num_classes = 9\n"
        "model.roi_heads.box_predictor.test_score_thresh = 0.2\n"
        "model.input_format = 'RGB'\n"
    )
    cfg = load_config(str(tmp_path / "own.py"), META)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST) == (9, 0.2)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON) == ("RGB", True)
    cfg.TEST.AUG.ENABLED = True
    check_augmented_test(cfg)
    with pytest.raises(UserError, match="got True with LibraRetinaNet"):
        check_augmented_test(load_config("lazy/libra_retinanet_R_50_FPN_1x.py", [*META, "TEST.AUG.ENABLED", "True"]))


def test_a_config_that_names_a_file_does_not_run_it(tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nmodel = dict(_target_='torch.nn.Identity')\n")
    cfg = load_config("libra_faster_rcnn_R_50_FPN_1x.yaml", META)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.LIBRA.LAZY.FILE = "LazyModel", str(file)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    with pytest.raises(UserError, match=f"config.yaml: its model is that of a LazyConfig: use --config-file {file}"):
        load_config(str(tmp_path / "config.yaml"), [])
    with pytest.raises(UserError, match="MODEL.LIBRA.LAZY.FILE: expected a config that no code is run for"):
        build_model(cfg)
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(UserError, match="MODEL.LIBRA.LAZY.FILE: expected a config that no code is run for"):
        check_augmented_test(cfg)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(lazy, "_trusted", set())
    enter_process(cfg)  # of a rank that a command has started
    build_model(cfg)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "opts", "message"),
    [
        ("model = [", [], r"own.py: cannot be loaded \(SyntaxError"),
        ("import nowhere", [], r"own.py: cannot be loaded \(ModuleNotFoundError: No module named 'nowhere'"),
        ("modell = {}", [], "own.py: expected a LazyConfig with a model, got none"),
        ("model = 3", [], "own.py: expected a model that LazyCall has made, got int"),
        (
            "from detectron2.config import LazyCall as L\nimport torch\nmodel = L(torch.nn.Linear)(in_features=1)",
            ["model.in_feature", "2"],
            "own.py: unknown key model.in_feature; did you mean model.in_features",
        ),
    ],
)
def test_wrong_files_are_reported(content, opts, message, tmp_path):
    (tmp_path / "own.py").write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / "own.py"), opts)


def test_wrong_names_list_near_ones():
    with pytest.raises(UserError, match="did you mean lazy/.*libra_faster_rcnn_R_50_FPN_1x.py"):
        load_config("lazy/libra_faster_rcnn_R50_FPN_1x.py", [])
