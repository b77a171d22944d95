"""What measure.py looks at while a model computes its losses: one class for each question."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from detectron2.structures import pairwise_iou
from torch import Tensor, nn

PYRAMID_HEADER = "level | RMS before | RMS added | added / before"
ATTENTION_HEADER = "logits | largest | attended positions"
RECALL_HEADER = "ground truths | count | found at IoU 0.5 | at 0.7 | at 0.9"
DRAW_HEADER = "picks | negatives an image | IoU 0 | 0 to 1/6 | 1/6 to 1/3 | 1/3 to 1/2 | positives an image"
POSITIVE_HEADER = "class | share of ground truths | share of sampled positives"
GRADIENT_HEADER = "loss | value | gradient of the pyramid | gradient of the box head"


class Pyramid:
    """How much the balanced pyramid adds to each level."""

    def __init__(self, model: nn.Module):
        self._before: dict[str, Tensor] = {}
        self._squares: dict[str, list[tuple[float, float]]] = {}
        bottom_up = model.backbone.bottom_up
        self._handles = [
            bottom_up.register_forward_hook(lambda module, inputs, output: self._before.update(output)),
            model.backbone.register_forward_hook(self._compare),
        ]

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return hasattr(model.backbone, "refine")

    @torch.no_grad()
    def _compare(self, module, inputs, output):
        for name, after in output.items():
            before = self._before[name]
            squares = before.square().mean().item(), (after - before).square().mean().item()
            self._squares.setdefault(name, []).append(squares)

    def after(self, losses: Mapping[str, Tensor]) -> None:
        pass

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def rows(self) -> list[list[object]]:
        rows = []
        for name, squares in self._squares.items():
            before, added = (math.sqrt(sum(column) / len(column)) for column in zip(*squares, strict=True))
            rows.append([name, f"{before:.2f}", f"{added:.2f}", f"{added / before:.2f}"])
        return rows


class Attention:
    """How sharply the non-local block attends, and how sharply it would if its logits were made otherwise.

    "attended positions" is the perplexity of the attention weights, averaged over queries and images: every position
    where the weights are even, 1 where each query attends to one position alone. In a block that is as new, the row of
    N(0, 0.01) is what weights from that distribution give instead of Xavier's, whose variance is 1 / C.
    """

    def __init__(self, model: nn.Module):
        self._found: dict[str, list[tuple[float, float]]] = {}
        self._positions: list[int] = []
        self._handle = model.backbone.refine.register_forward_hook(self._measure)

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return hasattr(getattr(model.backbone, "refine", None), "theta")

    @torch.no_grad()
    def _measure(self, refine, inputs, output):
        (level,) = inputs
        query, key = (conv(level).flatten(2).transpose(1, 2) for conv in (refine.theta, refine.phi))
        logits, channels = query @ key.transpose(1, 2), query.shape[-1]
        cosines = nn.functional.normalize(query, dim=-1) @ nn.functional.normalize(key, dim=-1).transpose(1, 2)
        ways = {
            "as they are": logits,
            "divided by sqrt(C)": logits / math.sqrt(channels),
            "from N(0, 0.01)": logits * (0.01**2 * channels),
            "cosines times sqrt(C)": cosines * math.sqrt(channels),
        }
        for name, these in ways.items():
            attended = torch.special.entr(these.softmax(-1)).sum(-1).exp().mean().item()
            self._found.setdefault(name, []).append((these.abs().max().item(), attended))
        self._positions.append(logits.shape[-1])

    def after(self, losses: Mapping[str, Tensor]) -> None:
        pass

    def remove(self) -> None:
        self._handle.remove()

    def rows(self) -> list[list[object]]:
        of = sum(self._positions) / max(len(self._positions), 1)
        return [
            [name, f"{max(largest):.0f}", f"{sum(attended) / len(attended):.1f} of {of:.0f}"]
            for name, found in self._found.items()
            for largest, attended in [zip(*found, strict=True)]
        ]


class Recall:
    """How many ground truths the training proposals cover, by COCO's sizes on the images as they are trained on."""

    SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf), "all": (0, math.inf)}

    def __init__(self, model: nn.Module):
        self._best: list[Tensor] = []
        self._areas: list[Tensor] = []
        self._handle = model.proposal_generator.register_forward_hook(self._cover)

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return getattr(model, "proposal_generator", None) is not None

    def _cover(self, module, inputs, output):
        for found, truth in zip(output[0], inputs[2], strict=True):
            if len(found) and len(truth):
                self._best.append(pairwise_iou(truth.gt_boxes, found.proposal_boxes).max(dim=1).values)
                self._areas.append(truth.gt_boxes.area())

    def after(self, losses: Mapping[str, Tensor]) -> None:
        pass

    def remove(self) -> None:
        self._handle.remove()

    def rows(self) -> list[list[object]]:
        best, areas = torch.cat(self._best), torch.cat(self._areas)
        rows = []
        for name, (low, high) in self.SIZES.items():
            these = best[(areas >= low) & (areas < high)]
            if len(these):
                shares = [f"{100 * (these >= threshold).float().mean():.1f} %" for threshold in (0.5, 0.7, 0.9)]
                rows.append([name, len(these), *shares])
        return rows


class Draws:
    """The share of each interval of IoU among all negative proposals, and in what several ways of picking draw.

    The intervals are the paper's for three bins below 0.5, those without any overlap apart.
    """

    def __init__(self, model: nn.Module):
        from libra_d2 import ops  # late: measure.py has put the package on the path by now

        self._heads, self._own = model.roi_heads, model.roi_heads.box_sampler
        options = {**self._own.options, "positive": "random", "bin_upper": 0.5, "num_bins": 3}
        plain = {"floor_thr": -1.0, "floor_fraction": 0.0}
        self._ways = {
            "random": {**options, **plain, "negative": "random"},
            "balanced": {**options, **plain, "negative": "iou_balanced"},
            "floor 0.1, half": {**options, "negative": "iou_balanced", "floor_thr": 0.1, "floor_fraction": 0.5},
        }
        self._sample = ops.bucketed_sample
        self._counts = {name: torch.zeros(4) for name in ("all", *self._ways)}
        self._positives = dict.fromkeys(self._counts, 0)
        self._images = 0
        self._heads.box_sampler = self._spy

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return hasattr(getattr(getattr(model, "roi_heads", None), "box_sampler", None), "options")

    def _spy(self, labels, ious, matched_idx, offsets, losses):
        self._count("all", ious[labels == 0], (labels == 1).sum())
        for name, options in self._ways.items():
            indices, num_positive, _ = self._sample(labels, ious, matched_idx, offsets, **options)
            rank = torch.arange(indices.shape[1])
            drawn = (rank >= num_positive[:, None]) & (indices >= 0)
            rows = (indices + offsets[:-1, None])[drawn]
            self._count(name, ious[rows], num_positive.sum())
        self._images += len(offsets) - 1
        return self._own(labels, ious, matched_idx, offsets, losses)

    def _count(self, name: str, ious: Tensor, positives: Tensor) -> None:
        edges = torch.tensor([1 / 6, 1 / 3])
        place = torch.where(ious == 0, 0, 1 + torch.bucketize(ious, edges, right=True))
        self._counts[name] += torch.bincount(place, minlength=4)
        self._positives[name] += int(positives)

    def after(self, losses: Mapping[str, Tensor]) -> None:
        pass

    def remove(self) -> None:
        self._heads.box_sampler = self._own

    def rows(self) -> list[list[object]]:
        rows = []
        for name, counts in self._counts.items():
            shares = [f"{share:.1f} %" for share in (100 * counts / counts.sum().clamp(min=1)).tolist()]
            each = f"{counts.sum().item() / self._images:.0f}"
            rows.append([name, each, *shares, f"{self._positives[name] / self._images:.1f}"])
        return rows


class Positives:
    """Which classes the sampled positives have; works with Detectron2's RoI heads, too."""

    def __init__(self, model: nn.Module):
        self._heads, self._own = model.roi_heads, model.roi_heads.label_and_sample_proposals
        self._truths = torch.zeros(model.roi_heads.num_classes)
        self._sampled = torch.zeros(model.roi_heads.num_classes)
        self._heads.label_and_sample_proposals = self._spy

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return hasattr(getattr(model, "roi_heads", None), "label_and_sample_proposals")

    def _spy(self, proposals, targets):
        sampled = self._own(proposals, targets)
        count = len(self._truths)
        for of_image in targets:
            self._truths += torch.bincount(of_image.gt_classes, minlength=count)
        for of_image in sampled:
            self._sampled += torch.bincount(of_image.gt_classes, minlength=count + 1)[:count]  # the last is background
        return sampled

    def after(self, losses: Mapping[str, Tensor]) -> None:
        pass

    def remove(self) -> None:
        del self._heads.label_and_sample_proposals  # the method of the class comes back

    def rows(self) -> list[list[object]]:
        shares = [(100 * counts / counts.sum().clamp(min=1)).tolist() for counts in (self._truths, self._sampled)]
        return [
            [i, f"{truth:.1f} %", f"{sampled:.1f} %"] for i, (truth, sampled) in enumerate(zip(*shares, strict=True))
        ]


class Gradients:
    """The norm of each loss's gradient, averaged over the batches: what each asks of the parameters that they share."""

    def __init__(self, model: nn.Module):
        fpn = model.backbone.bottom_up if hasattr(model.backbone, "refine") else model.backbone
        self._pyramid = [p for name, p in fpn.named_parameters() if "bottom_up." not in name and p.requires_grad]
        self._head = [p for p in model.roi_heads.box_head.parameters() if p.requires_grad]
        self._found: dict[str, list[tuple[float, float, float]]] = {}

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return hasattr(getattr(model, "roi_heads", None), "box_head")

    def after(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            norms = (_norm(loss, self._pyramid), _norm(loss, self._head))
            self._found.setdefault(name, []).append((loss.item(), *norms))

    def remove(self) -> None:
        pass

    def rows(self) -> list[list[object]]:
        return [
            [name, *(f"{sum(column) / len(column):.3f}" for column in zip(*values, strict=True))]
            for name, values in self._found.items()
        ]


def _norm(loss: Tensor, parameters: list[Tensor]) -> float:
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(g.square().sum().item() for g in gradients if g is not None))
