"""Argument checks of the ops. Every message reads "<op>: expected ..., got ..."."""

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


def check_tensor(op: str, name: str, value, dtype: torch.dtype, *, device: torch.device | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: expected {name} to be a dense (strided) tensor, got {value.layout}")
    if value.dtype != dtype:
        raise TypeError(f"{op}: expected {name} of dtype {dtype}, got {value.dtype}")
    if device is not None and value.device != device:
        raise ValueError(f"{op}: expected {name} on {device}, got {value.device}")


def check_boxes(op: str, name: str, value, *, device: torch.device | None = None) -> None:
    check_tensor(op, name, value, torch.float32, device=device)
    if value.dim() != 2 or value.shape[1] != 4:
        raise ValueError(f"{op}: expected {name} of shape [R, 4], got {list(value.shape)}")


def check_rows(op: str, name: str, value, dtype: torch.dtype, rows: int, *, device: torch.device) -> None:
    check_tensor(op, name, value, dtype, device=device)
    if value.dim() != 1 or value.shape[0] != rows:
        raise ValueError(f"{op}: expected {name} of shape [{rows}], one value a row, got {list(value.shape)}")


def check_offsets(op: str, name: str, value, *, device: torch.device, images: int | None = None) -> None:
    check_tensor(op, name, value, torch.int64)
    if value.device != device and value.device.type != "cpu":
        raise ValueError(f"{op}: expected {name} on {device} or on the CPU, got {value.device}")
    if value.dim() != 1 or value.shape[0] < 1:
        raise ValueError(f"{op}: expected {name} of shape [N + 1], got {list(value.shape)}")
    if images is not None and value.shape[0] != images + 1:
        raise ValueError(f"{op}: expected {name} for {images} images, got {value.shape[0] - 1}")


def check_offset_values(op: str, name: str, values: list[int], rows: int) -> None:
    if values[0] != 0:
        raise ValueError(f"{op}: expected {name} to start at 0, got {values[0]}")
    for previous, value in zip(values, values[1:], strict=False):
        if value < previous:
            raise ValueError(f"{op}: expected {name} not to decrease, got {previous} before {value}")
    if values[-1] != rows:
        raise ValueError(f"{op}: expected {name} to end at {rows}, the number of rows, got {values[-1]}")


def check_sequence(op: str, name: str, value) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{op}: expected {name} to be a sequence, got {type(value).__name__}")


def check_integer(op: str, name: str, value, minimum: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{op}: expected {name} to be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{op}: expected {name} >= {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{op}: expected {name} <= {maximum}, got {value}")


def check_number(op: str, name: str, value, low: float = -float("inf"), high: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{op}: expected {name} to be a number, got {value!r}")
    if not (low <= value <= high and abs(value) < float("inf")):
        wanted = "a finite number" if high == float("inf") else f"a number from {low} to {high}"
        raise ValueError(f"{op}: expected {name} to be {wanted}, got {value}")


def check_choice(op: str, name: str, value, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{op}: expected {name} to be one of {', '.join(map(repr, allowed))}, got {value!r}")
