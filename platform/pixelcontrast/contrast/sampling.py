"""Which pixels take part: anchors for the loss, entries for the memory.

Every pixel has keys hashed from (seed, position of its image in the sample stream, its place in the map).
A draw takes the smallest keys, so what is drawn from a global batch does not depend on how the batch is
split over ranks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pixelcontrast import distributed, draws
from pixelcontrast.distributed import Group

_HARD, _ANY, _ENTRY, _PREFERRED = 1, 2, 3, 5
"""Names of the independent streams of keys; memory.py has 4."""


class Anchors(NamedTuple):
    """The anchors of a global batch, in rank order and within a rank by class."""

    indices: Tensor
    """int64 [a]: this rank's anchors, as flat indices into its [B, h, w] map."""
    labels: Tensor
    """int64 [A]: the classes of all ranks' anchors."""
    hard: Tensor
    """bool [A]: which of them are misclassified now."""
    counts: list[int]
    """Anchors of each rank; they sum to A."""
    here: slice
    """This rank's among all."""
    key: int
    """A number that names this batch among all: the smallest position of an anchor's image."""


def smallest_per_group(keys: Tensor, groups: Tensor, budget: int | Tensor) -> Tensor:
    """Indices of the ``budget`` smallest keys of each group, ordered by (group, key).

    Args:
        keys: int64 [n].
        groups: int64 [n], the group of each key, from 0.
        budget: one number for all groups, or int64 [number of groups].

    Returns:
        int64 [m]; a group with fewer keys than its budget gives all of them.
    """
    if len(keys) == 0:
        return torch.empty_like(groups)
    count = torch.bincount(groups)
    budgets = torch.full_like(count, budget) if isinstance(budget, int) else budget[: len(count)]
    probable = torch.nonzero(keys >> 1 < _probable_limit(budgets, count)[groups]).squeeze(1)
    if bool((torch.bincount(groups[probable], minlength=len(count)) < budgets.minimum(count)).any()):
        probable = torch.arange(len(keys), device=keys.device)
    order = probable[torch.argsort(keys[probable], stable=True)]
    order = order[torch.argsort(groups[order], stable=True)]
    return order[place_in_run(groups[order]) < budgets[groups[order]]]


def _probable_limit(budgets: Tensor, count: Tensor) -> Tensor:
    """Half of a key below which each group is likely to have its budget, so that only those need sorting."""
    share = (budgets + 10 * budgets.double().sqrt() + 10) / count.clamp(min=1)
    return (share.clamp(max=1) * 2.0**62).long()


def ceil_share(count: int, share: float) -> int:
    """⌈count · share⌉, rounded at the sixth digit first, so that 10 · 0.3 makes 3, not 4."""
    return math.ceil(round(count * share, 6))


def place_in_run(sorted_groups: Tensor) -> Tensor:
    """The number of equal values before each one: int64 [n] → int64 [n], for sorted input."""
    first = torch.searchsorted(sorted_groups, sorted_groups)
    return torch.arange(len(sorted_groups), device=sorted_groups.device) - first


def anchor_budgets(pixels: Tensor, *, per_class: int, rare_class_power: float) -> Tensor:
    """int64 [num_classes]: how many anchors a class may have, ``per_class`` on average over those seen.

    They go with a class's share of the pixels to the power of −``rare_class_power``; with 0 all are alike.

    Args:
        pixels: int64 [num_classes], pixels of every class seen so far.
    """
    seen = pixels > 0
    weights = pixels[seen].double() ** -rare_class_power
    budgets = torch.full_like(pixels, per_class)
    budgets[seen] = (per_class * weights / weights.mean()).round().long().clamp(min=1)
    return budgets


def draw_anchors(
    labels: Tensor,
    wrong: Tensor,
    positions: Tensor,
    *,
    budgets: Tensor,
    hard_share: float,
    seed: int,
    ignore_index: int,
    group: Group = None,
) -> Anchors:
    """Draw up to ``budgets[c]`` anchors of each class c from the global batch (segmentation-aware sampling).

    ``hard_share`` of them, rounded up, are drawn among the class's misclassified pixels; the rest, and what
    the hard ones cannot fill, among all its other pixels (paper, Sec. 3.3; there both halves are drawn per
    mini-batch of one GPU, here per global batch).

    Args:
        labels: int64 [B, h, w].
        wrong: bool [B, h, w], the pixels that are misclassified now.
        positions: int64 [B], the images' places in the global sample stream.
        budgets: int64 [num_classes].

    Raises:
        ValueError: a label outside 0 … num_classes − 1 that is not ``ignore_index``.
    """
    hard_budgets = budgets.new_tensor([ceil_share(budget, hard_share) for budget in budgets.tolist()])
    pixels, classes = labelled_pixels(labels, len(budgets), ignore_index)
    hard = wrong.flatten()[pixels]
    hard_keys, any_keys = (
        pixel_keys(labels.shape, positions, seed, s).flatten()[pixels] for s in (_HARD, _ANY)
    )

    # Enough for any outcome: at most its budget of a class is chosen in all, so the random ones among them
    # are within this rank's that many smallest keys, even where some of these are taken as hard ones.
    rows = torch.nonzero(hard).squeeze(1)
    proposed_hard = rows[smallest_per_group(hard_keys[rows], classes[rows], hard_budgets)]
    proposed_any = smallest_per_group(any_keys, classes, budgets)
    proposed = torch.unique(torch.cat([proposed_hard, proposed_any]))

    owner = torch.full_like(pixels, distributed.rank(group))
    images = positions[pixels.div((labels.shape[1] * labels.shape[2]), rounding_mode="floor")]
    columns = [classes, hard.long(), hard_keys, any_keys, images, owner, pixels]
    table = torch.stack([column[proposed] for column in columns], dim=1)
    table = distributed.all_gather_rows(table, group)
    chosen = _choose(*table.unbind(1)[:4], budgets=budgets, hard_budgets=hard_budgets)

    table = table[chosen]
    by_class = torch.argsort(table[:, 0], stable=True)
    table = table[by_class[torch.argsort(table[by_class, 5], stable=True)]]
    classes, hard, _, _, images, owner, pixels = table.unbind(1)
    counts = torch.bincount(owner, minlength=distributed.world_size(group)).tolist()
    first, rank = sum(counts[: distributed.rank(group)]), distributed.rank(group)
    here = slice(first, first + counts[rank])
    key = int(images.min()) if len(images) else 0
    return Anchors(pixels[here], classes, hard.bool(), counts, here, key)


class Entries(NamedTuple):
    """Random pixels of each class and image, ordered by image and class."""

    indices: Tensor
    """int64 [m]: flat indices into the map."""
    labels: Tensor
    """int64 [m]"""
    images: Tensor
    """int64 [m]: indices into the batch."""


def draw_entries(
    labels: Tensor,
    positions: Tensor,
    *,
    num_classes: int,
    per_image: int,
    seed: int,
    ignore_index: int,
    preferred: Tensor | None = None,
    preferred_share: float = 0.0,
) -> Entries:
    """Draw up to ``per_image`` random pixels of each class from each image, to enter the memory.

    Args:
        labels: int64 [B, h, w].
        positions: int64 [B].
        preferred: bool [B, h, w]; ``preferred_share`` of the draw, rounded up, is from these, the rest, and
            what these lack, from all others.
    """
    pixels, classes = labelled_pixels(labels, num_classes, ignore_index)
    keys = pixel_keys(labels.shape, positions, seed, _ENTRY).flatten()[pixels]
    image = pixels.div((labels.shape[1] * labels.shape[2]), rounding_mode="floor")
    groups = image * num_classes + classes
    if preferred is None:
        drawn = smallest_per_group(keys, groups, per_image)
    else:
        first_keys = pixel_keys(labels.shape, positions, seed, _PREFERRED).flatten()[pixels]
        budgets = groups.new_full((len(labels) * num_classes,), per_image)
        first_budgets = torch.full_like(budgets, ceil_share(per_image, preferred_share))
        drawn = _choose(
            groups,
            preferred.flatten()[pixels],
            first_keys,
            keys,
            budgets=budgets,
            hard_budgets=first_budgets,
        )
        drawn = drawn[torch.argsort(groups[drawn], stable=True)]
    return Entries(pixels[drawn], classes[drawn], image[drawn])


def pixel_keys(shape: torch.Size, positions: Tensor, seed: int, stream: int) -> Tensor:
    """int64 [B, h·w]: every pixel's key in a stream of draws."""
    pixels = torch.arange(shape[1] * shape[2], device=positions.device)
    return draws.hashed(seed, stream, positions[:, None], pixels)


def labelled_pixels(labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Flat indices of the pixels that are not ignored, and their classes."""
    flat = labels.flatten()
    pixels = torch.nonzero(flat != ignore_index).squeeze(1)
    classes = flat[pixels]
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise ValueError(
            f"labels hold {sorted(set(classes.unique().tolist()) - set(range(num_classes)))}; "
            f"allowed are 0 to {num_classes - 1} and the ignored {ignore_index}"
        )
    return pixels, classes


def _choose(
    groups: Tensor,
    hard: Tensor,
    hard_keys: Tensor,
    any_keys: Tensor,
    *,
    budgets: Tensor,
    hard_budgets: Tensor,
) -> Tensor:
    """Rows, ascending: of each group those with the smallest hard keys up to its hard budget, and of others
    those with the smallest other keys up to its budget.
    """
    rows = torch.nonzero(hard).squeeze(1)
    first = rows[smallest_per_group(hard_keys[rows], groups[rows], hard_budgets)]
    free = torch.ones_like(groups, dtype=torch.bool)
    free[first] = False
    rows = torch.nonzero(free).squeeze(1)
    left = budgets - torch.bincount(groups[first], minlength=len(budgets))
    second = rows[smallest_per_group(any_keys[rows], groups[rows], left)]
    return torch.sort(torch.cat([first, second])).values
