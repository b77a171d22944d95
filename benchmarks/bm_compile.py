"""The parts that MODEL.LIBRA.TRAIN.COMPILE compiles, beside eager mode: forward and backward, as a Markdown table.

python benchmarks/bm_compile.py                  # on the CPU; the images are a quarter as large
python benchmarks/bm_compile.py --device cuda
python benchmarks/bm_compile.py --quick          # with small inputs and for a moment, to see that it runs
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from levels import Levels, random_levels
from side_by_side import machine, markdown, median_ms
from torch import nn

from libra_d2.modeling import BalancedFeaturePyramid

CHANNELS = 256


def step(module: nn.Module, x) -> Callable[[], None]:
    def run():
        out = module(x)
        sum(level.sum() for level in (out.values() if isinstance(out, dict) else [out])).backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def rows_of(name: str, module: nn.Module, inputs: dict[str, object], seconds: float) -> list[list]:
    """A row for each input; the second one is of another size, which must not be compiled again."""
    compiled, rows = copy.deepcopy(module), []
    compiled.compile(fullgraph=True, dynamic=True)
    for work, x in inputs.items():
        start = time.perf_counter()
        step(compiled, x)()
        first = time.perf_counter() - start
        times = median_ms({"compiled": step(compiled, x), "eager": step(module, x)}, seconds)
        ratio = f"{times['eager'] / times['compiled']:.2f}x"
        rows.append([f"{name}, {work}", first, times["compiled"], times["eager"], ratio])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    print(f"{machine()}{f', {torch.cuda.get_device_name()}' if args.device == 'cuda' else ''}\n")
    torch.manual_seed(0)
    seconds, fraction = (0.5, 4) if args.quick else (3.0, 1)
    head = FastRCNNConvFCHead(ShapeSpec(channels=CHANNELS, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024])
    shape, options = (CHANNELS, 7, 7), {"device": args.device, "requires_grad": True}
    boxes = {f"{n:,} boxes": torch.randn(n, *shape, **options) for n in (1000 // fraction, 900 // fraction)}
    rows = rows_of("box head", head.to(args.device), boxes, seconds)
    sizes = [(800, 1216), (768, 1344)] if args.device == "cuda" else [(416, 608), (384, 672)]
    sizes = [(h // fraction // 32 * 32, w // fraction // 32 * 32) for h, w in sizes]
    for refinement in ("non_local", "none"):
        bfp = BalancedFeaturePyramid(Levels(CHANNELS), refine_type=refinement).to(args.device)
        images = {f"2 images of {h} x {w}": random_levels(2, CHANNELS, h, w, **options) for h, w in sizes}
        rows += rows_of(f"pyramid, REFINE_TYPE {refinement}", bfp, images, seconds)
    print(markdown(["work", "first call, s", "compiled, ms", "eager, ms", "ratio"], rows))


if __name__ == "__main__":
    main()
