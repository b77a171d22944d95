"""Importing libra_d2 changes nothing in Detectron2 but what registries are for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Prints what differs in Detectron2 after every module of libra_d2 was imported and a config made.
CODE = """
import importlib, inspect, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
import detectron2
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from fvcore.common.registry import Registry

def import_all(package):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
        if not module.name.startswith(("detectron2.projects", "libra_d2._core_")) and "__main__" not in module.name:
            try:
                importlib.import_module(module.name)
            except ImportError:  # needs what is not installed
                assert package is detectron2, module.name

def snapshot():
    found = {"defaults": get_cfg().dump(), "data sets": str(DatasetCatalog.list()) + str(MetadataCatalog.list())}
    found["path handlers"] = str(sorted(PathManager._path_handlers))
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] not in ("detectron2", "fvcore", "iopath") or module is None:
            continue
        for key, value in list(vars(module).items()):
            found[f"{name}.{key}"] = id(value)
            if isinstance(value, (dict, list, set)) and not key.startswith("__"):
                found[f"{name}.{key} content"] = repr(value)
            if isinstance(value, Registry):
                for entry, what in value:
                    if not what.__module__.startswith("libra_d2."):
                        found[f"{name}.{key}[{entry}]"] = id(what)
            if inspect.isclass(value):
                for attribute, what in list(vars(value).items()):
                    if not attribute.startswith(("_abc_", "__abstractmethods__")) and attribute != "__weakref__":
                        found[f"{name}.{key}.{attribute}"] = id(what)
            if inspect.isfunction(value):
                found[f"{name}.{key} code"] = str((value.__defaults__, value.__kwdefaults__, id(value.__code__)))
    return found

import_all(detectron2)
before = snapshot()
import libra_d2
import_all(libra_d2)
libra_d2.get_cfg()
CHANGE
after = snapshot()
changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
print(json.dumps({"looked at": len(before), "changed": changed}))
"""


def _changes(change=""):
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("CHANGE", change)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["looked at"] > 5000
    return found["changed"]


def test_importing_libra_d2_changes_nothing():
    assert _changes() == []


def test_changes_would_be_noticed():
    changes = {
        "detectron2.modeling.GeneralizedRCNN.forward": "detectron2.modeling.GeneralizedRCNN.forward = lambda self: 1",
        "defaults": "detectron2.config.defaults._C.SEED = 3",
        "detectron2.layers.nms_rotated": "detectron2.layers.nms_rotated = None",
        "detectron2.modeling.META_ARCH_REGISTRY[RetinaNet]": (
            "detectron2.modeling.META_ARCH_REGISTRY._obj_map['RetinaNet'] = int"
        ),
        "detectron2.modeling.build_model code": "detectron2.modeling.build_model.__defaults__ = (1,)",
    }
    assert set(changes) <= set(_changes("\n".join(changes.values())))
