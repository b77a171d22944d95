import itertools
import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.utils import comm

from libra_d2.config import get_cfg
from libra_d2.data import complete_config, register_datasets
from libra_d2.data.random_state import preserved_rng, seed_cpu
from libra_d2.data.train_loader import ReplayableTrainLoader
from tests.engine.tiny import write_config, write_dataset


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    file, images = write_dataset(folder / "train", num_images=7)
    cfg = get_cfg()
    cfg.merge_from_file(str(write_config(folder / "tiny.yaml")))
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.COLOR_AUG = 0.2
    cfg.INPUT.VERTICAL_FLIP = True
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.MODEL.LIBRA.DATA.TRAIN_IMAGES = str(file), str(images)
    complete_config(cfg)
    register_datasets(cfg)
    yield cfg
    DatasetCatalog.remove("libra_train")
    MetadataCatalog.remove("libra_train")


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def same(a, b):
    return [d["image_id"] for d in a] == [d["image_id"] for d in b] and all(
        torch.equal(x["image"], y["image"])
        and torch.equal(x["instances"].gt_boxes.tensor, y["instances"].gt_boxes.tensor)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_entered_at_any_batch_is_the_stream_from_the_start(cfg, workers):
    whole = take(ReplayableTrainLoader(cfg, seed=5), 9)
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = workers
    resumed = ReplayableTrainLoader(cfg, seed=77)
    resumed.replay({"seed": 5}, 4)
    for before, after in zip(whole[4:], take(resumed, 5), strict=True):
        assert same(before, after)


@pytest.fixture
def loading(cfg):
    """(an iterator with two workers, the workers)"""
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = 2
    before = multiprocessing.active_children()
    batches = iter(ReplayableTrainLoader(cfg, seed=5))
    for _ in range(3):
        next(batches)
    return batches, [worker for worker in multiprocessing.active_children() if worker not in before]


def test_workers_survive_a_signal_to_the_process_group(loading):
    """Ctrl-C and schedulers signal every process; the step that is under way needs its data."""
    batches, workers = loading
    assert len(workers) == 2
    others = (
        "import os, signal, sys; [os.kill(int(p), s) for p in sys.argv[1:] for s in (signal.SIGTERM, signal.SIGINT)]"
    )
    subprocess.run([sys.executable, "-c", others, *(str(worker.pid) for worker in workers)], check=True)
    time.sleep(0.5)
    for _ in range(6):  # more than was loaded ahead
        next(batches)


def test_workers_end_when_their_parent_says_so(loading):
    """As it does when it ends with an error, and then waits for them."""
    _, workers = loading
    for worker in workers:
        worker.terminate()
        worker.join(60)
        assert worker.exitcode == 0


def test_records_may_leave_out_their_size(cfg):
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN = ("without sizes",)
    records = [{k: v for k, v in r.items() if k not in ("width", "height")} for r in DatasetCatalog.get("libra_train")]
    DatasetCatalog.register("without sizes", lambda: records)
    try:
        assert len(take(ReplayableTrainLoader(cfg, seed=5), 3)) == 3
    finally:
        DatasetCatalog.remove("without sizes")
        MetadataCatalog.remove("without sizes")


def test_another_seed_gives_other_batches(cfg):
    first, second = (take(ReplayableTrainLoader(cfg, seed=seed), 3) for seed in (5, 6))
    assert not all(same(a, b) for a, b in zip(first, second, strict=True))


def test_an_image_is_augmented_differently_each_time(cfg):
    images = {}
    for d in itertools.chain(*take(ReplayableTrainLoader(cfg, seed=5), 14)):
        images.setdefault(d["image_id"], []).append(d["image"])
    seen_again = [tensors for tensors in images.values() if len(tensors) > 1]
    assert seen_again
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b, *_ in seen_again)


def test_batches_hold_wide_or_tall_images_in_the_order_of_detectron2(cfg):
    cfg = cfg.clone()
    cfg.SEED = 5
    ours = [[d["image_id"] for d in batch] for batch in take(ReplayableTrainLoader(cfg, seed=5), 8)]
    wide = [{d["width"] > d["height"] for d in batch} for batch in take(ReplayableTrainLoader(cfg, seed=5), 8)]
    assert all(len(kinds) == 1 for kinds in wide)
    with preserved_rng():
        seed_cpu(cfg.SEED)
        parts = build_detection_train_loader.from_config(cfg)
    theirs = [[d["image_id"] for d in batch] for batch in take(build_detection_train_loader(**parts), 8)]
    assert ours == theirs


def test_the_seed_of_the_loader_reaches_a_sampler_that_takes_its_own_from_the_config(cfg, monkeypatch):
    """As those of Detectron2's main do; SEED -1, which means another seed for each run, would be the same for all."""
    from_config, seeds = build_detection_train_loader.from_config, []

    def spy(cfg, **kwargs):
        seeds.append(cfg.SEED)
        return from_config(cfg, **kwargs)

    loader = ReplayableTrainLoader(cfg, seed=7)
    monkeypatch.setattr(build_detection_train_loader, "from_config", spy)
    take(loader, 1)
    assert seeds == [7]


@pytest.mark.parametrize("name", ["RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_every_sampler_of_detectron2_is_replayed(cfg, name):
    cfg = cfg.clone()
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.8
    whole = take(ReplayableTrainLoader(cfg, seed=5), 5)
    resumed = ReplayableTrainLoader(cfg, seed=6)
    resumed.replay({"seed": 5}, 3)
    assert all(same(a, b) for a, b in zip(whole[3:], take(resumed, 2), strict=True))


def test_loading_in_the_main_process_leaves_its_generators_alone(cfg):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(ReplayableTrainLoader(cfg, seed=5), 2)
    assert torch.equal(torch.rand(3), expected)


def test_two_ranks_read_together_what_one_reads_alone(cfg, monkeypatch):
    cfg = cfg.clone()
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False

    def read(rank, world_size, batches):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
        monkeypatch.setattr(comm, "shared_random_seed", lambda: int(np.random.randint(2**31)))  # noqa: NPY002
        return list(itertools.chain(*take(ReplayableTrainLoader(cfg, seed=5), batches)))

    alone, first, second = read(0, 1, 6), read(0, 2, 3), read(1, 2, 3)
    assert same(alone, [d for pair in zip(first, second, strict=True) for d in pair])


def test_masks_that_are_wanted_and_missing_are_named(cfg):
    cfg = cfg.clone()
    cfg.MODEL.MASK_ON = True
    ReplayableTrainLoader(cfg, seed=5)
    dicts = DatasetCatalog.get("libra_train")
    del dicts[2]["annotations"][0]["segmentation"]
    cfg.DATASETS.TRAIN = ("without_a_mask",)
    DatasetCatalog.register("without_a_mask", lambda: dicts)
    try:
        with pytest.raises(ValueError, match=r"MODEL.MASK_ON: expected a segmentation .* in image 3 \(.*003.png\)"):
            ReplayableTrainLoader(cfg, seed=5)
    finally:
        DatasetCatalog.remove("without_a_mask")
        MetadataCatalog.remove("without_a_mask")


def test_the_added_augmentations_are_used_only_where_asked(cfg):
    names = [type(a).__name__ for a in augmentations(cfg)]
    assert names.count("RandomFlip") == 2
    assert {"RandomBrightness", "RandomContrast", "RandomSaturation"} <= set(names)
    plain = cfg.clone()
    plain.INPUT.VERTICAL_FLIP, plain.INPUT.COLOR_AUG = False, 0.0
    assert [type(a).__name__ for a in augmentations(plain)] == ["RandomCrop", "ResizeShortestEdge", "RandomFlip"]


def augmentations(cfg):
    from libra_d2.data.train_loader import train_mapper

    return train_mapper(cfg).augmentations.augs
