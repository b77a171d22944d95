"""Scalars and histograms that show the balance at work, in every 20th step of training.

Other steps pay nothing: nothing is computed for them, and nothing waits for the GPU. TensorBoard has all of them,
metrics.json the scalars.
"""

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from torch import Tensor

PERIOD = 20  # Detectron2's writers write as often
_BARS = 30  # of a histogram
_MOST_QUERIES = 256
_LARGEST_ERROR = 1.0  # up to which a box counts as accurate: where the paper's loss has its full gradient


def due() -> EventStorage | None:
    """Where this step's scalars go; None in a step that writes none, and outside of training."""
    if torch.compiler.is_compiling() or not has_event_storage():
        return None
    storage = get_event_storage()
    return storage if (storage.iter + 1) % PERIOD == 0 else None


@torch.no_grad()
def log_sampling(
    storage: EventStorage, labels: Tensor, ious: Tensor, matched_idx: Tensor, offsets: Tensor, sample, options: dict
) -> None:
    """How the drawn boxes spread over IoU and objects, as means of an image.

    ``balance/negatives/bin{k}/`` has ``candidates``; ``drawn``; of these, ``wanted``, the even share, and ``refilled``,
    what it got beyond that because other bins had too few. ``balance/positives/`` has ``fewest`` and ``most`` of one
    object, among the objects with any. Histograms: ``balance/positives/of_object``, and the IoUs that the bins are of,
    ``balance/negatives/iou_candidates`` and ``iou_drawn``.

    Args:
        labels, ious, matched_idx, offsets: as a :class:`~libra_d2.modeling.box_sampler.BoxSampler` takes them.
        sample: what it returned.
        options: ``num_bins``, ``bin_upper`` and ``floor_thr`` of the bins; a ``bin_upper`` that is no number counts as
            0.5.
    """
    indices, num_positive, num_negative = sample
    device, images = labels.device, len(offsets) - 1
    rows = indices + offsets[:-1].to(device)[:, None]
    is_positive = torch.arange(indices.shape[1], device=device) < num_positive[:, None]  # those come first
    is_negative = (indices >= 0) & ~is_positive

    count = options.get("num_bins", 3)
    lower, upper = max(options.get("floor_thr", -1.0), 0.0), options.get("bin_upper", 0.5)
    upper = upper if isinstance(upper, float) else 0.5

    def by_bin(these: Tensor) -> Tensor:
        place = ((these - lower) / (upper - lower) * count).floor().long().clamp(max=count - 1)
        return torch.bincount(place[place >= 0], minlength=count) / images

    candidate_ious, drawn_ious = ious[labels == 0], ious[rows[is_negative]]
    candidates, drawn = by_bin(candidate_ious), by_bin(drawn_ious)
    wanted = torch.minimum(drawn, (num_negative // count).sum() / images)

    image = torch.arange(images, device=device)[:, None].expand_as(indices)[is_positive]
    objects = torch.stack([image, matched_idx[rows[is_positive]]], 1)
    _, of_object = torch.unique(objects, dim=0, return_counts=True)
    if len(of_object):
        storage.put_scalar("balance/positives/fewest", of_object.min().item(), smoothing_hint=False)
        storage.put_scalar("balance/positives/most", of_object.max().item(), smoothing_hint=False)
    table = torch.stack([candidates, drawn, wanted, drawn - wanted], 1).tolist()
    for k, row in enumerate(table):
        for name, value in zip(("candidates", "drawn", "wanted", "refilled"), row, strict=True):
            storage.put_scalar(f"balance/negatives/bin{k}/{name}", value, smoothing_hint=False)
    _log_histogram(storage, "balance/positives/of_object", of_object)
    _log_histogram(storage, "balance/negatives/iou_candidates", candidate_ious)
    _log_histogram(storage, "balance/negatives/iou_drawn", drawn_ious)


def _log_histogram(storage: EventStorage, name: str, values: Tensor) -> None:
    """Of the main rank's images; the storages of others are never written, and would keep them all."""
    if len(values) and comm.is_main_process():
        storage.put_histogram(name, values.float().cpu(), bins=_BARS)  # on CUDA histc is not deterministic


@torch.no_grad()
def log_pyramid(storage: EventStorage, before: dict[str, Tensor], after: dict[str, Tensor], gate: Tensor | None):
    """``balance/pyramid/added_{level}``: RMS of what the balanced pyramid adds to a level, in units of the level's."""
    levels = list(before)
    sizes = torch.stack([(after[name] - before[name]).norm() / before[name].norm() for name in levels])
    for name, size in zip(levels, sizes.tolist(), strict=True):
        storage.put_scalar(f"balance/pyramid/added_{name}", size, smoothing_hint=False)
    if gate is not None:
        storage.put_scalar("balance/pyramid/gate", gate.item(), smoothing_hint=False)


@torch.no_grad()
def log_attention(storage: EventStorage, query: Tensor, key: Tensor, scale: float) -> None:
    """``balance/pyramid/attended``: the share of positions that a query of the non-local block attends to.

    It is the perplexity of the attention weights: 1 where they are even, 1 / positions where all is on one of them.

    Args:
        query, key: [N, 1, positions, C].
        scale: of their products.
    """
    step = -(-query.shape[2] // _MOST_QUERIES)  # not the whole matrix
    weights = (query[:, 0, ::step] @ key[:, 0].transpose(1, 2) * scale).softmax(-1)
    attended = torch.special.entr(weights).sum(-1).exp().mean() / weights.shape[-1]
    storage.put_scalar("balance/pyramid/attended", attended.item(), smoothing_hint=False)


def log_box_loss(storage: EventStorage, box_loss, pred: Tensor, target: Tensor) -> None:
    """``balance/box_gradient/accurate_share``: which share of the box loss's gradient comes from errors below 1.

    Args:
        box_loss: of deltas, float [P, 4] each, as in ``BOX_LOSS_REGISTRY``.
        pred, target: float [P, 4].
    """
    if not len(pred):
        return
    with torch.enable_grad():
        leaf = pred.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(box_loss(leaf, target).sum(), leaf)
    gradient, is_accurate = gradient.abs(), (pred.detach() - target).abs() < _LARGEST_ERROR
    share = (gradient * is_accurate).sum() / gradient.sum().clamp(min=torch.finfo(gradient.dtype).tiny)
    storage.put_scalar("balance/box_gradient/accurate_share", share.item(), smoothing_hint=False)
