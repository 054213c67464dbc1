"""The health of the embedding: what the contrast did in the last steps, in numbers to look at."""

import torch
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.info_nce import Compared
from pixelcontrast.distributed import Group

_BATCH, _MEMORY = slice(2, 6), slice(6, 10)


class Diagnostics(nn.Module):
    """Sums over the anchors of this rank since they were last read; no state that outlives a checkpoint.

    Adding waits for nothing: values stay on the device until ``read``.
    """

    sums: Tensor
    """float64 [num_classes, 10]: anchors, hard anchors, and for batch and memory the number of positives, the
    sum of the cosines with them, and the same for negatives."""
    mean_norm: Tensor
    """float64 [2]: the summed norm of the global batch's mean embedding, and the number of batches."""
    refused: Tensor
    """int64 []: rows of all ranks that the memory refused because they are not finite."""

    def __init__(self, num_classes: int, group: Group = None):
        super().__init__()
        self.group = group
        self.register_buffer("sums", torch.zeros(num_classes, 10, dtype=torch.float64), persistent=False)
        self.register_buffer("mean_norm", torch.zeros(2, dtype=torch.float64), persistent=False)
        self.register_buffer("refused", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def add(self, batch: Tensor, labels: Tensor, hard: Tensor, compared: Compared) -> None:
        """Add one batch.

        Args:
            batch: [A, D], the anchors of all ranks.
            labels: int64 [a], the classes of this rank's.
            hard: bool [a], which of them are misclassified now.
            compared: the keys they were compared with.
        """
        columns = [torch.ones_like(hard), hard, *compared.batch, *compared.memory]
        table = torch.stack([column.to(torch.float64) for column in columns], dim=1)
        self.sums.index_add_(0, labels, table)
        norm = torch.linalg.vector_norm(batch.mean(dim=0))
        self.mean_norm += torch.stack([norm, torch.ones_like(norm)])

    @torch.no_grad()
    def read(self) -> dict[str, float | list[float | None] | None]:
        """Shares and means over all ranks since the last call, None where there is nothing to average.

        Collective: call it on every rank.

        Returns:
            ``hard_anchors``, the share of misclassified anchors; for batch and memory
            ``<source>_positive_similarity`` and ``<source>_negative_similarity``, mean cosines with all that
            the anchors were compared with there; ``gap``, the difference of the batch's two, and
            ``class_gap``, the same for every class; ``mean_embedding_norm``, the norm of the batch's mean
            embedding, 1 if all embeddings are equal; ``refused_rows``, the number of rows that the memory
            refused because they are not finite.
        """
        classes = distributed.all_reduce(self.sums, self.group)
        total = classes.sum(dim=0).tolist()
        norm, batches = self.mean_norm.tolist()
        refused = int(self.refused)
        for buffer in self.buffers():
            buffer.zero_()
        batch_positive, batch_negative = _similarities(total[_BATCH])
        memory_positive, memory_negative = _similarities(total[_MEMORY])
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


def _similarities(sums: list[float]) -> tuple[float | None, float | None]:
    positives, positive_sum, negatives, negative_sum = sums
    return _ratio(positive_sum, positives), _ratio(negative_sum, negatives)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
