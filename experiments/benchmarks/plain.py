"""The obvious forms that the engine is measured against: dense, sorted, looped, with autograd's backward."""

import math

import torch
import torch.nn.functional as F
from inputs import IGNORE_INDEX, NUM_CLASSES, TEMPERATURE, Problem
from torch import Tensor

from pixelcontrast.contrast.sweeps import most_similarities


def two_products(problem: Problem) -> Tensor:
    """Only the matrix products of a pass over the bank: similarities, and weights times keys."""
    anchors, bank = problem.anchors.detach(), problem.bank
    step = max(most_similarities(anchors.device) // len(anchors), 1)  # at a time, as in the engine
    pulled = torch.zeros_like(anchors)
    space = anchors.new_empty(len(anchors) * step)
    for keys in bank.split(step):
        similarity = space[: len(anchors) * len(keys)].view(len(anchors), len(keys))
        torch.mm(anchors, keys.T, out=similarity)
        pulled.addmm_(similarity, keys)
    return pulled


def dense_loss(problem: Problem) -> Tensor:
    """The mean of Eq. 3 over the anchors, against each other and the bank, as one matrix."""
    anchors, labels = problem.anchors, problem.labels
    keys = torch.cat([anchors, problem.bank])
    similarity = anchors @ keys.T / TEMPERATURE
    same = labels[:, None] == torch.cat([labels, problem.bank_labels])
    log_sum = similarity.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
    positive = same.clone()
    positive.fill_diagonal_(False)
    each = F.softplus(log_sum - similarity) * positive
    return (each.sum(dim=1) / positive.sum(dim=1)).mean()


def sorted_loss(problem: Problem, *, num: int, share: float) -> Tensor:
    """Semi-hard negatives by a sorted top-k of all similarities; positives of the batch only."""
    anchors, labels = problem.anchors, problem.labels
    similarity = anchors @ problem.bank.T / TEMPERATURE
    same = labels[:, None] == problem.bank_labels
    candidates = len(problem.bank) - int(same[0].sum())
    pool = similarity.masked_fill(same, -torch.inf).topk(math.ceil(candidates * share), dim=1).values
    drawn = pool[:, torch.randperm(pool.shape[1], device=pool.device)[:num]]
    in_batch = anchors @ anchors.T / TEMPERATURE
    same = labels[:, None] == labels
    negatives = torch.cat([drawn, in_batch.masked_fill(same, -torch.inf)], dim=1)
    positive = same.clone()
    positive.fill_diagonal_(False)
    each = F.softplus(negatives.logsumexp(dim=1, keepdim=True) - in_batch) * positive
    return (each.sum(dim=1) / positive.sum(dim=1)).mean()


def looped_sampling_loss(
    embeddings: Tensor, labels: Tensor, logits: Tensor, *, most: int = 1024, most_views: int = 100
) -> Tensor:
    """The published code's algorithm, written anew: views of every (image, class), picked in a Python loop.

    Half of the views are misclassified pixels, half are not; a lack of one kind is made up by the other.
    """
    rows = embeddings.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    truth, predicted = labels.flatten(1), logits.argmax(dim=1).flatten(1)
    pairs = [
        (image, label)
        for image in range(len(rows))
        for label in truth[image].unique().tolist()
        if label != IGNORE_INDEX and int((truth[image] == label).sum()) > most_views
    ]
    views = min(most // len(pairs), most_views)
    picked = rows.new_zeros(len(pairs), views, rows.shape[2])
    for number, (image, label) in enumerate(pairs):
        member, wrong = truth[image] == label, predicted[image] != label
        pixels = _pick_views((member & wrong).nonzero()[:, 0], (member & ~wrong).nonzero()[:, 0], views)
        picked[number] = rows[image, pixels]
    classes = torch.tensor([label for _, label in pairs], device=rows.device).repeat(views)
    return _in_batch_loss(torch.cat(picked.unbind(1)), classes)


def _pick_views(hard: Tensor, easy: Tensor, views: int) -> Tensor:
    num_hard = min(max(views // 2, views - len(easy)), len(hard))
    hard = hard[torch.randperm(len(hard), device=hard.device)[:num_hard]]
    easy = easy[torch.randperm(len(easy), device=easy.device)[: views - num_hard]]
    return torch.cat([hard, easy])


def _in_batch_loss(views: Tensor, labels: Tensor) -> Tensor:
    similarity = views @ views.T / TEMPERATURE
    similarity = similarity - similarity.amax(dim=1, keepdim=True).detach()
    same = (labels[:, None] == labels).float()
    positive = same - torch.eye(len(views), device=views.device)
    negative_sum = (similarity.exp() * (1 - same)).sum(dim=1, keepdim=True)
    log_share = similarity - (similarity.exp() + negative_sum).log()
    return -((positive * log_share).sum(dim=1) / positive.sum(dim=1)).mean()


class LoopedQueue:
    """A ring of rows per class, written class by class and image by image."""

    def __init__(self, size: int, dim: int):
        self.size = size
        self.rows = torch.zeros(NUM_CLASSES, size, dim)
        self.pointer = torch.zeros(NUM_CLASSES, dtype=torch.int64)

    def enqueue(self, rows: Tensor, labels: Tensor, *, per_image: int) -> None:
        """Let rows [n, D] in; each ``per_image`` of them are an image's."""
        for image, classes in zip(rows.split(per_image), labels.split(per_image), strict=True):
            for label in classes.unique().tolist():
                self._write(label, image[classes == label])

    def _write(self, label: int, rows: Tensor) -> None:
        begin = int(self.pointer[label])
        fitting = min(len(rows), self.size - begin)
        self.rows[label, begin : begin + fitting] = rows[:fitting]
        if fitting < len(rows):
            self.rows[label, : len(rows) - fitting] = rows[fitting:]
        self.pointer[label] = (begin + len(rows)) % self.size
