"""OCR's object regions and attention against loops over images, classes and pixels, in float64."""

import math

import torch
from torch import Tensor

from pixelcontrast.models.decoders.ocr import ObjectContext, gather_objects

BATCH, CHANNELS, KEYS, CLASSES, HEIGHT, WIDTH = 2, 6, 4, 3, 3, 5


def slow_objects(pixels: Tensor, scores: Tensor) -> Tensor:
    """Yuan et al., Eq. 3: of each class the pixels' mean, weighted by how much they belong to its region."""
    images = []
    for image, score in zip(pixels, scores, strict=True):
        classes = []
        for k in range(CLASSES):
            cells = [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
            weights = [score[k, y, x].exp() for y, x in cells]
            weighted = [w * image[:, y, x] for w, (y, x) in zip(weights, cells, strict=True)]
            classes.append(torch.stack(weighted).sum(0) / torch.stack(weights).sum())
        images.append(torch.stack(classes, 1))
    return torch.stack(images)


def slow_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Eq. 4 and 5: each pixel takes the objects' values, by how similar its query is to their keys."""
    taken = torch.zeros_like(queries)
    for b in range(BATCH):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                similar = [(queries[b, :, y, x] @ keys[b, :, k]) / math.sqrt(KEYS) for k in range(CLASSES)]
                shares = [s.exp() / sum(t.exp() for t in similar) for s in similar]
                mixed = sum(share * values[b, :, k] for k, share in enumerate(shares))
                assert isinstance(mixed, Tensor)
                taken[b, :, y, x] = mixed
    return taken


def slow_context(context: ObjectContext, pixels: Tensor, objects: Tensor) -> Tensor:
    keys, values = (layer(objects[..., None])[..., 0] for layer in (context.key, context.value))
    return context.up(slow_attention(context.query(pixels), keys, values))


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    pixels = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(BATCH, CLASSES, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    return pixels, scores


def test_objects_are_the_means_of_their_soft_regions() -> None:
    pixels, scores = inputs()
    got, want = gather_objects(pixels, scores), slow_objects(pixels, scores)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    weights = torch.randn_like(got)
    gradients = (torch.autograd.grad((out * weights).sum(), (pixels, scores)) for out in (got, want))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_pixels_take_from_objects_by_similarity() -> None:
    pixels, scores = inputs()
    objects = gather_objects(pixels, scores)
    context = ObjectContext(CHANNELS, KEYS).double()
    got, want = context(pixels, objects), slow_context(context, pixels, objects)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    weights, leaves = torch.randn_like(got), (pixels, scores, *context.parameters())
    gradients = (torch.autograd.grad((out * weights).sum(), leaves, retain_graph=True) for out in (got, want))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_extreme_scores_stay_finite_under_autocast() -> None:
    pixels, scores = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        objects = gather_objects(pixels.bfloat16(), 1000 * scores.bfloat16())
        taken = ObjectContext(CHANNELS, KEYS)(pixels.bfloat16(), objects)
    assert objects.isfinite().all()
    assert taken.isfinite().all()
