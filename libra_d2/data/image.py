"""Images as Detectron2 reads them, without those that reading would turn into something else."""

import math

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

_ORIENTATION = 0x0112


def read_8_bits(path: str) -> np.ndarray:
    """Detectron2's ``read_image`` of a local file: uint8 [H, W, 3], BGR.

    Raises:
        ValueError: its pixels do not fit into 8 bits.
        Exception: Pillow raises whatever a damaged file leads its decoders to.
    """
    with Image.open(path) as opened:
        opened.load()  # Detectron2 looks for EXIF first, swallows what a damaged PNG raises then, and goes on in black
        if reason := beyond_8_bits(opened):
            raise ValueError(reason)
    return read_image(path, format="BGR")


def beyond_8_bits(image: Image.Image) -> str:
    """What reading it as 8 bits would lose; empty where nothing is lost.

    Pillow clips greyscale of 16 or 32 bits and of floats: 0..65535 becomes white, 0..1 black. Values from 0 to 255
    pass, whatever type holds them. Colour of 16 bits is scaled by Pillow.
    """
    if not image.mode.startswith(("I", "F")):
        return ""
    low, high = image.getextrema()
    black = image.mode.startswith("F") and 0 < high <= 1
    if math.isfinite(low) and math.isfinite(high) and 0 <= low and high <= 255 and not black:
        return ""
    becomes = "nearly black" if black else "white, or black below 0"
    found = f"greyscale of mode {image.mode} with values from {low:g} to {high:g}"
    return f"expected pixels of 8 bits, got {found}, which would become {becomes}; scale it to 0..255 and save 8 bits"


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 5 to 8 of which swap width and height; reads no pixels."""
    try:
        # PNG's own getexif decodes the image to look for a tag behind the pixels
        return Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # Detectron2, too, takes EXIF that cannot be read for none
        return None
