"""Which examples of the memory an anchor meets: example mining (paper, Sec. 3.3)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pixelcontrast.contrast.memory import Examples
from pixelcontrast.contrast.sampling import ceil_share

Mining = Literal["all", "random", "hardest", "semi-hard"]
"""all; K random ones; the K hardest; K random ones among the hardest share."""


def mine(
    anchors: Tensor,
    examples: Examples,
    candidates: Sequence[slice],
    *,
    hard: Literal["near", "far"],
    mining: Mining,
    num: int,
    share: float,
) -> Tensor:
    """Similarities of anchors of one class with the examples chosen for each.

    The random ones are those first in the step's order, which all anchors share; a semi-hard pool holds
    ⌈share · candidates⌉ examples (a share of 10 % in the paper). Where there are fewer than ``num``, all are
    taken. Equally hard ones are told apart arbitrarily.

    Args:
        anchors: [a, D].
        candidates: the parts of ``examples`` that may be chosen, n in all.
        hard: which examples are: those similar to the anchor (negatives) or those unlike it (positives).
        num: K.

    Returns:
        [a, k], with gradient; k is 0 only where n is.
    """
    place = torch.cat([examples.place[part] for part in candidates])
    num = min(num, len(place))
    if mining == "random":
        chosen = place.topk(num, largest=False, sorted=False).indices
        numbers = torch.arange(len(examples.labels), device=place.device)
        chosen = torch.cat([numbers[part] for part in candidates])[chosen]
        return anchors @ examples.rows[chosen].T
    similarity = torch.cat([anchors @ examples.rows[part].T for part in candidates], dim=1)
    if mining == "all":
        return similarity
    pool = num if mining == "hardest" else ceil_share(len(place), share)
    chosen = similarity.detach().topk(pool, largest=hard == "near", sorted=False).indices
    if pool > num:
        chosen = chosen.gather(1, place[chosen].topk(num, largest=False, sorted=False).indices)
    return similarity.gather(1, chosen)
