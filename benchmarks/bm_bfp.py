"""The balanced pyramid beside one with the softmax written out: time and memory beyond outputs, as Markdown tables.

python benchmarks/bm_bfp.py [--part time memory] [--seconds 8]
python benchmarks/bm_bfp.py --device cuda [--amp]
python benchmarks/bm_bfp.py --quick    # small levels

One image of R50-FPN and one of the quickstart, from the levels of FPN on. The rival computes as MMDetection's BFP does:
it resizes every level, adds out of place, and stores the matrix of all pairs of positions. "conv" and "none" are the
other refinements of libra_d2. Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from levels import Levels, random_levels
from side_by_side import cuda_mib_beyond_outputs, machine, markdown, median_ms, mib_beyond_outputs, progress

from libra_d2.modeling import BalancedFeaturePyramid
from libra_d2.modeling.backbone.refine import REFINES

# (image height, image width, channels)
PICTURES = {"R50-FPN": (800, 1088, 256), "quickstart": (320, 320, 64)}
SMALL = {"R50-FPN": (160, 192, 64), "quickstart": (96, 96, 16)}
PASSES = ("forward", "forward and backward")
RIVAL = "softmax written out"


class WrittenOut(BalancedFeaturePyramid):
    """The pyramid and its non-local block as MMDetection has them."""

    def forward(self, x):
        levels = list(x.values())
        at = list(x).index(self.refine_level)
        size = levels[at].shape[-2:]
        gathered = [
            F.adaptive_max_pool2d(level, size) if i < at else F.interpolate(level, size=size)
            for i, level in enumerate(levels)
        ]
        balanced = self._refined(sum(gathered) / len(gathered))
        scattered = {}
        for i, (name, level) in enumerate(x.items()):
            resize = F.interpolate if i < at else F.adaptive_max_pool2d
            scattered[name] = resize(balanced, level.shape[-2:]) + level
        return scattered

    def _refined(self, x):
        query, key, value = (
            conv(x).flatten(2).transpose(1, 2) for conv in (self.refine.theta, self.refine.phi, self.refine.g)
        )
        weights = torch.matmul(query, key.transpose(1, 2)).softmax(dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(x.shape)
        return x + self.refine.conv_out(mixed)


def rivals(
    height: int, width: int, channels: int, direction: str, device: str = "cpu", amp: bool = False
) -> dict[str, Callable[[], object]]:
    """What to call, by name; the non-local block comes first. A call ends when the GPU has done it."""
    options = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    features, gradients = (random_levels(1, channels, height, width, **options) for _ in range(2))
    runs = {}
    for name in ("non_local", RIVAL, *(name for name in REFINES if name != "non_local")):
        torch.manual_seed(0)
        kind, refine = (WrittenOut, "non_local") if name == RIVAL else (BalancedFeaturePyramid, name)
        pyramid = kind(Levels(channels), refine_type=refine).to(device)
        run = _trained(pyramid, features, gradients) if direction == PASSES[1] else _used(pyramid, features)
        runs[name] = _waited_for(run, device, amp)
    return runs


def _used(pyramid, features):
    pyramid.eval()

    def run(precision):
        with torch.no_grad(), precision:
            return pyramid(features)

    return run


def _trained(pyramid, features, gradients):
    features = {name: level.clone().requires_grad_() for name, level in features.items()}
    inputs = [*features.values(), *pyramid.parameters()]

    def run(precision):
        with precision:
            scattered = pyramid(features)
        return scattered, torch.autograd.grad(list(scattered.values()), inputs, list(gradients.values()))

    return run


def _waited_for(run, device, amp):
    def waited_for():
        result = run(torch.autocast(device, enabled=amp))
        if device != "cpu":
            torch.cuda.synchronize()
        return result

    return waited_for


def table(pictures: dict, unit: str, args: argparse.Namespace, measure: Callable[[dict], dict[str, float]]) -> str:
    rows, threads = [], args.threads if unit == "ms" and args.device == "cpu" else [1]
    for picture, size in pictures.items():
        for direction in PASSES:
            runs = rivals(*size, direction, args.device, args.amp)
            for count in threads:
                progress(f"{unit}: {picture}, {direction}, {count} thread(s)")
                torch.set_num_threads(count)
                found = measure(runs)
                work = [f"{picture}, {direction}", *([count] if len(threads) > 1 else [])]
                rows.append([*work, *found.values(), f"{found['non_local'] / found[RIVAL]:.2f}"])
    columns = ["non_local", RIVAL, *(name for name in REFINES if name != "non_local")]
    header = [unit, *(["threads"] if len(threads) > 1 else []), *columns, "non_local / written out"]
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["time", "memory"], default=["time", "memory"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row (%(default)g)")
    parser.add_argument("--quick", action="store_true", help="small levels and little time, to see that it runs")
    args = parser.parse_args()
    pictures, seconds = (SMALL, 0.2) if args.quick else (PICTURES, args.seconds)
    print(machine(args.device), "mixed precision\n" if args.amp else "float32\n", sep=", ")
    if "time" in args.part:
        print(table(pictures, "ms", args, lambda runs: median_ms(runs, seconds)), "\n")
    if "memory" in args.part:
        weigh = mib_beyond_outputs if args.device == "cpu" else cuda_mib_beyond_outputs
        unit = "MiB beyond outputs"
        print(table(pictures, unit, args, lambda runs: {name: weigh(run) for name, run in runs.items()}))


if __name__ == "__main__":
    main()
