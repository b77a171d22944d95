import os

import pytest
import torch
from torch import nn

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.checkpoint.safe_tensors import safetensors_bytes
from libra_d2.checkpoint.saved_classes import newest_checkpoint, saved_class_names


def save(folder, name, class_names=("green", "red")):
    checkpointer = LibraCheckpointer(nn.Linear(1, 1), str(folder))
    checkpointer.class_names = class_names
    checkpointer.save(name)
    return str(folder / f"{name}.pth")


def test_a_checkpoint_carries_its_class_names_as_plain_data(tmp_path):
    path = save(tmp_path, "model_final")
    assert torch.load(path, weights_only=True)["class_names"] == ["green", "red"]
    assert saved_class_names(path) == ["green", "red"]


@pytest.mark.parametrize("content", [{"model": {}}, {"class_names": "ab"}, {"class_names": [1]}, [1]])
def test_files_that_do_not_say_have_none(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert saved_class_names(str(tmp_path / "a.pth")) == []
    assert saved_class_names("detectron2://a.pkl") == []
    assert saved_class_names(str(tmp_path / "gone.pth")) == []


def test_safetensors_say_their_class_names(tmp_path):
    content = safetensors_bytes({"a": torch.zeros(1)}, ["green", "red"])
    (tmp_path / "a.safetensors").write_bytes(content)
    assert saved_class_names(str(tmp_path / "a.safetensors")) == ["green", "red"]


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert newest_checkpoint(str(tmp_path / "gone")) is None
    first, second = save(tmp_path, "model_0000001"), save(tmp_path, "model_0000002")
    assert newest_checkpoint(str(tmp_path)) == second
    os.truncate(second, 100)
    assert newest_checkpoint(str(tmp_path)) == first
    os.truncate(first, 100)
    assert newest_checkpoint(str(tmp_path)) is None
