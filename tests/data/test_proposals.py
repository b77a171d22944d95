"""Proposal files of others: boxes come back, everything else is refused, and Detectron2 never opens one."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import build_detection_test_loader
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode

from libra_d2.checks import FileError, UserError
from libra_d2.config.files import load_config
from libra_d2.data import complete_config, register_datasets
from libra_d2.data.proposals import check_proposal_files, read_proposals, write_npz
from libra_d2.data.train_loader import ReplayableTrainLoader
from libra_d2.engine.trainer import LibraTrainer
from tests.engine.tiny import write_config, write_dataset

RNG = np.random.default_rng(0)


def content(num_images=8, **change):
    sizes = [3 + i for i in range(num_images)]
    return {
        "ids": list(range(1, num_images + 1)),
        "boxes": [np.sort(RNG.random((n, 4), np.float32) * 60) for n in sizes],
        "objectness_logits": [RNG.random(n).astype(np.float32) for n in sizes],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    } | change


def write(path: Path, proposals: dict) -> str:
    with open(path, "wb") as f:
        if path.suffix == ".npz":
            write_npz(proposals, f)
        else:
            pickle.dump(proposals, f)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proposals")
    return folder, *write_dataset(folder)


def config(data, file, *opts):
    folder, json_file, images = data
    cfg = load_config(str(write_config(folder / "c.yaml", MODEL={"DEVICE": "cpu"})), list(opts))
    for split in ("TRAIN", "VAL"):
        cfg.MODEL.LIBRA.DATA[f"{split}_JSON"], cfg.MODEL.LIBRA.DATA[f"{split}_IMAGES"] = str(json_file), str(images)
    complete_config(cfg)
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = (file,)
    register_datasets(cfg)
    return cfg


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_what_was_written_is_read(tmp_path, suffix):
    written = content()
    got = read_proposals(write(tmp_path / f"p{suffix}", written))
    assert got["ids"] == [str(i) for i in written["ids"]]
    assert got["bbox_mode"] is BoxMode.XYXY_ABS
    for key in ("boxes", "objectness_logits"):
        assert all(np.array_equal(one, other) for one, other in zip(got[key], written[key], strict=True))


def test_names_of_detectron_box_modes_and_texts_as_ids(tmp_path):
    old = content(2, ids=["a", "b"], bbox_mode=BoxMode.XYWH_ABS)
    old["indexes"], old["scores"] = old.pop("ids"), old.pop("objectness_logits")
    got = read_proposals(write(tmp_path / "p.pkl", old))
    assert (got["ids"], got["bbox_mode"]) == (["a", "b"], BoxMode.XYWH_ABS)


def test_no_images_and_images_without_proposals(tmp_path):
    assert read_proposals(write(tmp_path / "a.npz", content(0)))["boxes"] == []
    empty = content(1, boxes=[np.zeros((0, 4), np.float32)], objectness_logits=[np.zeros(0, np.float32)])
    assert read_proposals(write(tmp_path / "b.npz", empty))["boxes"][0].shape == (0, 4)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "WeightedTrainingSampler"])  # which reads the data set, too
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_loaders_have_the_proposals_that_detectron2_would_have(data, tmp_path, suffix, sampler, monkeypatch):
    written = content()
    cfg = config(data, write(tmp_path / f"p{suffix}", written), "DATALOADER.SAMPLER_TRAIN", sampler)
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["libra_train", 1.0]]  # a key of the weighted sampler that some versions lack
    reference = load_proposals_into_dataset(
        [{"image_id": i} for i in written["ids"]], write(tmp_path / "r.pkl", written)
    )
    best = {record["image_id"]: record["proposal_boxes"][0] for record in reference}
    monkeypatch.setattr("detectron2.data.build.load_proposals_into_dataset", None)
    batches = iter(ReplayableTrainLoader(cfg, seed=0))
    records = [record for _ in range(4) for record in next(batches)]
    records += [record for batch in LibraTrainer.build_test_loader(cfg, "libra_val") for record in batch]
    assert len(records) == 16
    for record in records:
        scale = record["image"].shape[1] / record["height"]
        found = record["proposals"].proposal_boxes.tensor[0].numpy() / scale
        left, top, right, bottom = best[record["image_id"]]
        flipped = [record["width"] - right, top, record["width"] - left, bottom]
        assert any(np.allclose(found, box, atol=2) for box in ([left, top, right, bottom], flipped))


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.marker),)


def test_code_in_a_proposal_file_is_not_run(data, tmp_path):
    marker = tmp_path / "was_run"
    cfg = config(data, write(tmp_path / "p.pkl", content(bbox_mode=Attack(marker))))
    with pytest.raises(UserError, match=r"p.pkl: .*got the global '(posix|nt).mkdir'"):
        ReplayableTrainLoader(cfg, seed=0)
    with pytest.raises(UserError, match="mkdir"):
        LibraTrainer.build_test_loader(cfg, "libra_val")
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever Detectron2 makes of it)
        list(build_detection_test_loader(cfg, "libra_val"))
    assert marker.exists()  # as Detectron2's reader does


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": 3}, "with ids, boxes, objectness_logits, got ids, boxes"),
        ({"boxes": [np.zeros((3, 4))]}, "expected boxes and objectness_logits of 8 images, got 1 and 8"),
        (
            {"boxes": [np.zeros((3, 5))] * 8},
            r"expected boxes \[R, 4\] of finite numbers for image 1, got an array float64",
        ),
        ({"boxes": [np.full((3, 4), np.nan)] * 8}, r"of finite numbers for image 1"),
        ({"objectness_logits": [np.zeros(9)] * 8}, "expected 3 objectness_logits of finite numbers for image 1"),
        ({"objectness_logits": ["x"] * 8}, "for image 1, got a str"),
        ({"bbox_mode": 99}, "expected a bbox_mode of Detectron2's BoxMode, got int 99"),
    ],
)
def test_other_content_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_proposals(write(tmp_path / "p.pkl", content(**change)))


def test_proposals_of_another_data_set_are_refused(data, tmp_path):
    cfg = config(data, write(tmp_path / "p.npz", content(5)))
    with pytest.raises(
        UserError, match=r"expected proposals for every image, got none for 3 of 8, the first of them 6"
    ):
        ReplayableTrainLoader(cfg, seed=0)


def test_files_are_looked_for_before_a_run(data, tmp_path):
    cfg = config(data, str(tmp_path / "none.npz"))
    with pytest.raises(FileError, match="none.npz: expected proposals, .* there is none"):
        check_proposal_files(cfg, ["TRAIN"])
    cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    with pytest.raises(UserError, match="DATASETS.PROPOSAL_FILES_TEST: expected a file for each of the 1 data sets"):
        check_proposal_files(cfg, ["TEST"])
    cfg.MODEL.LOAD_PROPOSALS = False
    check_proposal_files(cfg, ["TRAIN", "TEST"])


def npz(path, **change):
    arrays = {
        "ids": np.arange(2),
        "boxes": np.zeros((3, 4), np.float32),
        "objectness_logits": np.zeros(3, np.float32),
        "offsets": np.array([0, 1, 3]),
        "bbox_mode": np.int64(0),
    } | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0, 1, 4])},
        {"offsets": np.array([0, -1, 3])},
        {"offsets": np.array([1, 1, 3])},
        {"offsets": None},
        {"ids": np.array([{}, 1], dtype=object)},
        {"objectness_logits": np.zeros(2, np.float32)},
    ],
    ids=str,
)
def test_arrays_that_do_not_belong_together(tmp_path, change):
    assert len(read_proposals(npz(tmp_path / "good.npz"))["boxes"]) == 2
    with pytest.raises(UserError):
        read_proposals(npz(tmp_path / "p.npz", **change))


def test_no_memory_is_taken_for_what_a_header_claims(tmp_path):
    path = Path(npz(tmp_path / "p.npz"))
    content = path.read_bytes()
    claim = content.replace(b"'shape': (3, 4), }   ", b"'shape': (3, 4" + b"000), }", 1)
    assert claim != content
    path.write_bytes(claim)
    with pytest.raises(FileError, match="truncated or damaged"):
        read_proposals(str(path))
