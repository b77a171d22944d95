import io
import logging
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.checkpoint.safe_load import is_whole
from libra_d2.checkpoint.safe_tensors import safetensors_bytes
from libra_d2.checks import UserError
from libra_d2.config import get_cfg
from tests.engine.tiny import write_config

LIBRA = {
    "META_ARCHITECTURE": "LibraRCNN",
    "PROPOSAL_GENERATOR": {"NAME": "LibraRPN"},
    "ROI_HEADS": {"NAME": "LibraROIHeads"},
}


def model(tmp_path, libra=True, init="identity", num_classes=3):
    parts = dict(LIBRA, LIBRA={"BFP": {"ENABLED": True, "INIT": init}}) if libra else {}
    cfg = get_cfg()
    cfg.merge_from_file(str(write_config(tmp_path / "tiny.yaml", MODEL=parts)))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return build_model(cfg)


@pytest.fixture
def plain(tmp_path):
    return model(tmp_path, libra=False)


def arrays(plain):
    return {name: tensor.numpy() for name, tensor in plain.state_dict().items()}


def save_zoo(plain, file):
    file.write_bytes(pickle.dumps({"model": arrays(plain), "__author__": "Detectron2 Model Zoo"}))


def save_with_heuristics(plain, file):
    content = {"model": arrays(plain), "__author__": "someone", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content, protocol=2))


def save_pth(plain, file):
    torch.save({"model": plain.state_dict()}, file)


SAVE = [(save_pth, "w.pth"), (save_zoo, "w.pkl"), (save_with_heuristics, "heuristics.pkl")]


def wrapped(name):
    return "backbone.bottom_up." + name.removeprefix("backbone.") if name.startswith("backbone.") else name


@pytest.mark.parametrize(("save", "name"), SAVE)
@pytest.mark.parametrize("checkpointer", [LibraCheckpointer, DetectionCheckpointer])
def test_a_plain_checkpoint_fills_all_but_the_refine_and_the_gate(save, name, checkpointer, plain, tmp_path):
    save(plain, tmp_path / name)
    libra = model(tmp_path)
    checkpointer(libra).load(str(tmp_path / name))
    state = libra.state_dict()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(state.pop(wrapped(key)), tensor), key
    assert {key.split(".")[1] for key in state} == {"refine", "gate"}
    assert state["backbone.gate"] == 0


def test_backbone_weights_are_matched_by_suffix(plain, tmp_path):
    """As ImageNet's are: their names lack every prefix."""
    prefix = "backbone.bottom_up."
    weights = {k.removeprefix(prefix): v for k, v in arrays(plain).items() if k.startswith(prefix)}
    content = {"model": weights, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "imagenet.pkl").write_bytes(pickle.dumps(content))
    libra = model(tmp_path)
    LibraCheckpointer(libra).load(str(tmp_path / "imagenet.pkl"))
    state = libra.state_dict()
    assert all(torch.equal(state["backbone.bottom_up.bottom_up." + k], torch.from_numpy(v)) for k, v in weights.items())


def test_caffe2_blobs_are_renamed(tmp_path):
    """Their pickles were written by Python 2 and name blobs as "conv1_w"; momentum is left out."""
    layer = torch.nn.Sequential()
    layer.add_module("stem", torch.nn.Sequential())
    layer.stem.add_module("conv1", torch.nn.Conv2d(3, 4, 3))
    blobs = {"conv1_w": np.full((4, 3, 3, 3), 2, np.float32), "conv1_b": np.ones(4, np.float32)}
    blobs["conv1_w_momentum"] = np.zeros((4, 3, 3, 3), np.float32)
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    LibraCheckpointer(layer).load(str(tmp_path / "c2.pkl"))
    assert (layer.stem.conv1.weight == 2).all()
    assert (layer.stem.conv1.bias == 1).all()


@pytest.mark.parametrize(("save", "name"), SAVE)
def test_three_lines_say_what_was_loaded(save, name, tmp_path, caplog):
    save(model(tmp_path, libra=False, num_classes=5), tmp_path / name)
    libra = model(tmp_path)
    with caplog.at_level(logging.INFO, "libra_d2"):
        LibraCheckpointer(libra).load(str(tmp_path / name))
    (summary,) = [r.getMessage() for r in caplog.records if r.name.startswith("libra_d2")]
    total = len(libra.state_dict())
    loaded, new, reshaped = summary.splitlines()
    assert loaded == f"Loaded {total - 9 - 4} of the model's {total} tensors from {tmp_path / name}"
    assert new == "  new, not in the file: backbone.gate (1), backbone.refine (8)"
    head = "roi_heads.box_predictor."
    assert reshaped == (
        f"  re-initialised, of another shape in the file: {head}bbox_pred.bias (20,) -> (12,), "
        f"{head}bbox_pred.weight (20, 32) -> (12, 32), {head}cls_score.bias (6,) -> (4,), "
        f"{head}cls_score.weight (6, 32) -> (4, 32)"
    )


def test_a_gate_that_the_model_lacks_is_an_error(tmp_path):
    save_pth(model(tmp_path), tmp_path / "gated.pth")
    with pytest.raises(UserError, match="backbone.gate.*set MODEL.LIBRA.BFP.INIT to identity"):
        LibraCheckpointer(model(tmp_path, init="xavier")).load(str(tmp_path / "gated.pth"))


def test_a_pyramid_trained_without_a_gate_loads_with_gate_one(tmp_path):
    save_pth(model(tmp_path, init="xavier"), tmp_path / "ungated.pth")
    libra = model(tmp_path)
    checkpointer = LibraCheckpointer(libra)
    checkpointer.load(str(tmp_path / "ungated.pth"))
    assert libra.backbone.gate == 1
    assert checkpointer.not_loaded == []


class Evil:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


@pytest.mark.parametrize("suffix", ["pth", "pyth"])
def test_code_in_a_pth_is_refused_by_name(tmp_path, capsys, suffix):
    file = tmp_path / f"evil.{suffix}"
    torch.save({"model": {}, "model_state": {}, "evil": Evil()}, file)
    message = rf"evil.{suffix}: expected tensors, .* got the global 'print', which is not run; nothing of it was loaded"
    with pytest.raises(ValueError, match=message):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load(str(file))
    assert "was run" not in capsys.readouterr().out


def test_code_in_a_pkl_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {}, "__author__": Evil()}))
    with pytest.raises(ValueError, match=r"'builtins.print'"):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "evil.pkl"))
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes(100)])
def test_damaged_weights_are_named(damage, tmp_path):
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.Linear(1, 1).state_dict()}, buffer)
    (tmp_path / "w.pth").write_bytes(damage(buffer.getvalue()))
    with pytest.raises(OSError, match="w.pth is truncated or damaged"):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "w.pth"))


def test_a_flipped_byte_is_noticed(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"model": {"weight": torch.full((500,), 3.0)}}, file)
    assert is_whole(str(file))
    content = bytearray(file.read_bytes())
    at = content.find(torch.full((4,), 3.0).numpy().tobytes()) + 100
    content[at] ^= 255
    file.write_bytes(content)
    assert not is_whole(str(file))


def save_safetensors(plain, file):
    file.write_bytes(safetensors_bytes(plain.state_dict(), ["a", "b"]))


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_pth, "a.pkl"), (save_zoo, "a.pth"), (save_safetensors, "a.pth"), (save_safetensors, "a.pkl")],
)
def test_the_content_of_a_file_counts_not_its_suffix(plain, save, name, tmp_path):
    save(plain, tmp_path / name)
    other = model(tmp_path, libra=False)
    LibraCheckpointer(other).load(str(tmp_path / name))
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in plain.state_dict().items())


def test_safetensors_bring_their_class_names(plain, tmp_path):
    save_safetensors(plain, tmp_path / "w.safetensors")
    rest = LibraCheckpointer(model(tmp_path, libra=False)).load(str(tmp_path / "w.safetensors"))
    assert rest["class_names"] == ["a", "b"]


@pytest.mark.parametrize("suffix", ["pth", "pyth"])
def test_bare_state_dicts_and_those_of_pycls_are_read(plain, tmp_path, suffix):
    state = plain.state_dict()
    torch.save(state if suffix == "pth" else {"model_state": state}, tmp_path / f"w.{suffix}")
    libra = model(tmp_path)
    LibraCheckpointer(libra).load(str(tmp_path / f"w.{suffix}"))
    assert torch.equal(
        libra.state_dict()["proposal_generator.rpn_head.conv.bias"], state["proposal_generator.rpn_head.conv.bias"]
    )


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("backbone.", "backbone._orig_mod."),  # one part was compiled
    ],
)
@pytest.mark.parametrize("save", [save_pth, save_zoo])
def test_wrappers_leave_no_trace(plain, rename, save, tmp_path, caplog):
    state = plain.state_dict()
    renamed = type(state)((rename(name), tensor) for name, tensor in state.items())
    save(SimpleNamespace(state_dict=lambda: renamed), tmp_path / "w.pth")
    other = model(tmp_path, libra=False)
    checkpointer = LibraCheckpointer(other)
    with caplog.at_level(logging.INFO, "libra_d2"):
        checkpointer.load(str(tmp_path / "w.pth"))
    assert checkpointer.not_loaded == []
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in state.items())
    assert f"Loaded {len(state)} of the model's {len(state)} tensors" in caplog.text


def test_a_name_with_and_without_a_wrapper_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1, 1), "module.weight": torch.ones(1, 1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="got weight with and without a wrapper's prefix"):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "w.pth"))


def test_what_was_filled_in_is_not_counted_as_loaded(plain, tmp_path, caplog):
    counters = [name for name in plain.state_dict() if name.endswith("num_batches_tracked")]
    assert counters
    torch.save({k: v for k, v in plain.state_dict().items() if k not in counters}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "libra_d2"):
        LibraCheckpointer(model(tmp_path, libra=False)).load(str(tmp_path / "w.pth"))
    total = len(plain.state_dict())
    assert f"Loaded {total - len(counters)} of the model's {total} tensors" in caplog.text


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_file_of_which_nothing_fits_is_refused(tmp_path, suffix):
    (save_pth if suffix == "pth" else save_with_heuristics)(
        torch.nn.ModuleDict({"other": torch.nn.Linear(2, 3)}), tmp_path / f"w.{suffix}"
    )
    with pytest.raises(
        UserError, match=r"none of its 2 tensors \(such as other.\w+ \(1\)\) fits this model of \d+ tensors"
    ):
        LibraCheckpointer(model(tmp_path)).load(str(tmp_path / f"w.{suffix}"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_run_are_refused(plain, tmp_path, value):
    plain.roi_heads.box_predictor.cls_score.bias.data[1] = value
    save_pth(plain, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"NaN or infinity in roi_heads.box_predictor \(1\): the run .* diverged"):
        LibraCheckpointer(model(tmp_path, libra=False)).load(str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "got a list"),
        ({"model": 3}, "got a int"),
        ({"model": {}}, "got an empty one"),
        ({"model": {"weight": "text"}}, "real numbers as weight, got a str"),
        ({"model": {1: torch.zeros(1)}}, "got a int as a name"),
        ({"model": {"weight": torch.zeros(1, 1, dtype=torch.complex64)}}, "got one of torch.complex64"),
        ({"model": {"weight": torch.eye(2).to_sparse()}}, "torch.sparse_coo"),
        ({"model": {"weight": torch.zeros(1, 1, device="meta")}}, "on meta"),
    ],
    ids=str,
)
def test_what_is_no_weights_is_said(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "w.pth"))


def test_a_state_dict_with_attributes_in_place_of_methods(tmp_path):
    """torch's weights_only lets a file set them."""
    state = torch.nn.Linear(1, 1).state_dict()
    state.note = "of items"
    torch.save(state, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "w.pth") as archive, zipfile.ZipFile(tmp_path / "evil.pth", "w") as evil:
        for name in archive.namelist():
            evil.writestr(name, archive.read(name).replace(b"X\x04\x00\x00\x00note", b"X\x05\x00\x00\x00items"))
    assert content != (tmp_path / "evil.pth").read_bytes()
    layer = torch.nn.Linear(1, 1)
    LibraCheckpointer(layer).load(str(tmp_path / "evil.pth"))
    assert torch.equal(layer.weight, state["weight"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    checkpointer = LibraCheckpointer(torch.nn.Linear(1, 1))
    for _ in range(2):  # a load that failed does not stand in the way of the next
        with pytest.raises(OSError, match="none.pth: expected weights .* there is none"):
            checkpointer.load(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("flag", [0x0001, 0x0800])
def test_flags_of_a_damaged_archive_are_noticed(tmp_path, flag):
    """Encrypted, or a name in UTF-8 that is none: zipfile has another error for each."""
    content = bytearray(saved_linear())
    directory = content.rfind(b"PK\x01\x02")
    for at, name in ((directory + 8, directory + 46), (content.rfind(b"PK\x03\x04", 0, directory) + 6, None)):
        content[at] |= flag & 255
        content[at + 1] |= flag >> 8
        if name:
            content[name + 2] = 0xFF
    (tmp_path / "w.pth").write_bytes(content)
    assert not is_whole(tmp_path / "w.pth")


def saved_linear() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.Linear(1, 1).state_dict()}, buffer)
    return buffer.getvalue()


def checkpointer_with(tmp_path, *names):
    """A checkpointer on a linear layer whose saved weight is the place of the checkpoint in ``names``."""
    layer = torch.nn.Linear(1, 1, bias=False)
    checkpointer = LibraCheckpointer(layer, str(tmp_path))
    for i, name in enumerate(names):
        torch.nn.init.constant_(layer.weight, i)
        checkpointer.save(name)
    return checkpointer, layer


def cut(file):
    file.write_bytes(file.read_bytes()[:300])


def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path, caplog):
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000009", "model_0000019", "model_0000029", "model_final")
    cut(tmp_path / "model_final.pth")
    cut(tmp_path / "model_0000029.pth")
    with caplog.at_level(logging.WARNING, "libra_d2"):
        checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 1
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("libra_d2")]
    assert [w.split("/")[-1].split(";")[0] for w in warnings] == [
        "model_final.pth is truncated or damaged",
        "model_0000029.pth is truncated or damaged",
    ]


def test_checkpoints_after_the_newest_one_are_not_taken(tmp_path):
    """They are leftovers: of a training that was killed while it wrote, or of another one."""
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000099", "model_0000009", "model_0000019")
    cut(tmp_path / "model_0000019.pth")
    checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 1


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 17, b"../other/model_0000019.pth", b"/x/model_0000019.pth", b"\xff", b"."]
)
def test_a_last_checkpoint_that_is_no_file_name_counts_as_damaged(content, tmp_path, caplog):
    (tmp_path / "other").mkdir()
    checkpointer_with(tmp_path / "other", "a", "b", "model_0000019")
    (tmp_path / "out").mkdir()
    checkpointer, layer = checkpointer_with(tmp_path / "out", "model_0000009", "model_0000019")
    (tmp_path / "out" / "last_checkpoint").write_bytes(content)
    with caplog.at_level(logging.WARNING, "libra_d2"):
        checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 1
    assert "out/last_checkpoint is damaged or missing; the newest whole checkpoint is taken instead" in caplog.text


def test_checkpoints_without_a_last_checkpoint_are_resumed_from(tmp_path):
    """As after a power cut between the two files."""
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000009", "model_0000019")
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.has_checkpoint()
    checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 1
    assert not LibraCheckpointer(layer, str(tmp_path / "nothing_yet")).has_checkpoint()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_not_written(value, tmp_path):
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000009")
    torch.nn.init.constant_(layer.weight, value)
    with pytest.raises(FloatingPointError, match=r"model.weight \(1\) are not finite, .* model_0000019 is not written"):
        checkpointer.save("model_0000019")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    assert not (tmp_path / "model_0000019.pth").exists()


def test_an_optimizer_that_is_not_finite_is_not_written_either(tmp_path):
    layer = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9)
    layer.weight.grad = torch.full_like(layer.weight, torch.inf)
    optimizer.step()
    torch.nn.init.constant_(layer.weight, 1.0)
    with pytest.raises(FloatingPointError, match="optimizer.state"):
        LibraCheckpointer(layer, str(tmp_path), optimizer=optimizer).save("model_0000019")


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(tmp_path, caplog):
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000009", "model_0000019")
    torch.save({"model": {"weight": torch.full((1, 1), torch.nan)}}, tmp_path / "model_0000019.pth")
    with caplog.at_level(logging.WARNING, "libra_d2"):
        checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 0
    assert "model_0000019.pth holds values that are not finite, in model.weight (1)" in caplog.text


def test_a_run_goes_back_to_a_checkpoint_that_was_good(tmp_path):
    checkpointer, layer = checkpointer_with(tmp_path, "model_0000009", "model_0000019", "model_0000029")
    assert checkpointer.go_back_to(40) == str(tmp_path / "model_0000029.pth")
    assert checkpointer.go_back_to(5) == ""
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000029.pth"), "as it was"
    assert checkpointer.go_back_to(28) == str(tmp_path / "model_0000019.pth")
    checkpointer.resume_or_load("", resume=True)
    assert layer.weight.item() == 1
    checkpointer.save("model_final")
    assert checkpointer.go_back_to(5) == str(tmp_path / "model_final.pth")


def test_checkpoints_and_their_tag_are_written_atomically(tmp_path, monkeypatch):
    checkpointer, _ = checkpointer_with(tmp_path)
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (renamed.append(Path(new).name), replace(old, new)))
    checkpointer.save("model_0000009")
    assert renamed == ["model_0000009.pth", "last_checkpoint"]


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path):
    checkpointer, _ = checkpointer_with(tmp_path, "model_0000009")
    cut(tmp_path / "model_0000009.pth")
    with pytest.raises(
        OSError,
        match=r"every checkpoint in .* is truncated or damaged \(.*model_0000009.pth\); choose another OUTPUT_DIR",
    ):
        checkpointer.resume_or_load("", resume=True)


def test_a_url_that_cannot_be_fetched_is_named_with_what_to_do(tmp_path):
    class Offline(PathHandler):
        def _get_supported_prefixes(self):
            return ["offline://"]

        def _get_local_path(self, path, **kwargs):
            raise OSError("no network")

    PathManager.register_handler(Offline(), allow_override=True)
    with pytest.raises(OSError, match=r"cannot fetch offline://w.pkl \(no network\). Download offline://w.pkl by hand"):
        LibraCheckpointer(torch.nn.Linear(1, 1)).load("offline://w.pkl")


def test_a_file_of_the_catalog_is_named_by_its_address(monkeypatch):
    def fail(path):
        raise OSError("no network")

    checkpointer = LibraCheckpointer(torch.nn.Linear(1, 1))
    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", fail)
    with pytest.raises(OSError, match=r"Download https://dl\.fbaipublicfiles\.com/\S+/X-101-64x4d\.pkl by hand"):
        checkpointer.load("catalog://ImageNetPretrained/FAIR/X-101-64x4d")


def test_urls_go_through_the_path_manager(plain, tmp_path):
    save_zoo(plain, tmp_path / "w.pkl")

    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["zoo-of-the-test://"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("zoo-of-the-test://"))

    PathManager.register_handler(Handler(), allow_override=True)
    libra = model(tmp_path)
    checkpointer = LibraCheckpointer(libra)
    checkpointer.load("zoo-of-the-test://w.pkl")
    assert {name.split(".")[1] for name in checkpointer.not_loaded} == {"refine", "gate"}
