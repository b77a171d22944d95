"""safetensors, there and back."""

import pytest
import safetensors.torch
import torch

from libra_d2.checkpoint.safe_tensors import load_safetensors, safetensors_bytes
from libra_d2.checks import FileError, UserError


def test_tensors_and_class_names_come_back(tmp_path):
    shared = torch.arange(12.0)
    tensors = {"a": shared.reshape(3, 4).t(), "b": shared[::2], "c": torch.tensor(3), "d": torch.ones(2).half()}
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(tensors, ["tree", "bücher"]))
    got, class_names = load_safetensors(tmp_path / "w.safetensors")
    assert class_names == ["tree", "bücher"]
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], tensor) and got[name].dtype == tensor.dtype for name, tensor in tensors.items())


@pytest.mark.parametrize("names", ["no json", "[1]", "{}", "[" * 100_000])
def test_class_names_of_others_are_not_trusted(tmp_path, names):
    (tmp_path / "w.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(1)}, {"class_names": names}))
    assert load_safetensors(tmp_path / "w.safetensors")[1] == []


def test_damage_is_named(tmp_path):
    content = safetensors_bytes({"a": torch.ones(100)})
    (tmp_path / "w.safetensors").write_bytes(content[:-1])
    with pytest.raises(FileError, match=r"w.safetensors is truncated or damaged"):
        load_safetensors(tmp_path / "w.safetensors")


def test_other_values_are_refused():
    with pytest.raises(UserError, match="expected tensors .* got a int as a"):
        safetensors_bytes({"a": 3})
