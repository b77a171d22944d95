"""`libra-d2 proposals`: what an RPN proposes reaches a Fast R-CNN through Detectron2's own reader, unchanged."""

import functools
import json
import pickle
import subprocess
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.cli.main import run as run_command
from libra_d2.config.files import load_config
from libra_d2.data.train_loader import ReplayableTrainLoader
from tests.engine.tiny import write_config, write_dataset

main = functools.partial(run_command, "proposals")
LIBRA_RPN = {"META_ARCHITECTURE": "LibraRCNN", "PROPOSAL_GENERATOR": {"NAME": "LibraRPN"}, "DEVICE": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, config file, arguments that name a checkpoint and a data set whose last image has no object)."""
    folder = tmp_path_factory.mktemp("rpn")
    annotations, images = write_dataset(folder, num_images=4)
    content = json.loads(annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 4]
    annotations.write_text(json.dumps(content))
    data = {"TRAIN_JSON": str(annotations), "TRAIN_IMAGES": str(images)}
    config = write_config(folder / "rpn.yaml", MODEL={**LIBRA_RPN, "LIBRA": {"BFP": {"ENABLED": True}, "DATA": data}})
    torch.manual_seed(0)
    model = build_model(load_config(str(config), []))
    LibraCheckpointer(model, str(folder)).save("rpn")
    return folder, config, ["MODEL.WEIGHTS", str(folder / "rpn.pth")]


def test_proposals_are_the_models_own_and_detectron2_reads_them(trained, capsys):
    folder, config, opts = trained
    output = folder / "proposals.pkl"
    assert main(["--config-file", str(config), "--dataset", "libra_train", "--output", str(output), *opts]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"80 proposals for 4 images of libra_train: {output}"

    cfg = load_config(str(config), opts)
    model = build_model(cfg).eval()
    LibraCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    dicts = get_detection_dataset_dicts("libra_train", filter_empty=False, proposal_files=[str(output)])
    assert [d["image_id"] for d in dicts] == [1, 2, 3, 4]
    for record in dicts:
        image = torch.from_numpy(_read(record, cfg)).permute(2, 0, 1)
        with torch.no_grad():
            images = model.preprocess_image([{"image": image}])
            proposals, _ = model.proposal_generator(images, model.backbone(images.tensor), None)
        torch.testing.assert_close(
            torch.from_numpy(record["proposal_boxes"]), _rescaled(proposals[0], image, record), rtol=0, atol=1e-3
        )
        logits = record["proposal_objectness_logits"]
        assert (logits[:-1] >= logits[1:]).all()
        assert 0 <= record["proposal_boxes"].min()
        assert record["proposal_boxes"][:, 2].max() <= record["width"]


def _read(record, cfg):
    """The image as the test loader shows it to the model."""
    from detectron2.data import DatasetMapper

    return DatasetMapper(cfg, is_train=False)(dict(record))["image"].permute(1, 2, 0).numpy()


def _rescaled(proposals, image, record):
    boxes = proposals.proposal_boxes.tensor.clone()
    boxes[:, 0::2] *= record["width"] / image.shape[2]
    boxes[:, 1::2] *= record["height"] / image.shape[1]
    order = proposals.objectness_logits.argsort(descending=True, stable=True)
    return boxes[order]


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_a_fast_rcnn_trains_on_the_file(trained, capsys, suffix):
    """The whole way of the paper's ablations, one step of it."""
    folder, config, opts = trained
    output = folder / f"for_training.{suffix}"
    command = [
        sys.executable,
        "-m",
        "libra_d2.cli",
        "proposals",
        "--config-file",
        str(config),
        "--output",
        str(output),
        *opts,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fast = load_config(
        str(config),
        [
            *("MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
            *("MODEL.ROI_HEADS.NAME", "LibraROIHeads", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "balanced_l1"),
            *("DATASETS.TRAIN", "('libra_train',)", "DATASETS.PROPOSAL_FILES_TRAIN", f"('{output}',)"),
        ],
    )
    model = build_model(fast)
    inputs = next(iter(ReplayableTrainLoader(fast, seed=0)))
    assert all(len(record["proposals"]) > 0 for record in inputs)
    with EventStorage():
        losses = model(inputs)
    assert losses.keys() == {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["MODEL.WEIGHTS", ""], "add MODEL.WEIGHTS FILE"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "one that reads proposals from a file"),
        (["MODEL.META_ARCHITECTURE", "LibraRetinaNet"], "expected a model with an RPN, got LibraRetinaNet"),
        (["MODEL.LIBRA.BFP.REFINE_TYPE", "conv"], "it lacks backbone.refine (2)"),
        (["MODEL.WEIGTHS", "x"], "did you mean MODEL.WEIGHTS"),
    ],
    ids=lambda p: p[0] if isinstance(p, list) else "",
)
def test_refusals_write_nothing(trained, capsys, tmp_path, change, message):
    _, config, opts = trained
    output = tmp_path / "proposals.pkl"
    assert main(["--config-file", str(config), "--output", str(output), *opts, *change]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_unknown_data_sets_and_folders(trained, capsys, tmp_path):
    _, config, opts = trained
    arguments = ["--config-file", str(config), "--dataset", "nowhere", "--output", str(tmp_path / "p.pkl"), *opts]
    assert main(arguments) == 1
    assert "expected a registered data set, got 'nowhere'" in capsys.readouterr().err
    assert "nowhere" not in DatasetCatalog
    assert main(["--config-file", str(config), "--output", str(tmp_path / "no" / "p.pkl"), *opts]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_the_file_holds_arrays_only(trained, capsys):
    """So that any reader, Detectron2's included, needs nothing but NumPy."""
    folder, config, opts = trained
    output = folder / "plain.pkl"
    main(["--config-file", str(config), "--output", str(output), *opts])
    content = pickle.loads(output.read_bytes())
    assert content.keys() == {"ids", "boxes", "objectness_logits", "bbox_mode"}
    assert content["bbox_mode"] == 0
    assert {a.dtype.str for a in content["boxes"] + content["objectness_logits"]} == {"<f4"}
