"""What the contrast did in the last steps, in numbers to look at."""

import torch
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.info_nce import Similarities
from pixelcontrast.distributed import Group


class Diagnostics(nn.Module):
    """Sums over the anchors of this rank since they were last read; no state that outlives a checkpoint."""

    sums: Tensor

    def __init__(self, group: Group = None):
        super().__init__()
        self.group = group
        self.register_buffer("sums", torch.zeros(7, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def add(self, hard: Tensor, met: Similarities) -> None:
        """Add anchors.

        Args:
            hard: bool [a], which of them are misclassified now.
        """
        sums = [hard, ~hard | hard, met.positives == 0, *met]
        self.sums += torch.stack([each.sum(dtype=torch.float64) for each in sums])

    @torch.no_grad()
    def read(self) -> dict[str, float | None]:
        """Shares and means over all ranks, None where there is nothing to take them of; begins anew.

        Call it on every rank.
        """
        total = distributed.all_reduce(self.sums, self.group).tolist()
        hard, anchors, without_positive, positives, near, negatives, far = total
        self.sums.zero_()
        return {
            "hard_anchors": _ratio(hard, anchors),
            "anchors_without_positive": _ratio(without_positive, anchors),
            "positive_similarity": _ratio(near, positives),
            "negative_similarity": _ratio(far, negatives),
        }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
