"""The health of the embedding: what the contrast did in the last steps, in numbers to look at."""

import torch
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.maps import at_least_float
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.distributed import Group

_BATCH = slice(2, 6)


class Diagnostics(nn.Module):
    """Sums over the anchors of this rank since they were last read; no state that outlives a checkpoint.

    Adding waits for nothing: values stay on the device until ``read``.
    """

    sums: Tensor
    """float64 [num_classes, 6]: anchors, hard anchors, and in the batch the number of positives, the sum of
    the cosines with them, and the same for negatives."""
    anchors: Tensor
    """float64 [num_classes, D]: the sums of the anchors themselves."""
    mean_norm: Tensor
    """float64 [2]: the summed norm of the global batch's mean embedding, and the number of batches."""
    refused: Tensor
    """int64 []: rows of all ranks that the memory refused because they are not finite."""

    def __init__(self, num_classes: int, embedding_dim: int, group: Group = None):
        super().__init__()
        self.group = group
        self.register_buffer("sums", torch.zeros(num_classes, 6, dtype=torch.float64), persistent=False)
        anchors = torch.zeros(num_classes, embedding_dim, dtype=torch.float64)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("mean_norm", torch.zeros(2, dtype=torch.float64), persistent=False)
        self.register_buffer("refused", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def add(self, batch: Tensor, labels: Tensor, here: slice, hard: Tensor) -> None:
        """Add one batch.

        Args:
            batch: [A, D], the anchors of all ranks.
            labels: int64 [A], their classes.
            here: this rank's among them.
            hard: bool [a], which of these are misclassified now.
        """
        rows = at_least_float(batch)
        member = (labels == torch.arange(len(self.sums), device=labels.device)[:, None]).to(rows.dtype)
        own, mine = member[:, here], rows[here]
        sums, number = member @ rows, member.sum(dim=1)  # [num_classes, D]; [num_classes]
        extra = torch.stack([torch.ones_like(hard), hard], dim=1).to(rows.dtype)
        of_own = own @ torch.cat([mine, extra, mine.square().sum(dim=1, keepdim=True)], dim=1)
        own_sums, (own_number, own_hard, itself) = of_own[:, :-3], of_own[:, -3:].T
        # Over an anchor's class and over all, Σ_k i·k and the number of keys; the anchor itself is none.
        total = sums.sum(dim=0)
        alike, every = torch.linalg.vecdot(own_sums, sums), own_sums @ total
        columns = [
            *(own_number, own_hard),
            *(own_number * (number - 1), alike - itself),
            *(own_number * (len(labels) - number), every - alike),
        ]
        self.sums += torch.stack(columns, dim=1)
        self.anchors += own_sums
        self.mean_norm[0] += torch.linalg.vector_norm(total) / len(labels)
        self.mean_norm[1] += 1

    @torch.no_grad()
    def read(self, memory: Memory, step: int) -> dict[str, float | list[float | None] | None]:
        """Shares and means over all ranks since the last call, None where there is nothing to average.

        Collective: call it on every rank.

        Args:
            memory: as it is at ``step``.

        Returns:
            ``hard_anchors``, the share of misclassified anchors; ``batch_positive_similarity`` and
            ``batch_negative_similarity``, mean cosines of anchors with all others of the batch; the same for
            ``memory``, with all its rows that are usable now, whichever were mined; ``gap``, the difference
            of the batch's two, and ``class_gap``, the same for every class; ``mean_embedding_norm``, the norm
            of the batch's mean embedding, 1 if all embeddings are equal; ``refused_rows``, the number of rows
            that the memory refused because they are not finite.
        """
        classes = distributed.all_reduce(self.sums, self.group)
        total = classes.sum(dim=0).tolist()
        memory_positive, memory_negative = self._with_memory(memory, classes[:, 0], step)
        norm, batches = self.mean_norm.tolist()
        refused = int(self.refused)
        for buffer in self.buffers():
            buffer.zero_()
        batch_positive, batch_negative = _similarities(total[_BATCH])
        return {
            "hard_anchors": _ratio(total[1], total[0]),
            "batch_positive_similarity": batch_positive,
            "batch_negative_similarity": batch_negative,
            "memory_positive_similarity": memory_positive,
            "memory_negative_similarity": memory_negative,
            "gap": _difference(batch_positive, batch_negative),
            "class_gap": [_difference(*_similarities(row[_BATCH])) for row in classes.tolist()],
            "mean_embedding_norm": _ratio(norm, batches),
            "refused_rows": refused,
        }

    def _with_memory(self, memory: Memory, number: Tensor, step: int) -> tuple[float | None, float | None]:
        """Mean cosines of the anchors, ``number`` [num_classes] of all ranks, with the memory's rows."""
        if not memory.banks:
            return None, None
        anchors = distributed.all_reduce(self.anchors, self.group)
        rows, counts = memory.class_sums(step)
        if memory.is_sharded:
            rows, counts = (distributed.all_reduce(part, self.group) for part in (rows, counts))
        alike, every = (anchors * rows).sum(), anchors.sum(dim=0) @ rows.sum(dim=0)
        pairs, every_pair = (number * counts).sum(), number.sum() * counts.sum()
        return _similarities(torch.stack([pairs, alike, every_pair - pairs, every - alike]).tolist())


def _similarities(sums: list[float]) -> tuple[float | None, float | None]:
    positives, positive_sum, negatives, negative_sum = sums
    return _ratio(positive_sum, positives), _ratio(negative_sum, negatives)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
