"""The quickstart's detector on whole photographs: in tiles, in one piece, and on tiles that were cut beforehand.

    make quickstart && python benchmarks/tiles.py

Prints a Markdown table. The detector was trained on the left 86 % of YELL528; it has never seen YELL541.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import prepare_quickstart as quickstart  # noqa: E402
from pinned_wheel import TREES  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

from libra_d2.evaluation.coco_tables import coco_tables  # noqa: E402

PHOTOGRAPHS = {
    "YELL541": "2019_YELL_2_541000_4977000_image_crop",
    "YELL528": "2019_YELL_2_528000_4978000_image_crop2",
}
#: an image has hundreds of trees, for which neither COCO's 100 detections nor the quickstart's 500 proposals are enough
MANY = ["TEST.DETECTIONS_PER_IMAGE", "1000", "MODEL.RPN.PRE_NMS_TOPK_TEST", "5000", "MODEL.RPN.POST_NMS_TOPK_TEST"]
WAYS = {
    "cut beforehand, without overlap": ("tiles", [], "500"),
    "`--tile 320 --overlap 0.2`": ("whole", ["--tile", "320", "--overlap", "0.2"], "500"),
    "`--tile 640 --overlap 0.2`": ("whole", ["--tile", "640", "--overlap", "0.2"], "500"),
    "in one piece": ("whole", [], "500"),
    "in one piece, 5,000 proposals": ("whole", [], "5000"),
}


def write(wheel: Path, folder: Path) -> None:
    """Leaves NAME_whole.json and NAME_tiles.json with a folder of images for each photograph."""
    for name, file in PHOTOGRAPHS.items():
        image, boxes = quickstart.read_photograph(wheel, file)
        width, height = image.size
        for kind, tiles in (("whole", [(0, 0, width, height)]), ("tiles", quickstart.grid(0, width, height))):
            (folder / f"{name}_{kind}").mkdir(parents=True, exist_ok=True)
            parts = quickstart.cut(image, boxes, tiles, folder / f"{name}_{kind}", quickstart.mostly_hidden)
            quickstart.write_coco(parts, folder / f"{name}_{kind}.json")


def measure(trained: Path, folder: Path, data: str, flags: list[str], proposals: str) -> dict[str, float]:
    """COCO's figures in percent."""
    json_file, output = folder / f"{data}.json", folder / "-".join(["output", data, *flags[1::2], proposals])
    command = [sys.executable, "-m", "libra_d2.cli", "eval", "--config-file", trained / "config.yaml", *flags]
    command += ["--val-json", json_file, "--val-images", folder / data, "OUTPUT_DIR", output, *MANY, proposals]
    command += ["MODEL.WEIGHTS", trained / "model_final.pth"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    return coco_tables(COCO(json_file), results, max_detections=1000).overall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=ROOT / "output" / "quickstart", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "tiles", help="(%(default)s)")
    args = parser.parse_args()
    write(TREES.fetch(), args.output)
    rows = ["| photograph | looked at | AP | AP50 | recall |", "| --- | --- | ---: | ---: | ---: |"]
    for name in PHOTOGRAPHS:
        for way, (kind, flags, proposals) in WAYS.items():
            found = measure(args.trained.resolve(), args.output.resolve(), f"{name}_{kind}", flags, proposals)
            rows.append(f"| {name} | {way} | {found['AP']:.1f} | {found['AP50']:.1f} | {found['AR']:.1f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
