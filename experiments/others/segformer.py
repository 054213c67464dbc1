"""Pixel contrast in a loop that trains a SegFormer of Hugging Face's transformers.

The lines marked ``contrast`` are all that the term adds; afterwards the network is the plain one again.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import SegformerForSemanticSegmentation

from pixelcontrast.contrast import FeatureHook, PixelContrast, ProjectionHead


def train(
    network: SegformerForSemanticSegmentation, batches: Iterable[tuple[Tensor, Tensor]], *, lr: float = 6e-5
) -> list[float]:
    """Train on images [B, 3, H, W] and labels [B, H, W], 255 ignored; return the term of every step."""
    classifier = network.decode_head.classifier
    head = ProjectionHead(classifier.in_channels, 256).to(network.device)  # contrast
    network.projection = head  # contrast: a submodule, also for DDP
    features = FeatureHook(network.decode_head.dropout)  # contrast: before the dropout
    contrast = PixelContrast(num_classes=classifier.out_channels, embedding_dim=256)  # contrast
    contrast.to(network.device)  # contrast
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    values = []
    network.train()  # from_pretrained returns it in evaluation mode
    for images, labels in batches:
        output = network(images, labels=labels)
        how = {"project": head, "align_corners": False}  # contrast
        term = contrast(features.take(), labels, output.logits, **how)  # contrast
        loss = output.loss + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(term.item())
    features.remove()  # contrast
    del network.projection  # contrast
    return values
