"""Which pixels take part: anchors for the loss, entries for the memory.

Every pixel has keys hashed from (seed, position of its image in the sample stream, its place in the map).
A draw takes the smallest keys, so what is drawn from a global batch does not depend on how the batch is
split over ranks.

Draws are tables of a size that is known beforehand, with a mask of what is taken, so that a GPU need not be
waited for; ``Table.chosen`` needs to be told how many rows there are.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixelcontrast import distributed, draws
from pixelcontrast.distributed import Group

HARD, ANY, ENTRY, PREFERRED = 1, 2, 3, 5
"""Names of the independent streams of keys; memory.py has 4."""


class Table(NamedTuple):
    """Rows chosen for every group, in the order of their keys; a group with few of them has empty places."""

    rows: Tensor
    """int64 [groups, most]; any row where nothing is taken."""
    taken: Tensor
    """bool [groups, most]: the first places of each group."""

    def first(self, most: int) -> "Table":
        """The first ``most`` of every group."""
        return Table(self.rows[:, :most], self.taken[:, :most])

    def chosen(self, count: int) -> tuple[Tensor, Tensor]:
        """Groups and rows, int64 [count] each, of all that is taken, by group."""
        groups, columns = torch.nonzero_static(self.taken, size=count).T.contiguous()
        return groups, self.rows[groups, columns]


def smallest_per_group(
    keys: Tensor, groups: Tensor, budget: int | Tensor, *, num_groups: int, most: int
) -> Table:
    """The ``budget`` smallest keys of each group, in their order; equal keys in that of the rows.

    Args:
        keys: int64 [n].
        groups: int64 [n], the group of each key from 0, or ``num_groups`` for one that takes no part.
        budget: one number for all groups, or int64 [num_groups].
        most: places in the table, at least the largest budget.
    """
    if keys.device.type != "cpu":
        return _first_of_sorted(keys, groups, budget, num_groups=num_groups, most=most)
    # Only small keys need sorting. A GPU sorts all sooner than one knows how many these are.
    small = _probable(keys, groups, budget, num_groups)
    table = _first_of_sorted(keys[small], groups[small], budget, num_groups=num_groups, most=most)
    return Table(small[table.rows] if len(small) else table.rows, table.taken)


def _first_of_sorted(
    keys: Tensor, groups: Tensor, budget: int | Tensor, *, num_groups: int, most: int
) -> Table:
    columns = torch.arange(most, device=keys.device)
    if len(keys) == 0:
        rows = columns.new_zeros(num_groups, most)
        return Table(rows, rows.bool())
    order = torch.argsort(keys, stable=True)
    in_order, by_group = torch.sort(groups[order], stable=True)
    bounds = torch.searchsorted(in_order, torch.arange(num_groups + 1, device=keys.device))
    places = bounds[:-1, None] + columns
    taken = places < bounds[1:, None]
    if isinstance(budget, Tensor):
        taken &= columns < budget[:, None]
    elif budget < most:
        taken &= columns < budget
    return Table(order[by_group[places.clamp(max=len(keys) - 1)]], taken)


def _probable(keys: Tensor, groups: Tensor, budget: int | Tensor, num_groups: int) -> Tensor:
    """Rows among which each group has its ``budget`` smallest keys; on a CPU, where looking is free."""
    count = torch.bincount(groups, minlength=num_groups + 1)[:-1]
    budgets = torch.as_tensor(budget).expand(num_groups)
    share = (budgets + 10 * budgets.double().sqrt() + 10) / count.clamp(min=1)
    half_of_limit = torch.zeros(num_groups + 1, dtype=torch.int64)
    half_of_limit[:-1] = (share.clamp(max=1) * 2.0**62).long()
    small = torch.nonzero(keys >> 1 < half_of_limit[groups]).squeeze(1)
    found = torch.bincount(groups[small], minlength=num_groups + 1)[:-1]
    if bool((found < budgets.minimum(count)).any()):  # keys crowd: hashed ones never do
        return torch.nonzero(groups < num_groups).squeeze(1)
    return small


def ceil_share(count: int, share: float) -> int:
    """⌈count · share⌉, rounded at the sixth digit first, so that 10 · 0.3 makes 3, not 4."""
    return math.ceil(round(count * share, 6))


def ceil_shares(counts: Tensor, share: float) -> Tensor:
    """The same of int64 counts on any device."""
    return (counts.double() * share).round(decimals=6).ceil().long()


def place_in_run(sorted_groups: Tensor) -> Tensor:
    """The number of equal values before each one: int64 [n] → int64 [n], for sorted input."""
    first = torch.searchsorted(sorted_groups, sorted_groups)
    return torch.arange(len(sorted_groups), device=sorted_groups.device) - first


MOST_OF_RARE = 4
"""Anchors of a rare class, as a multiple of the average."""
_PASSES = 3
"""Times that what is above goes to the others, of which some are then above; fixed: no wait for a GPU."""


class Budgets(NamedTuple):
    """How many anchors of each class the global batch may have."""

    each: int | Tensor
    """One number for all classes, or int64 [num_classes]."""
    hard: int | Tensor
    """How many of these are drawn among misclassified pixels."""
    most: int
    """No class has more."""
    most_hard: int


def equal_budgets(per_class: int, hard_share: float) -> Budgets:
    """As many anchors of each class."""
    hard = ceil_share(per_class, hard_share)
    return Budgets(per_class, hard, per_class, hard)


def rare_budgets(pixels: Tensor, *, per_class: int, rare_class_power: float, hard_share: float) -> Budgets:
    """``per_class`` anchors on average over the classes seen, more of the rare ones.

    Budgets go with a class's share of the pixels to the power of −``rare_class_power``, up to
    ``MOST_OF_RARE`` times the average: a class of a few pixels could not use more, and would leave the others
    without. What is above goes to these. The least is two, as an anchor needs a positive.

    Args:
        pixels: int64 [num_classes], pixels of every class seen so far.
    """
    seen, most = pixels > 0, MOST_OF_RARE * per_class
    weights = torch.where(seen, pixels.double() ** -rare_class_power, 0.0)
    total = per_class * seen.sum()
    above = torch.zeros_like(seen)
    share = total * weights / weights.sum()
    for _ in range(_PASSES):
        above = above | (share > most)
        others = weights.masked_fill(above, 0.0)
        share = (total - most * above.sum()) * others / others.sum()
    share = share.masked_fill(above, most).round().clamp(min=min(2, per_class), max=most)
    each = torch.where(seen, share, per_class).long()
    return Budgets(each, ceil_shares(each, hard_share), most, ceil_share(most, hard_share))


class Pixels(NamedTuple):
    """Every pixel of this rank's maps [B, h, w], n = B·h·w of them."""

    classes: Tensor
    """int64 [n]; num_classes where a pixel takes no part."""
    hard: Tensor
    """bool [n]: which of them are misclassified now."""
    hard_keys: Tensor
    """int64 [n]: by what the hard anchors are drawn."""
    any_keys: Tensor
    """int64 [n]: by what the others are drawn."""


class Chosen(NamedTuple):
    """The anchors of the global batch, class by class; what is taken is known on the device only."""

    taken: Tensor
    """bool [num_classes, most]"""
    owners: Tensor | None
    """int64 [num_classes, most]: the ranks that have them; None where there is one rank."""
    pixels: Tensor
    """int64 [num_classes, most]: flat indices into their rank's maps."""

    def look(self, group: Group) -> Tensor:
        """int64 [W, num_classes]: how many each rank has of each class; ``anchors`` needs it on the host."""
        if self.owners is None:
            return self.taken.sum(dim=1)[None]
        ranks = torch.arange(distributed.world_size(group), device=self.taken.device)
        return ((self.owners == ranks[:, None, None]) & self.taken).sum(dim=2)

    def anchors(self, seen: Sequence[Sequence[int]], wrong: Tensor, group: Group) -> "Anchors":
        """Bring them into rank order.

        Args:
            seen: the values of ``look``.
            wrong: bool [B, h, w], the pixels that are misclassified now.
        """
        of_class, of_ranks = [sum(column) for column in zip(*seen, strict=True)], [sum(row) for row in seen]
        labels, columns = torch.nonzero_static(self.taken, size=sum(of_class)).T.contiguous()
        if self.owners is not None:
            order = torch.argsort(self.owners[labels, columns], stable=True)
            labels, columns = labels[order], columns[order]
        first, rank = sum(of_ranks[: distributed.rank(group)]), distributed.rank(group)
        here = slice(first, first + of_ranks[rank])
        pixels = self.pixels[labels[here], columns[here]]
        return Anchors(
            indices=pixels,
            labels=labels,
            hard=wrong.flatten()[pixels],
            counts=of_ranks,
            here=here,
            of_class=of_class,
            own_of_class=list(seen[rank]),
        )


class Anchors(NamedTuple):
    """The anchors of a global batch, in rank order and within a rank by class."""

    indices: Tensor
    """int64 [a]: this rank's anchors, as flat indices into its [B, h, w] map."""
    labels: Tensor
    """int64 [A]: the classes of all ranks' anchors."""
    hard: Tensor
    """bool [a]: which of this rank's are misclassified now."""
    counts: list[int]
    """Anchors of each rank; they sum to A."""
    here: slice
    """This rank's among all."""
    of_class: list[int]
    """Anchors of each class."""
    own_of_class: list[int]
    """Those of this rank."""


def choose_anchors(
    pixels: Pixels, *, budgets: Budgets, num_classes: int, note: Tensor, group: Group
) -> tuple[Chosen, Tensor]:
    """Draw up to ``budgets`` anchors of each class from the global batch (segmentation-aware sampling).

    First the hard ones among the class's misclassified pixels; the rest, and what the hard ones cannot fill,
    among all its other pixels (paper, Sec. 3.3; there both halves are drawn per mini-batch of one GPU, here
    per global batch).

    Args:
        note: int64 [k], this rank's; sent along with its proposals.

    Returns:
        The anchors, and every rank's note, int64 [W, k].
    """
    world_size = distributed.world_size(group)
    if world_size == 1:
        table = _choose(pixels, budgets, num_classes, more=0)
        return Chosen(table.taken, None, table.rows), note[None]
    # Enough for any outcome: what is a hard anchor of the global batch is one of this rank's first in hard
    # keys; the others are among the budget's smallest keys of the rest.
    table = _choose(pixels, budgets, num_classes, more=budgets.most_hard)
    labels = torch.arange(num_classes, device=note.device)[:, None]
    columns = [torch.where(table.taken, labels, num_classes), table.rows]
    if len(pixels.classes):
        columns += [column[table.rows] for column in (pixels.hard.long(), *pixels[2:])]
    else:
        columns += [table.rows] * 3
    sent = torch.cat([torch.stack(columns).flatten(), note])
    received = distributed.all_gather_equal(sent, group)
    columns = received[:, : -len(note)].view(world_size, len(columns), -1).transpose(0, 1).flatten(1)
    classes, own_rows, hard, hard_keys, any_keys = columns
    table = _choose(Pixels(classes, hard.bool(), hard_keys, any_keys), budgets, num_classes, more=0)
    owners = table.rows // (len(classes) // world_size)
    return Chosen(table.taken, owners, own_rows[table.rows]), received[:, -len(note) :]


def _choose(pixels: Pixels, budgets: Budgets, num_classes: int, *, more: int) -> Table:
    """Choose of each class the smallest hard keys up to its hard budget; then the smallest of the others'
    keys, up to its whole budget and ``more``.
    """
    keys = pixels.any_keys
    if budgets.most_hard and len(keys):
        groups = pixels.classes.masked_fill(~pixels.hard, num_classes)
        first = smallest_per_group(
            pixels.hard_keys, groups, budgets.hard, num_groups=num_classes, most=budgets.most_hard
        )
        # Marked by a key before all others; places not taken mark a row beyond the last.
        marks = first.rows.masked_fill(~first.taken, len(keys)).flatten()
        keys = torch.cat([keys, keys[:1]]).index_fill_(0, marks, -1)[:-1]
    most = budgets.most + more
    return smallest_per_group(keys, pixels.classes, budgets.each + more, num_groups=num_classes, most=most)


class Preferred(NamedTuple):
    """Pixels of which a share of a draw is made first."""

    pixels: Tensor
    """bool [n]"""
    keys: Tensor
    """int64 [n], by what they are drawn."""
    share: float
    """Rounded up."""


def choose_entries(
    classes: Tensor,
    keys: Tensor,
    *,
    num_images: int,
    num_classes: int,
    per_image: int,
    preferred: Preferred | None = None,
) -> Table:
    """Draw up to ``per_image`` random pixels of each class from each image, to enter the memory.

    Args:
        classes: int64 [n], as of ``Pixels``.
        keys: int64 [n], by what they are drawn.
        preferred: their share of the draw is from these; the rest, and what they lack, from all others.

    Returns:
        Pixels for groups ordered by image and class: [num_images · num_classes, per_image].
    """
    num_groups = num_images * num_classes
    images = torch.arange(len(keys), device=keys.device) // max(len(keys) // max(num_images, 1), 1)
    groups = (images * num_classes + classes).masked_fill_(classes == num_classes, num_groups)
    if preferred is None:
        return smallest_per_group(keys, groups, per_image, num_groups=num_groups, most=per_image)
    pixels = Pixels(groups, preferred.pixels, preferred.keys, keys)
    return _choose(pixels, equal_budgets(per_image, preferred.share), num_groups, more=0)


def pixel_keys(shape: torch.Size, positions: Tensor, seed: int, *streams: int) -> Tensor:
    """int64 [streams, B·h·w]: every pixel's keys in some streams of draws."""
    pixels = torch.arange(shape[1] * shape[2], device=positions.device)
    return draws.streams(seed, streams, positions[:, None], pixels).flatten(1)


def classes_of_pixels(labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Classes of labels of any shape, num_classes where ignored; and, int64 [], how many are out of range."""
    outside = (labels < 0) | (labels >= num_classes)
    return labels.masked_fill(outside, num_classes), (outside & (labels != ignore_index)).sum()


def to_host(tensors: Sequence[Tensor]) -> list[Any]:
    """The values of int64 tensors as nested lists. However many there are, the device is waited for once."""
    values = distributed.on_host(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = values.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).tolist() for part, tensor in zip(parts, tensors, strict=True)]
