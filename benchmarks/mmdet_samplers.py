"""MMDetection 3.3.0's own samplers, read from its wheel: fetched by pip into the cache folder, never installed."""

import subprocess
import sys
import types
import zipfile
from pathlib import Path

import torch

WHEEL = "mmdet-3.3.0-py3-none-any.whl"
CACHE = Path(__file__).parent.parent / ".cache" / "benchmarks"
_FOLDER = "mmdet/models/task_modules/samplers"
_MODULES = ("sampling_result", "base_sampler", "random_sampler", "instance_balanced_pos_sampler")
_MODULES += ("iou_balanced_neg_sampler",)


def fetch() -> Path:
    """The wheel, downloaded unless it is there."""
    wheel = CACHE / WHEEL
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", CACHE, "mmdet==3.3.0"]
        subprocess.run(command, check=True)
    return wheel


def load() -> tuple[type, type]:
    """``InstanceBalancedPosSampler`` and ``IoUBalancedNegSampler``, with the few names around them that they import."""
    _stand_in("mmengine.structures", InstanceData=object)
    _stand_in("mmdet.registry", TASK_UTILS=types.SimpleNamespace(register_module=lambda: lambda cls: cls))
    _stand_in("mmdet.structures.bbox", BaseBoxes=type("BaseBoxes", (), {}), cat_boxes=torch.cat)
    _stand_in("mmdet.utils", util_mixins=types.SimpleNamespace(NiceRepr=object))
    _stand_in("mmdet.utils.util_random", ensure_rng=lambda rng=None: rng)
    _stand_in("mmdet.models.task_modules.assigners", AssignResult=object)
    _stand_in(_FOLDER.replace("/", "."))
    with zipfile.ZipFile(fetch()) as archive:
        for name in _MODULES:
            source = archive.read(f"{_FOLDER}/{name}.py")
            module = _stand_in(f"{_FOLDER}/{name}".replace("/", "."))
            exec(compile(source, f"{_FOLDER}/{name}.py", "exec"), module.__dict__)
    positive, negative = (sys.modules[f"{_FOLDER}/{name}".replace("/", ".")] for name in _MODULES[3:])
    return positive.InstanceBalancedPosSampler, negative.IoUBalancedNegSampler


def _stand_in(name: str, **contents: object) -> types.ModuleType:
    for end in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:end])
        if part not in sys.modules:
            sys.modules[part] = types.ModuleType(part)
            sys.modules[part].__path__ = []
    module = sys.modules[name]
    module.__package__ = name.rpartition(".")[0]
    module.__dict__.update(contents)
    return module
