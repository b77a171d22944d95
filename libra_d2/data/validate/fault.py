"""What one fault is, and how images, annotations and values are named in it."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault. An error would crash a run or spoil what it learns or measures, a warning would not."""

    severity: str
    where: str
    what: str

    def __str__(self) -> str:
        text = f"{self.severity}: {self.where}: {self.what}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # names may hold line breaks


def error(where: str, what: str) -> Fault:
    return Fault("error", where, what)


def warning(where: str, what: str) -> Fault:
    return Fault("warning", where, what)


def name_image(image: dict) -> str:
    """E.g. "image 7 (a.jpg)"."""
    name = image.get("file_name")
    return f"image {image.get('id')}" + (f" ({name})" if name else "")


def name_annotation(annotation: dict, image: dict | None) -> str:
    """E.g. "image 7 (a.jpg), annotation 12"; ``image`` is None where there is no such image."""
    return f"{name_image(image or {'id': annotation.get('image_id')})}, annotation {annotation.get('id')}"


def is_numeric(value) -> bool:
    """Whether it is an integer or a float, nan and infinity included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether it is a finite number, and no integer beyond what floats can hold."""
    return is_numeric(value) and abs(value) < 1e15


def are_numbers(values: list) -> bool:
    """Whether all are finite numbers; quick, because files hold millions of coordinates."""
    if not set(map(type, values)) <= {int, float}:
        return False
    try:
        return math.isfinite(sum(values))
    except OverflowError:  # an integer beyond what floats can hold
        return False


def hashable(value):
    """The value, or a text in the place of what cannot be a key."""
    return value if isinstance(value, int | float | str | tuple) else repr(value)


def shorten(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
