"""Pixel contrast in a loop that trains a network of segmentation_models_pytorch.

The lines marked ``contrast`` are all that the term adds; afterwards the network is the plain one again.
"""

from collections.abc import Iterable

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast.contrast import FeatureHook, PixelContrast, ProjectionHead


def train(network: smp.Unet, batches: Iterable[tuple[Tensor, Tensor]], *, lr: float = 0.01) -> list[float]:
    """Train on images [B, 3, H, W] and labels [B, H, W], 255 ignored; return the term of every step."""
    classifier = network.segmentation_head[0]
    assert isinstance(classifier, nn.Conv2d)
    device = classifier.weight.device  # contrast
    head = ProjectionHead(classifier.in_channels, 256).to(device)  # contrast
    network.projection = head  # contrast: a submodule, also for DDP
    features = FeatureHook(classifier)  # contrast
    contrast = PixelContrast(num_classes=classifier.out_channels, embedding_dim=256).to(device)  # contrast
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    values = []
    network.train()
    for images, labels in batches:
        logits = network(images)
        term = contrast(features.take(), labels, logits, project=head)  # contrast
        loss = F.cross_entropy(logits, labels, ignore_index=255) + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(term.item())
    features.remove()  # contrast
    del network.projection  # contrast
    return values
