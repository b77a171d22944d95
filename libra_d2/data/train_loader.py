"""A training loader whose batches depend only on the seed and the position, so that training can resume exactly."""

import itertools
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.utils import comm
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from libra_d2.checks import UserError
from libra_d2.data.proposals import training_records, without_proposals
from libra_d2.data.random_state import preserved_rng, seed_cpu
from libra_d2.data.worker_signals import heed_parent_alone, signals_blocked


def train_mapper(cfg: CfgNode) -> DatasetMapper:
    """Detectron2's training mapper with the augmentations of ``INPUT.VERTICAL_FLIP`` and ``INPUT.COLOR_AUG`` added."""
    parts = DatasetMapper.from_config(cfg, True)
    if cfg.INPUT.VERTICAL_FLIP:
        parts["augmentations"].append(T.RandomFlip(horizontal=False, vertical=True))
    if cfg.INPUT.COLOR_AUG:
        low, high = 1 - cfg.INPUT.COLOR_AUG, 1 + cfg.INPUT.COLOR_AUG
        parts["augmentations"] += [
            kind(low, high) for kind in (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
        ]
    return DatasetMapper(**parts)


class ReplayableTrainLoader:
    """Detectron2's training loader with a stream that can be entered at any batch.

    The data set, the sampler and the batching are those the config names. Three things differ: images are grouped by
    aspect ratio before they are read and not after (those whose record lacks width and height count as tall),
    augmentations draw random numbers keyed by (seed, position in the stream), and the sampler's seed is known. So the
    batches are the same for every ``NUM_WORKERS``, and skipping some reads no image.

    Args:
        cfg: a config.
        seed: the same on every rank.
    """

    def __init__(self, cfg: CfgNode, seed: int):
        self._cfg = without_proposals(cfg)
        self._seed = seed
        self._start = 0
        records = training_records(cfg) if cfg.MODEL.LOAD_PROPOSALS else None
        self._parts = build_detection_train_loader.from_config(self._cfg, mapper=train_mapper(cfg), dataset=records)
        dataset = self._parts["dataset"]
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"expected a list or a map-style data set, got {type(dataset).__name__}")
        if cfg.MODEL.MASK_ON:
            check_masks(dataset)
        grouped = self._parts["aspect_ratio_grouping"]
        self._wide = [grouped and record.get("width", 0) > record.get("height", 0) for record in dataset]
        if isinstance(dataset, list):  # serialised, or each process that loads data ends up with a copy of it
            self._parts["dataset"] = DatasetFromList(dataset, copy=False)

    def state_dict(self) -> dict:
        return {"seed": self._seed}

    def replay(self, state: dict, batches_done: int) -> None:
        """Makes the next iterator start after ``batches_done`` batches of the stream whose state was saved."""
        self._seed = state["seed"]
        self._start = batches_done

    def __iter__(self) -> Iterator[list[dict]]:
        parts = dict(self._parts)
        dataset, mapper = parts["dataset"], parts["mapper"]
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.SEED = self._seed  # Detectron2's samplers take their seed from there, or draw it with NumPy's generator
        with preserved_rng():
            seed_cpu(self._seed)
            sampler = build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=dataset)["sampler"]
        batch_size = parts["total_batch_size"] // comm.get_world_size()
        parts["dataset"] = _SeededDataset(dataset, mapper, self._seed)
        parts["sampler"] = _GroupedPositions(sampler, self._wide, batch_size, self._start)
        parts["mapper"] = None
        parts["aspect_ratio_grouping"] = False
        with signals_blocked():
            return iter(build_detection_train_loader(**parts, seed=self._seed))


def check_masks(dataset) -> None:
    """Refuses records with objects that have no mask.

    Raises:
        UserError: names the first image with one.
    """
    for record in dataset:
        for annotation in record.get("annotations", ()):
            if "segmentation" not in annotation and not annotation.get("iscrowd", 0):
                raise UserError(
                    f"MODEL.MASK_ON: expected a segmentation in every annotation, got one without in image "
                    f"{record['image_id']} ({record['file_name']}); MODEL.MASK_ON False trains on the boxes alone"
                )


class _GroupedPositions(Sampler):
    """(position, index) pairs of a sampler, reordered so that each batch holds wide or tall images only.

    Positions number the samples of all ranks together. The order is that of Detectron2's AspectRatioGroupedDataset.
    """

    def __init__(self, sampler: Sampler, wide: list[bool], batch_size: int, start: int):
        self._sampler = sampler
        self._wide = wide
        self._batch_size = batch_size
        self._start = start
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if get_worker_info() is not None:  # it is a worker that begins to load
            heed_parent_alone()
        for batch in itertools.islice(self._batches(), self._start, None):
            yield from batch

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        groups = {True: [], False: []}
        for i, index in enumerate(self._sampler):
            group = groups[self._wide[index]]
            group.append((i * self._world_size + self._rank, index))
            if len(group) == self._batch_size:
                yield group[:]
                group.clear()


class _SeededDataset(Dataset):
    """Maps (position, index) to a training sample, with random numbers that depend on (seed, position) alone."""

    def __init__(self, dataset: Dataset, mapper, seed: int):
        self._dataset = dataset
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, where: tuple[int, int]) -> dict:
        position, index = where
        with preserved_rng():
            seed_cpu(self._seed, position)
            return self._mapper(self._dataset[index])
