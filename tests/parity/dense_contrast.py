"""The contrastive term with whole similarity matrices and autograd: the engine's obvious form."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.mining import Miner
from pixelcontrast.contrast.sampling import Anchors


class DenseContrast(PixelContrast):
    """``PixelContrast`` in one process, anchors class by class, every example chosen by a full sort."""

    def _loss(self, own: Tensor, anchors: Anchors) -> Tensor:
        examples = self.memory.examples(seed=self.seed, key=self._batch_key, step=int(self.steps))
        numbers = torch.arange(len(examples))
        rows, place = examples.rows(numbers).to(own.dtype), torch.argsort(examples.order)
        in_batch, in_memory, joint = [], [], []
        for label in anchors.labels.unique():
            mine = anchors.labels == label
            not_itself = ~torch.eye(int(mine.sum()), dtype=torch.bool)
            near = (own[mine] @ own[mine].T)[not_itself].view(len(not_itself), -1)
            far = own[mine] @ own[~mine].T
            same, other = examples.labels == label, examples.labels != label
            candidates = (rows[same], place[same]), (rows[other], place[other])
            for number, anchor in enumerate(own[mine]):
                chosen = (
                    _mined(self.positive_miner, anchor, *candidates[0], hardest_first=1),
                    _mined(self.negative_miner, anchor, *candidates[1], hardest_first=-1),
                )
                in_batch.append(self._eq3(near[number], far[number]))
                in_memory.append(self._eq3(*chosen))
                both = zip((near[number], far[number]), chosen, strict=True)
                joint.append(self._eq3(*(torch.cat(pair) for pair in both)))
        if self.loss.memory_term == "joint":
            return _mean(joint)
        return _mean(in_batch) + self.loss.memory_weight * _mean(in_memory)

    def _eq3(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Eq. 3 of one anchor; NaN without positives."""
        total = torch.logsumexp(negatives / self.loss.temperature, 0)
        return F.softplus(total - positives / self.loss.temperature).mean()


def _mean(losses: list[Tensor]) -> Tensor:
    """The mean over the anchors that have a positive."""
    valid = [loss for loss in losses if not loss.isnan()]
    return torch.stack(valid).mean()


def _mined(miner: Miner, anchor: Tensor, rows: Tensor, place: Tensor, *, hardest_first: int) -> Tensor:
    """Similarities with the examples chosen for one anchor."""
    order = torch.argsort(place)
    if miner.mining == "semi-hard-subset":
        order = order[: math.ceil(miner.num / miner.share)]
    similarity = rows @ anchor
    by_hardness = order[torch.argsort(hardest_first * similarity.detach()[order])]
    match miner.mining:
        case "all":
            return similarity
        case "random":
            return similarity[order[: miner.num]]
        case "hardest":
            return similarity[by_hardness[: miner.num]]
        case "semi-hard-subset":
            return similarity[by_hardness[: math.ceil(round(miner.share * len(order), 6))]]
        case "semi-hard":
            pool = by_hardness[: math.ceil(round(miner.share * len(order), 6))]
            return similarity[pool[torch.argsort(place[pool])][: miner.num]]
