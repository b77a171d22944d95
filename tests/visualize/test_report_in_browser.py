"""The report as a reader sees it: complete, quiet, offline, at home in narrow, wide, light and dark windows."""

import numpy as np
import pytest
from PIL import Image

from libra_d2.visualize.report import write_report
from tests.evaluation.scene import draw, random_scene
from tests.visualize.browser import NAMES, find_browser, show

pytestmark = pytest.mark.skipif(not find_browser(), reason=f"there is no browser on PATH: {', '.join(NAMES)}")
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(23, 25, 28)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    truth, results = random_scene()
    draw(truth, folder / "images")
    return write_report(folder / "report", truth, results, title="some & data", image_root=str(folder / "images"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_it_is_shown_whole(page, tmp_path, width, dark):
    shown = show(page, tmp_path / "shown", width, 3000, dark)
    assert shown.messages == []
    assert shown.requests == []
    found = shown.found
    assert found["headings"] == ["some & data", "Boxes", "Mistakes", "The images with the most mistakes"]
    assert len(found["images"]) == 3 + 4
    for alt, in_file, on_page in found["images"]:
        assert alt
        assert in_file >= on_page > 300, "it was loaded, and is sharp"
    assert [row[0] for row in found["rows"]] == ["class", "all", "cat", "dog", "<owl>"]
    assert {len(row) for row in found["rows"]} == {9}
    assert all(caption.endswith(("mistake", "mistakes")) for caption in found["captions"])
    assert len(found["captions"]) == 4
    assert found["wider"] <= 0, "nothing sticks out"
    assert found["paper"] == (DARK if dark else LIGHT)
    pixels = np.asarray(Image.open(shown.picture).convert("L"))
    assert pixels.shape[1] == width
    assert pixels.std() > 20


def test_a_page_that_asks_the_network_would_be_noticed(page, tmp_path):
    url = "https://libra-d2.invalid/a.png"
    asks = page.read_text().replace('<img alt="', f'<img src="{url}" alt="', 1)
    (tmp_path / "refused.html").write_text(asks)
    shown = show(tmp_path / "refused.html", tmp_path / "refused")
    assert any(url in message for message in shown.messages)
    assert [alt for alt, in_file, _ in shown.found["images"] if not in_file] == ["precision over recall"]
    (tmp_path / "allowed.html").write_text(asks.replace("img-src data:", "img-src *"))
    assert show(tmp_path / "allowed.html", tmp_path / "allowed").requests == [url]
