"""libra-d2 check: after the faults, a description for the config that is given."""

import json
import subprocess
import sys

from PIL import Image

from libra_d2.cli.main import main


def test_the_description_is_for_the_config_that_is_given(tmp_path, capsys):
    Image.new("RGB", (320, 200)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 320, "height": 200}],
        "categories": [{"id": 1, "name": "tree"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 64, 64], "area": 4096, "iscrowd": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    command = ["check", str(tmp_path / "a.json"), str(tmp_path)]
    assert main(command) == 0
    assert "64 px a side as trained" not in capsys.readouterr().out  # fine-tuning enlarges it
    config = ["--config-file", "quickstart/libra_faster_rcnn_trees.yaml"]
    assert main([*command, *config, "--opts", "INPUT.MIN_SIZE_TRAIN", "(0,)"]) == 0
    assert "64 px a side as trained" in capsys.readouterr().out

    module = [sys.executable, "-m", "libra_d2.cli", *command]
    done = subprocess.run(module, capture_output=True, text=True, check=True)
    assert "sizes" in done.stdout
    assert not done.stderr  # no warnings that a user can do nothing about

    content["annotations"][0]["bbox"] = [0, 0, 0, 64]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "1 errors" in out
    assert "px a side" not in out
