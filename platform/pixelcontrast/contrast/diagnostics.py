"""The health of the embedding: what the contrast did in the last steps, in numbers to look at."""

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast.kept_dtypes import KeepsDtypes
from pixelcontrast.contrast.maps import at_least_float
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.contrast.sampling import Anchors
from pixelcontrast.distributed import Group


class Diagnostics(KeepsDtypes):
    """Sums over the anchors of this rank since they were last read; no state that outlives a checkpoint.

    Adding waits for nothing: values stay on the device until ``read``.
    """

    sums: Tensor
    """float64 [num_classes, 4]: the hard anchors; the sums of the anchors' squared lengths, and of their
    products with all anchors of their class in the batch and with all of the batch, themselves included."""
    anchors: Tensor
    """float64 [num_classes, D]: the sums of the anchors themselves."""
    mean_norm: Tensor
    """float64 []: the summed norm of the mean embedding of global batches with anchors of several classes."""
    refused: Tensor
    """int64 []: rows of all ranks that the memory refused because they are not finite."""

    def __init__(self, num_classes: int, embedding_dim: int, group: Group = None):
        super().__init__()
        self.group = group
        self.register_buffer("sums", torch.zeros(num_classes, 4, dtype=torch.float64), persistent=False)
        anchors = torch.zeros(num_classes, embedding_dim, dtype=torch.float64)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("mean_norm", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("refused", torch.zeros((), dtype=torch.int64), persistent=False)
        # Known on the host, of every class: anchors of this rank, their positives and their negatives.
        self._counts = torch.zeros(num_classes, 3, dtype=torch.float64, device="cpu")
        self._batches = 0  # those that mean_norm sums

    @torch.no_grad()
    def add(self, batch: Tensor, anchors: Anchors) -> None:
        """Add one batch, the embeddings [A, D] of the anchors of all ranks."""
        rows = at_least_float(batch)
        classes = torch.arange(len(self.sums), device=rows.device)[:, None]
        member = (anchors.labels == classes).to(rows.dtype)
        sums, mine = member @ rows, rows[anchors.here]  # [num_classes, D]
        extra = torch.stack([anchors.hard.to(rows.dtype), torch.linalg.vecdot(mine, mine)], dim=1)
        of_own = member[:, anchors.here] @ torch.cat([mine, extra], dim=1)
        own_sums, of_own = of_own.tensor_split([-2], dim=1)
        total = sums.sum(dim=0)
        alike, every = torch.linalg.vecdot(own_sums, sums), own_sums @ total
        self.sums += torch.cat([of_own, alike[:, None], every[:, None]], dim=1)
        self.anchors += own_sums
        if sum(count > 0 for count in anchors.of_class) > 1:  # one class alone is near its mean, as it should
            self.mean_norm.add_(torch.linalg.vector_norm(total), alpha=1 / len(rows))
            self._batches += 1
        of_class, own = torch.tensor([anchors.of_class, anchors.own_of_class], device="cpu").double()
        self._counts += torch.stack([own, own * (of_class - 1), own * (len(rows) - of_class)], dim=1)

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
            of the batch's mean embedding, 1 if all embeddings are equal, over batches with anchors of several
            classes; ``refused_rows``, the number of rows that the memory refused because they are not finite.
        """
        local = torch.cat([self._counts.to(self.sums.device), self.sums], dim=1)
        of_classes = distributed.all_reduce(local, self.group)
        number, positives, negatives, hard, itself, alike, every = of_classes.T
        memory_positive, memory_negative = self._with_memory(memory, number, step)
        pairs = torch.stack([positives, alike - itself, negatives, every - alike], dim=1)
        pairs = distributed.on_host(pairs)
        norm, refused, batches = float(self.mean_norm), int(self.refused), self._batches
        for sums in (*self.buffers(), self._counts):
            sums.zero_()
        self._batches = 0
        batch_positive, batch_negative = _similarities(pairs.sum(dim=0).tolist())
        return {
            "hard_anchors": _ratio(float(hard.sum()), float(number.sum())),
            "batch_positive_similarity": batch_positive,
            "batch_negative_similarity": batch_negative,
            "memory_positive_similarity": memory_positive,
            "memory_negative_similarity": memory_negative,
            "gap": _difference(batch_positive, batch_negative),
            "class_gap": [_difference(*_similarities(row)) for row in pairs.tolist()],
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
        sums = torch.stack([pairs, alike, every_pair - pairs, every - alike])
        return _similarities(distributed.on_host(sums).tolist())


def _similarities(sums: list[float]) -> tuple[float | None, float | None]:
    positives, positive_sum, negatives, negative_sum = sums
    return _ratio(positive_sum, positives), _ratio(negative_sum, negatives)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
