"""Loading and resuming: damaged checkpoints are named, and three lines say what was loaded."""

import collections
import logging
import os
import re
from urllib.parse import urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils import comm

from libra_d2.checkpoint.safe_load import is_whole, load_pickle, load_torch
from libra_d2.checks import FileError

logger = logging.getLogger(__name__)


class LibraCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for weights that one did not make oneself and for trainings that were killed.

    ``.pth`` files are read with ``weights_only=True``, the model zoo's and Caffe2's ``.pkl`` files by an unpickler that
    admits NumPy arrays only. Weights of a plain backbone find their place in a BalancedFeaturePyramid.
    """

    def load(self, path, *args, **kwargs):
        self._source = path
        #: names of the model's tensors that the last file did not fill
        self.not_loaded = list(self.model.state_dict())
        if path and "://" in path:
            self._fetch(path)
        return super().load(path, *args, **kwargs)

    def _fetch(self, url):
        try:
            self.path_manager.get_local_path(urlparse(url)._replace(query="").geturl())
        except OSError as e:
            page = url.replace("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/")
            if url.startswith("catalog://"):
                page = ModelCatalog.get(url.removeprefix("catalog://"))
            raise FileError(
                f"MODEL.WEIGHTS: cannot fetch {url} ({e}). Download {page} by hand and add MODEL.WEIGHTS FILE to the "
                "command, or MODEL.WEIGHTS '' to start from random weights"
            ) from e

    def resume_or_load(self, path, *, resume=True):
        """Like Detectron2's, but takes the newest checkpoint that is whole, and names those that are not.

        Raises:
            FileError: no checkpoint can be read, or not every machine sees them.
        """
        found = comm.all_gather(self.has_checkpoint()) if resume else [False]
        if not any(found):
            return super().resume_or_load(path, resume=False)
        if not all(found):
            blind = [rank for rank, has in enumerate(found) if not has]
            raise FileError(
                f"--resume: expected checkpoints in {self.save_dir} on every machine, ranks {blind} have none"
            )
        file, damaged = comm.all_gather(self._newest_whole() if comm.is_main_process() else None)[0]
        for bad in damaged:
            logger.warning(f"Checkpoint {bad} is truncated or damaged; taking the one before.")
        if file is None:
            raise FileError(
                f"--resume: every checkpoint in {self.save_dir} is truncated or damaged ({', '.join(damaged)}); "
                "remove its file last_checkpoint to start over"
            )
        return self.load(file)

    def _newest_whole(self) -> tuple[str | None, list[str]]:
        newest = self.get_checkpoint_file()
        numbered = {}
        for file in self.get_all_checkpoint_files():
            if match := re.fullmatch(r"model_(\d+)\.pth", os.path.basename(file)):
                numbered[int(match[1])] = file
        tagged = re.fullmatch(r"model_(\d+)\.pth", os.path.basename(newest))
        before = [numbered[i] for i in sorted(numbered, reverse=True) if not tagged or i < int(tagged[1])]
        damaged = []
        for file in [newest, *before]:
            if is_whole(self.path_manager.get_local_path(file)):
                return file, damaged
            damaged.append(file)
        return None, damaged

    def _load_file(self, filename):
        if filename.endswith(".pyth"):
            self._torch_load(filename)  # refuses what Detectron2, before torch 2.6, would run
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)
        data = load_pickle(filename)
        if "model" in data and "__author__" in data:
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        # Caffe2's: detection models keep their weights under "blobs", ImageNet models do not
        weights = data.get("blobs", data)
        weights = {name: value for name, value in weights.items() if not name.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _torch_load(self, f):
        return load_torch(f)

    def _log_incompatible_keys(self, incompatible):
        super()._log_incompatible_keys(incompatible)
        self.not_loaded = list(incompatible.missing_keys)
        logger.info(load_summary(self._source, len(self.model.state_dict()), incompatible))


def load_summary(source: str, num_tensors: int, incompatible) -> str:
    """Three lines: how many of the model's tensors were loaded, which are new, which were dropped for their shape."""
    reshaped = {
        name: f"{name} {tuple(old)} -> {tuple(new)}" for name, old, new in sorted(incompatible.incorrect_shapes)
    }
    new = [name for name in incompatible.missing_keys if name not in reshaped]
    return "\n".join(
        (
            f"Loaded {num_tensors - len(new) - len(reshaped)} of the model's {num_tensors} tensors from {source}",
            f"  new, not in the file: {summary(new) or 'none'}",
            f"  re-initialised, of another shape in the file: {', '.join(reshaped.values()) or 'none'}",
        )
    )


def summary(names: list[str]) -> str:
    """Tensor names counted by the first two parts of their path, e.g. "backbone.refine (8), backbone.gate (1)"."""
    counts = collections.Counter(".".join(name.split(".")[:2]) for name in names)
    if len(counts) > 8:
        counts = collections.Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
