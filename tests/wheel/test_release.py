"""What `make dist` makes of the last commit, installed where there is neither the source tree nor a compiler.

It compiles the core three times, with CUDA if there is nvcc: `make test-wheel` runs it, and `make test` does not.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from libra_d2 import __version__
from tests.wheel.bare import TRAIN

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")  # where the commit stays the last one meanwhile
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    folders = [tmp_path_factory.mktemp("dist") for _ in range(2)]
    for folder in folders:
        subprocess.run([sys.executable, "tools/make_dist.py", "--output", folder], cwd=source, check=True)
    return folders


def test_a_commit_gives_the_same_bytes_twice(releases):
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in releases)
    assert one == two
    assert len(one) == 2


def test_the_wheel(releases, environment, pinned_detectron2):
    (wheel,) = releases[0].glob("*.whl")
    assert wheel.name.startswith(f"libra_d2-{__version__}-cp310-abi3-manylinux_")
    assert tuple(map(int, re.search(r"manylinux_(\d+)_(\d+)_", wheel.name).groups())) <= (2, 28)
    environment.pip_install(wheel)
    facts = environment.begin(pinned_detectron2)
    assert facts["backends"].startswith("native (")
    resumed = environment.run("libra-d2", *TRAIN, "--resume", "SOLVER.MAX_ITER", 3)
    assert "Starting training from iteration 2" in resumed
    evaluate = ("eval", "--config-file", "out/config.yaml", "MODEL.WEIGHTS")
    found = environment.run("libra-d2", *evaluate, "out/model_final.pth")
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in found
    predict = ("predict", "--config-file", "out/config.yaml", "--input", "val/images", "--output", "drawn")
    environment.run("libra-d2", *predict, "--opts", "MODEL.WEIGHTS", "out/model_final.pth")
    assert len(list((environment.work / "drawn").glob("*.png"))) == 3
    environment.run("libra-d2", "convert", "out/model_final.pth", "model.safetensors")
    found = environment.run("libra-d2", *evaluate, "model.safetensors")
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in found


def test_the_sdist(releases, environment, pinned_detectron2):
    """Built where a compiler is, by pip, which leaves no more than a wheel would."""
    (sdist,) = releases[0].glob("*.tar.gz")
    environment.pip_install(sdist, "--no-build-isolation", LIBRA_D2_CUDA="0")
    facts = environment.begin(pinned_detectron2)
    assert facts["backends"].startswith("native (CPU; the core was built without CUDA: LIBRA_D2_CUDA=0)")
