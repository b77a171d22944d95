"""Image files that reading would refuse, or turn into something else."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from libra_d2.data.validate.files import file_faults

GREY = np.arange(256, dtype=np.uint16).reshape(16, 16)


def whats(folder, name, width=16, height=16, **options):
    entry = {"id": 1, "file_name": name, "width": width, "height": height}
    return [fault.what for fault in file_faults([entry], str(folder), **{"decode": True, "max_size": 1333, **options})]


@pytest.mark.parametrize(
    ("name", "pixels", "becomes"),
    [
        ("a.png", GREY * 257, "white"),
        ("a.tif", GREY.astype(np.int32) * 257, "white"),
        ("a.tif", GREY.astype(np.int32) - 128, "black below 0"),
        ("a.tif", (GREY / 255).astype(np.float32), "nearly black"),
        ("a.tif", np.full((16, 16), np.nan, np.float32), "white"),
    ],
)
@pytest.mark.parametrize("decode", [True, False])
def test_pixels_that_do_not_fit_into_8_bits_are_an_error(tmp_path, name, pixels, becomes, decode):
    Image.fromarray(pixels).save(tmp_path / name)
    [what] = whats(tmp_path, name, decode=decode)
    assert what.startswith("expected pixels of 8 bits, got greyscale of mode")
    assert becomes in what
    assert "scale it to 0..255 and save 8 bits" in what


@pytest.mark.parametrize(("name", "pixels"), [("a.png", GREY), ("a.tif", GREY.astype(np.float32))])
def test_values_of_8_bits_in_a_wider_type_pass(tmp_path, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    assert whats(tmp_path, name) == []


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_size_that_ignores_exif_is_named_with_the_remedy(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    assert whats(tmp_path, name, 20, 30) == []
    [what] = whats(tmp_path, name, 30, 20)
    assert "has the size (20, 30), the json says (30, 20) (width, height), which is the size before the turn" in what


def noise(file):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    return bytearray(file.read_bytes())


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_truncated_file_is_found_without_decoding_the_others(tmp_path, name, decode):
    whole = noise(tmp_path / name)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    [what] = whats(tmp_path, name, 64, 64, decode=decode)
    assert what.startswith("cannot be read: ")


def test_only_decoding_finds_damaged_pixels(tmp_path):
    damaged = noise(tmp_path / "a.png")
    damaged[100] ^= 255
    (tmp_path / "a.png").write_bytes(damaged)
    assert whats(tmp_path, "a.png", 64, 64) == ["cannot be read: broken data stream when reading image file"]
    assert whats(tmp_path, "a.png", 64, 64, decode=False) == []


def test_what_follows_the_end_of_a_jpeg_does_no_harm(tmp_path):
    (tmp_path / "a.jpg").write_bytes(noise(tmp_path / "a.jpg") + bytes(10_000))
    assert whats(tmp_path, "a.jpg", 64, 64, decode=False) == []


def test_a_strip_of_which_resizing_leaves_nothing_is_an_error(tmp_path):
    Image.new("RGB", (1, 300)).save(tmp_path / "a.png")
    assert whats(tmp_path, "a.png", 1, 300) == []
    [what] = whats(tmp_path, "a.png", 1, 300, max_size=100)
    assert "nothing of 1 x 300 pixels is left when the longer side becomes 100" in what


def test_an_image_that_pillow_takes_for_an_attack_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    [what] = whats(tmp_path, "a.png")
    assert "decompression bomb" in what


def test_whoever_stops_early_does_not_wait_for_the_rest(tmp_path, monkeypatch):
    read, stopped = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *args, **kwargs):
            stopped.set()
            super().shutdown(*args, **kwargs)

    def first_at_once(image, *_):
        read.append(image)
        return ["fault"] if image["id"] == 0 or stopped.wait(timeout=1) else []

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", Pool)
    monkeypatch.setattr("libra_d2.data.validate.files._faults", first_at_once)
    images = [{"id": n} for n in range(100)]  # there are at most 32 threads
    faults = file_faults(images, str(tmp_path), True, 0)
    assert next(faults) == "fault"
    faults.close()
    assert len(read) < len(images)
