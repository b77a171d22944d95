"""Loading and resuming: damaged checkpoints are named, and three lines say what was loaded."""

import collections
import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils import comm
from torch import nn

from libra_d2.checkpoint.atomic import AtomicPathManager
from libra_d2.checkpoint.file_kind import identify
from libra_d2.checkpoint.safe_load import is_whole, load_file, load_safetensors, load_torch
from libra_d2.checkpoint.state_dict import non_finite, plain, state_dict_of
from libra_d2.checks import FileError, UserError

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d+)\.pth")


class LibraCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for weights from somebody else and for runs that were killed.

    Files are read by :mod:`libra_d2.checkpoint.safe_load`, which runs nothing that is in them and goes by what they
    are, not by their suffix. Weights of a plain backbone find their place in a BalancedFeaturePyramid, and weights
    saved from inside ``torch.compile`` or DataParallel find theirs in the bare model. What it saves is
    written whole or not at all, and finite.
    """

    #: what the model's classes are called, in their order; goes into every checkpoint
    class_names: Sequence[str] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.path_manager = AtomicPathManager(self.path_manager)

    def save(self, name, **kwargs):
        """Like Detectron2's.

        Raises:
            FloatingPointError: a tensor holds infinity or NaN; nothing was written.
            FileError: the file cannot be written; what was there before is unchanged.
        """
        if self.save_dir and self.save_to_disk:
            parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
            if bad := non_finite({"model": self.model.state_dict(), **parts}):
                raise FloatingPointError(f"{summary(bad)} are not finite, the checkpoint {name} is not written")
        super().save(name, class_names=list(self.class_names), **kwargs)

    def load(self, path, *args, **kwargs):
        self._source = path
        #: names of the model's tensors that the last file did not fill
        self.not_loaded = list(self.model.state_dict())
        if path and "://" in path:
            self._fetch(path)
        elif path and not os.path.isfile(path):
            identify(path)  # says what is wrong with it
        self._parsed_url_during_load = None  # Detectron2 leaves it where a load failed
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
        file, unusable = comm.all_gather(self.newest_usable() if comm.is_main_process() else None)[0]
        for bad, why in unusable.items():
            logger.warning(f"{bad} {why}; the newest whole checkpoint is taken instead")
        if file is None:
            raise FileError(
                f"--resume: every checkpoint in {self.save_dir} is truncated or damaged ({', '.join(unusable)}); "
                "choose another OUTPUT_DIR, or leave out --resume to start over in this one"
            )
        return self.load(file)

    def has_checkpoint(self):
        """Whether there is a checkpoint to resume from, be it that ``last_checkpoint`` was lost."""
        return super().has_checkpoint() or bool(self._numbered())

    def get_checkpoint_file(self):
        """The newest checkpoint: the one that ``last_checkpoint`` names or, where it names none, the highest number."""
        numbered = self._numbered()
        return self._tagged() or (numbered[max(numbered)] if numbered else "")

    def go_back_to(self, iteration: int) -> str:
        """Lets ``--resume`` take the newest checkpoint of this iteration or before; "" and no change if there is none.

        A checkpoint without a number, such as model_final.pth, is what the run began with, and stays.
        """
        current, numbered = self.get_checkpoint_file(), self._numbered()
        number = _NUMBERED.fullmatch(os.path.basename(current))
        if not number or int(number[1]) <= iteration:
            return current
        before = [i for i in numbered if i <= iteration]
        if not before:
            return ""
        self.tag_last_checkpoint(os.path.basename(numbered[max(before)]))
        return numbered[max(before)]

    def _tagged(self) -> str | None:
        """What ``last_checkpoint`` names; None if that is no file name, as after a crash of the machine."""
        try:
            with self.path_manager.open(os.path.join(self.save_dir, "last_checkpoint"), "rb") as f:
                name = f.read(1000).decode().strip()
        except (OSError, UnicodeDecodeError):
            return None
        is_name = name.isprintable() and name == os.path.basename(name) and name not in ("", ".", "..")
        return os.path.join(self.save_dir, name) if is_name else None

    def _numbered(self) -> dict[int, str]:
        """{iteration: file} of the checkpoints that were written on the way."""
        if not self.path_manager.isdir(self.save_dir):
            return {}
        numbered = {}
        for file in self.get_all_checkpoint_files():
            if match := _NUMBERED.fullmatch(os.path.basename(file)):
                numbered[int(match[1])] = file
        return numbered

    def newest_usable(self) -> tuple[str | None, dict[str, str]]:
        """The file to resume from, and {file: what is wrong with it} of newer ones."""
        tagged, numbered, unusable = self._tagged(), self._numbered(), {}
        if tagged is None:
            unusable[os.path.join(self.save_dir, "last_checkpoint")] = "is damaged or missing"
        number = _NUMBERED.fullmatch(os.path.basename(tagged or ""))
        before = [numbered[i] for i in sorted(numbered, reverse=True) if not number or i < int(number[1])]
        for file in [tagged, *before] if tagged else before:
            local = self.path_manager.get_local_path(file)
            if not is_whole(local):
                unusable[file] = "is truncated or damaged"
            elif bad := non_finite(load_torch(local)):
                unusable[file] = f"holds values that are not finite, in {summary(bad)}"
            else:
                return file, unusable
        return None, unusable

    def _load_file(self, filename):
        kind = identify(filename)
        if kind == "safetensors":
            tensors, class_names = load_safetensors(filename)
            return self._with_query({"model": tensors, **({"class_names": class_names} if class_names else {})})
        data = load_file(filename)
        if isinstance(data, collections.OrderedDict) and "model" not in data:
            return self._with_query({"model": data})  # a bare state dict, with the versions of its modules
        data = plain(data, self._source)
        if "model_state" in data:  # pycls; as Detectron2 reads it
            return {"model": data["model_state"], "__author__": "pycls", "matching_heuristics": True}
        if "model" in data:
            if "__author__" in data:
                self.logger.info(f"Reading a file from {str(data['__author__'])[:200]!r}")
            return self._with_query(data)
        if kind != "pickle":
            return self._with_query({"model": data})
        # Caffe2's: detection models keep their weights under "blobs", ImageNet models do not
        weights = plain(data.get("blobs", data), self._source)
        weights = {name: value for name, value in weights.items() if not str(name).endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _with_query(self, data: dict) -> dict:
        query = parse_qs(self._parsed_url_during_load.query)
        if query.pop("matching_heuristics", None) == ["True"]:
            data["matching_heuristics"] = True
        if query:
            raise UserError(f"MODEL.WEIGHTS: expected ?matching_heuristics=True or no query, got {self._source}")
        return data

    def _load_model(self, checkpoint):
        """Loads the weights.

        Raises:
            UserError: they are none, none of them fits the model, or some are NaN or infinite.
        """
        own = self.model.state_dict()
        weights = checkpoint["model"] = state_dict_of(checkpoint["model"], self._source, own)
        try:
            with _found(self.model) as found:
                incompatible = super()._load_model(checkpoint)
        except (RuntimeError, ValueError, AssertionError, LookupError) as e:  # as Detectron2's matching of names fails
            raise UserError(f"{self._source} does not fit this model: {' '.join(str(e).split())}") from e
        found.difference_update(name for name, _, _ in incompatible.incorrect_shapes)
        if own and not found:
            raise UserError(
                f"{self._source}: none of its {len(weights)} tensors (such as {summary(list(weights)[:1])}) fits this "
                f"model of {len(own)} tensors (such as {summary(list(own)[:1])}); MODEL.WEIGHTS and the config have to "
                "belong together, MODEL.WEIGHTS '' starts from random weights"
            )
        if bad := non_finite({name: value for name, value in self.model.state_dict().items() if name in found}):
            raise UserError(
                f"{self._source}: expected finite weights, got NaN or infinity in {summary(bad)}: the run that wrote "
                "it diverged; take a checkpoint from before"
            )
        self._found = found
        return incompatible

    def _log_incompatible_keys(self, incompatible):
        super()._log_incompatible_keys(incompatible)
        self.not_loaded = list(incompatible.missing_keys)
        logger.info(load_summary(self._source, len(self._found), len(self.model.state_dict()), incompatible))


@contextlib.contextmanager
def _found(model: nn.Module) -> Iterator[set[str]]:
    """The names of the model's tensors that a state dict holds which is loaded inside the block.

    What PyTorch and Detectron2 fill in where it is missing, such as ``num_batches_tracked``, is not among them.
    """
    found: set[str] = set()

    def note(module, state_dict, prefix, *_):
        # A module fills in its own before it calls its hooks: the one above it has to look.
        seen = [(prefix + name + ".", child) for name, child in module.named_children()]
        for start, child in seen + ([("", model)] if module is model else []):
            own = [start + name for tensors in (child._parameters, child._buffers) for name in tensors]
            found.update(name for name in own if name in state_dict)

    hooks = [module.register_load_state_dict_pre_hook(note) for module in model.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def load_summary(source: str, num_loaded: int, num_tensors: int, incompatible) -> str:
    """Three lines: how many of the model's tensors were loaded, which are new, which were dropped for their shape."""
    reshaped = {
        name: f"{name} {tuple(old)} -> {tuple(new)}" for name, old, new in sorted(incompatible.incorrect_shapes)
    }
    new = [name for name in incompatible.missing_keys if name not in reshaped]
    return "\n".join(
        (
            f"Loaded {num_loaded} of the model's {num_tensors} tensors from {source}",
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
