"""What ``PixelContrast`` is called with, checked."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast.banks import Bank, Slots
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.distributed import Group


def check_inputs(
    embeddings: Tensor, labels: Tensor, logits: Tensor, *, per_class: Tensor, embedding_dim: int | None
) -> None:
    """Raise ``ValueError`` for maps of a wrong shape or dtype, or on another device than the term.

    Args:
        per_class: any of the term's buffers [num_classes].
        embedding_dim: None allows any.
    """
    num_classes, device = len(per_class), per_class.device
    for name, map in {"embeddings": embeddings, "labels": labels, "logits": logits}.items():
        _check_device(name, map, device)
    dim = "C" if embedding_dim is None else embedding_dim
    if embeddings.ndim != 4 or embedding_dim not in (None, embeddings.shape[1]):
        raise ValueError(f"embeddings are [B, {dim}, h, w], not {list(embeddings.shape)}")
    if labels.ndim != 3 or labels.dtype != torch.int64:
        raise ValueError(f"labels are int64 [B, H, W], not {labels.dtype} {list(labels.shape)}")
    if logits.ndim != 4 or logits.shape[1] != num_classes:
        raise ValueError(f"logits are [B, {num_classes}, ., .], not {list(logits.shape)}")
    if not len(embeddings) == len(labels) == len(logits):
        sizes = f"{len(embeddings)}, {len(labels)} and {len(logits)}"
        raise ValueError(f"embeddings, labels and logits hold {sizes} images")


def check_shards(memory: Memory, group: Group, *, sharded: bool) -> None:
    """Raise ``ValueError`` if a memory that the ranks share was built for another number of them.

    Args:
        sharded: whether they share it.
    """
    ranks = distributed.world_size(group)
    for built in {bank.shard.of for bank in memory.banks.values() if sharded} - {ranks}:
        raise ValueError(
            f"memory_sharded: the PixelContrast was built for {built} ranks, and the group has {ranks}; "
            "build it after torch.distributed.init_process_group, and save and reshard its state_dict for "
            "another number of ranks"
        )


def check_projected(rows: Tensor, embedding_dim: int) -> None:
    """Raise ``ValueError`` for rows of another length than D, made by ``project``."""
    if rows.shape[1] != embedding_dim:
        raise ValueError(
            f"project gives embeddings of {rows.shape[1]} numbers, and embedding_dim is {embedding_dim}"
        )


def check_image_ids(image_ids: Tensor | None, embeddings: Tensor, region: Bank | None) -> Tensor | None:
    """The ids where the region memory has a slot for every image, else None; ``check_per_image`` holds."""
    if not isinstance(region, Slots):
        return None
    if image_ids is None:
        raise ValueError("image_ids are needed: the region memory has a slot for every image")
    check_per_image("image_ids", image_ids, embeddings)
    return image_ids


def check_per_image(name: str, values: Tensor, embeddings: Tensor) -> None:
    """Raise ``ValueError`` unless ``values`` are int64 [B] on the device of the embeddings [B, …]."""
    num_images = len(embeddings)
    _check_device(name, values, embeddings.device)
    if values.shape != (num_images,) or values.dtype != torch.int64:
        raise ValueError(f"{name} are int64 [{num_images}], not {values.dtype} {list(values.shape)}")


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"{name} are on {tensor.device} and the PixelContrast on {device}; move them to one device, such "
            "as the network's: PixelContrast(…).to(device)"
        )


def misplaced_images(image_ids: Tensor, region: Bank | None) -> Tensor:
    """int64 []: how many images have no slot in the region memory."""
    assert region is not None
    return ((image_ids < 0) | (image_ids >= region.size)).sum()


def check_ranges(strange: Sequence[int], rank: int, what: str, refuse: Callable[[], NoReturn]) -> None:
    """Raise ``ValueError`` on all ranks if one has values out of range: they would wait for it for ever.

    Args:
        strange: how many every rank has.
        refuse: raises, and names this rank's.
    """
    if strange[rank]:
        refuse()
    if ranks := [str(number) for number, count in enumerate(strange) if count]:
        raise ValueError(f"{what} of rank {', '.join(ranks)} are out of range, as its own error says")


def refuse_image_ids(image_ids: Tensor | None, region: Bank | None) -> NoReturn:
    """Raise ``ValueError`` that names ids without a slot in the region memory."""
    assert image_ids is not None
    assert region is not None
    raise ValueError(f"image_ids hold {image_ids.tolist()}; allowed are 0 to {region.size - 1}")


def refuse_labels(labels: Tensor, num_classes: int, ignore_index: int) -> NoReturn:
    """Raise ``ValueError`` that names the labels out of range."""
    found = set(labels.unique().tolist()) - set(range(num_classes)) - {ignore_index}
    raise ValueError(
        f"labels hold {sorted(found)}; allowed are 0 to {num_classes - 1} and the ignored {ignore_index}"
    )
