"""Run-length masks are decoded as pycocotools decodes them."""

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_d2.data.validate.boxes import _decoded


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.floats(0, 1), st.integers(0, 2**32))
def test_compressed_masks_have_the_runs_of_their_pixels(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share**3
    encoded = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    runs = _decoded(encoded["counts"].decode())
    pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
    assert (pixels == mask).all()


@pytest.mark.parametrize("text", ["", "é", "~", "\0", "P", "o" * 40, "1O"])
def test_what_pycocotools_would_read_past_or_below_is_refused(text):
    with pytest.raises(ValueError, match=r"expected compressed counts|a run has -"):
        _decoded(text)
