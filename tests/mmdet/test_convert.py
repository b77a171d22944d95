"""`libra-d2 convert` on whole files: what it reads, what it says, and that it writes all or nothing."""

import collections
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import libra_d2
from libra_d2.checkpoint.safe_tensors import load_safetensors
from libra_d2.checks import UserError
from libra_d2.cli.main import run as run_command
from libra_d2.mmdet.names import Architecture
from libra_d2.mmdet.reader import read_mmdet, read_tensors
from tests.mmdet.compact import compact

ROOT = Path(libra_d2.__file__).parents[1]
main = functools.partial(run_command, "convert")
FASTER, RETINA = Architecture("faster_rcnn"), Architecture("retinanet")
MODERN = "model = dict(bbox_head=dict(num_classes=80, anchor_generator=dict(type='AnchorGenerator')))"


def save(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(capsys, *arguments):
    """Exit status, stdout, stderr."""
    status = main(list(map(str, arguments)))
    return (status, *capsys.readouterr())


def test_command_line(tmp_path):
    """As users call it: a command in a process of its own, from another folder, without MMDetection."""
    source = save(tmp_path / "in.pth", {"meta": {"mmdet_version": "3.3.0"}, "state_dict": compact(FASTER)})
    command = [sys.executable, "-m", "libra_d2.cli", "convert", source, "out.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "config: configs/mmdet_compat/libra_faster_rcnn_R_50_FPN_1x.yaml"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth", "out.pth"]


@pytest.mark.parametrize(
    "architecture",
    [
        FASTER,
        RETINA,
        Architecture("faster_rcnn", 101),
        Architecture("faster_rcnn", 101, 64),
        Architecture("retinanet", 101),
    ],
    ids=lambda a: a.config,
)
def test_there_and_back_through_files(tmp_path, capsys, architecture):
    theirs = compact(architecture)
    theirs["backbone.bn1.num_batches_tracked"] = torch.tensor(7)
    source = save(tmp_path / "in.pth", {"state_dict": theirs})
    status, out, err = run(capsys, source, tmp_path / "ours.pth")
    assert (status, err) == (0, "")
    last = out.splitlines()[-1]
    assert last == f"config: configs/mmdet_compat/{architecture.config}"
    assert (ROOT / last.removeprefix("config: ")).is_file()

    status, out, err = run(capsys, "--reverse", tmp_path / "ours.pth", tmp_path / "back.pth")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"config: configs/libra_rcnn/{architecture.mmdet_config}"
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    zero_counters = {name for name in back if name.endswith("num_batches_tracked") and name not in theirs}
    assert all(back.pop(name) == 0 for name in zero_counters)
    assert same(back, theirs)


@pytest.mark.parametrize(
    ("architecture", "change", "named"),
    [
        (
            FASTER,
            "ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]]}",
            "MODEL.ANCHOR_GENERATOR.SIZES is [[16],",
        ),
        (
            FASTER,
            "ROI_BOX_HEAD: {POOLER_TYPE: ROIAlign}",
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE is ROIAlign, theirs ROIAlignV2",
        ),
        (RETINA, "RETINANET: {BBOX_REG_WEIGHTS: [2.0, 2.0, 1.0, 1.0]}", "MODEL.RETINANET.BBOX_REG_WEIGHTS is (2.0,"),
    ],
)
def test_other_boxes_than_mmdetections_do_not_go_back(tmp_path, capsys, architecture, change, named):
    source = save(tmp_path / "in.pth", {"model": compact(architecture, side=1)})
    config = tmp_path / "own.yaml"
    base = ROOT / "configs" / f"libra_{architecture.meta}_R_50_FPN_1x.yaml"
    back = ("--reverse", "--config-file", config, source, tmp_path / "out.pth")
    config.write_text(f'_BASE_: "{base}"\nMODEL: {{{change}}}\n')
    status, _, err = run(capsys, *back)
    assert status == 1
    assert named in err
    assert not (tmp_path / "out.pth").exists()
    config.write_text(f'_BASE_: "{base}"\n')
    assert run(capsys, *back)[0] == 0


def test_other_numbers_of_classes_are_said(tmp_path, capsys):
    source = save(tmp_path / "in.pth", {"state_dict": compact(Architecture("retinanet", refine="none", num_classes=3))})
    _, out, _ = run(capsys, source, tmp_path / "out.pth")
    assert "add: MODEL.RETINANET.NUM_CLASSES 3 MODEL.LIBRA.BFP.REFINE_TYPE none" in out.splitlines()


@pytest.mark.parametrize("architecture", [FASTER, RETINA], ids=lambda a: a.meta)
def test_detectron2_loads_the_file_without_complaint(tmp_path, capsys, caplog, architecture):
    source = save(tmp_path / "in.pth", {"state_dict": compact(architecture)})
    run(capsys, source, tmp_path / "out.pth")
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "mmdet_compat" / architecture.config))
    model = build_model(cfg)
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(str(tmp_path / "out.pth"))
    assert not [r for r in caplog.records if "checkpoint" in r.name]
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert same({name: tensor.cpu() for name, tensor in model.state_dict().items()}, written)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": compact(RETINA)},
        {
            "state_dict": collections.OrderedDict(compact(RETINA)),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1}]},
        },
        compact(RETINA),
        {f"module.{name}": tensor for name, tensor in compact(RETINA).items()},
        {"meta": {"mmdet_version": "2.25.0", "config": MODERN}, "state_dict": compact(RETINA)},
        {"meta": {"mmdet_version": "1.0rc1", "config": MODERN}, "state_dict": compact(RETINA)},
    ],
    ids=["bare checkpoint", "OrderedDict", "state dict", "DataParallel", "published", "published early"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_are_read(tmp_path, content, zipped):
    path = save(tmp_path / "in.pth", content, _use_new_zipfile_serialization=zipped)
    assert same(read_mmdet(path), compact(RETINA))


def test_a_runners_own_checkpoint_is_read(tmp_path, mmdet):
    path = tmp_path / "epoch_1.pth"
    path.write_bytes(mmdet("facts")["runner_checkpoint"].numpy().tobytes())
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    assert "mmengine.logging.history_buffer.HistoryBuffer" in unsafe
    tensors = read_mmdet(path)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {"layer.weight": (1, 2), "layer.bias": (1,)}
    assert "mmengine" not in sys.modules


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_file_is_named_and_not_run(tmp_path, capsys, zipped):
    content = {"state_dict": compact(FASTER), "meta": Attack(tmp_path / "was_run")}
    path = save(tmp_path / "in.pth", content, _use_new_zipfile_serialization=zipped)
    status, out, err = run(capsys, path, tmp_path / "out.pth")
    assert status == 1
    assert "global 'posix.mkdir', which is not run" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth"]


def test_stand_ins_do_nothing(tmp_path):
    """`getattr` is admitted, as MMEngine's log needs it, but is not Python's."""

    class Looks:
        def __reduce__(self):
            return getattr, ("text", "upper")

    path = save(tmp_path / "in.pth", {"state_dict": {"a": torch.zeros(1)}, "message_hub": Looks()})
    tensors, rest = read_tensors(path, "state_dict")
    assert list(tensors) == ["a"]
    assert rest["message_hub"] == {}  # not the method of a string
    with pytest.raises(Exception, match="getattr"):
        torch.load(path, weights_only=True)  # the admission ends with the call


OLD = {name.removeprefix("roi_head."): tensor for name, tensor in compact(FASTER).items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": OLD}, "got 1.x (bbox_head.fc_cls"),
        ({"meta": {"config": "num_classes=81"}, "state_dict": OLD}, "got 1.x (bbox_head.fc_cls"),
        ({"meta": {"mmdet_version": "1.2.0"}, "state_dict": compact(RETINA)}, "got 1.x (1.2.0): 1.x counts a pixel"),
        (
            {"meta": {"config": "bbox_head=dict(num_classes=81)"}, "state_dict": compact(RETINA)},
            "got 1.x (its config counts 81 classes)",
        ),
        (
            {"meta": {"config": MODERN.replace("'Anchor", "'LegacyAnchor")}, "state_dict": compact(RETINA)},
            "got 1.x (its config has Legacy classes)",
        ),
        ({"model": compact(FASTER)}, "expected an entry 'state_dict' with weights, or weights alone, got model"),
        ({"state_dict": {"a": 1}}, "expected an entry 'state_dict' with weights"),
        ({"state_dict": {1: torch.zeros(1)}}, "expected an entry 'state_dict' with weights"),
        ([1, 2], "expected a checkpoint or a state dict, got a list"),
        ({}, "got no weights"),
        ({"state_dict": compact(FASTER, side=1)}, "under MMDetection's names"),
    ],
    ids=[
        "names",
        "names and config",
        "version",
        "config",
        "legacy",
        "detectron2",
        "no tensors",
        "no names",
        "list",
        "empty",
        "our names",
    ],
)
def test_refusals_write_nothing(tmp_path, capsys, content, message):
    path = save(tmp_path / "in.pth", content)
    status, out, err = run(capsys, path, tmp_path / "out.pth")
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_files_write_nothing(tmp_path, capsys, part, zipped):
    path = Path(save(tmp_path / "in.pth", {"state_dict": compact(RETINA)}, _use_new_zipfile_serialization=zipped))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    status, out, err = run(capsys, path, tmp_path / "out.pth")
    assert (status, out) == (1, "")
    assert "truncated or damaged" in err
    assert "fetch it again" in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth"]


def test_a_flipped_bit_is_noticed(tmp_path, capsys):
    path = Path(save(tmp_path / "in.pth", {"state_dict": compact(RETINA) | {"marked": torch.full((64,), 7.25)}}))
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((64,), 7.25).numpy().tobytes()) + 17] ^= 4
    path.write_bytes(content)
    status, _, err = run(capsys, path, tmp_path / "out.pth")
    assert status == 1
    assert "truncated or damaged" in err


def test_missing_files_and_folders(tmp_path, capsys):
    for path, message in ((tmp_path / "none.pth", "there is none"), (tmp_path, "got a folder")):
        status, _, err = run(capsys, path, tmp_path / "out.pth")
        assert status == 1
        assert message in err
    source = save(tmp_path / "in.pth", compact(FASTER))
    status, _, err = run(capsys, source, tmp_path / "no" / "out.pth")
    assert status == 1
    assert str(tmp_path / "no") in err


def test_reading_is_an_error_for_callers_too(tmp_path):
    with pytest.raises(UserError, match="there is none"):
        read_mmdet(tmp_path / "none.pth")


def test_safetensors_in_and_out(tmp_path, capsys):
    theirs = compact(RETINA)
    meta = {"dataset_meta": {"classes": ("tree", "house")}}
    source = save(tmp_path / "in.pth", {"meta": meta, "state_dict": theirs})
    steps = [(source, tmp_path / "ours.safetensors"), ("--reverse", tmp_path / "ours.safetensors", tmp_path / "b.pth")]
    for step in steps:
        status, _, err = run(capsys, *step)
        assert (status, err) == (0, "")
    tensors, class_names = load_safetensors(tmp_path / "ours.safetensors")
    assert class_names == ["tree", "house"]
    assert len(tensors) == len(theirs)
    back = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert same({name: tensor for name, tensor in back.items() if name in theirs}, theirs)


def test_a_checkpoint_of_libra_d2_becomes_safetensors_under_its_own_names(tmp_path, capsys):
    ours = compact(FASTER, side=1)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in ours.items()}
    source = save(tmp_path / "model_final.pth", {"model": wrapped, "iteration": 7, "class_names": ["tree"]})
    status, out, err = run(capsys, source, tmp_path / "out.safetensors")
    assert (status, err) == (0, "")
    assert out == f"{len(ours)} tensors, in the names of libra_d2\n"
    tensors, class_names = load_safetensors(tmp_path / "out.safetensors")
    assert same(tensors, ours)
    assert class_names == ["tree"]
