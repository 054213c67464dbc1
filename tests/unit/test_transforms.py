"""The joint training transform: what it draws, and that image and label stay together."""

import pytest
import torch
from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.transforms import IMAGENET, Normalization, eval_transform, train_transform

HEIGHT, WIDTH = 90, 120
SHADES = 8
"""Classes of the test picture; class c is drawn as grey 30 · c."""


def settings(**changes: object) -> Data:
    values = {"crop_size": (64, 80), "color_jitter": 0.0, **changes}
    return Data(layout="camvid", root="unused", **values)  # type: ignore[arg-type]


def blocks(height: int = HEIGHT, width: int = WIDTH, block: int = 15) -> tuple[Tensor, Tensor]:
    """A picture of blocks whose grey tells their class, and its label."""
    rows, columns = torch.arange(height)[:, None] // block, torch.arange(width)[None] // block
    label = ((3 * rows + 5 * columns) % SHADES).to(torch.uint8)
    return (label * 30).expand(3, -1, -1), label


def gradient() -> tuple[Tensor, Tensor]:
    """A picture whose red is the column, green the row; its label is all class 0."""
    rows, columns = torch.arange(HEIGHT)[:, None].expand(-1, WIDTH), torch.arange(WIDTH).expand(HEIGHT, -1)
    return torch.stack([columns, rows, rows]).to(torch.uint8), torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)


def in_bytes(image: Tensor) -> Tensor:
    """Undo the normalisation: values 0 … 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (image * std + mean) * 255


def crop(source: tuple[Tensor, Tensor], data: Data, *, position: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return train_transform(*source, data=data, seed=seed, position=position)


def scale_of(image: Tensor) -> float:
    """Scale of a crop of ``gradient`` without padding: how slowly the column number rises."""
    red = in_bytes(image)[0]
    return (red.shape[1] - 21) / abs(float((red[:, -11] - red[:, 10]).mean()))


def test_returns_a_normalised_float_crop_and_int64_train_ids() -> None:
    image, label = crop(blocks(), settings(), position=3)
    assert image.shape == (3, 64, 80)
    assert label.shape == (64, 80)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    assert set(label.unique().tolist()) <= {*range(SHADES), IGNORE_INDEX}


def test_depends_on_seed_and_position_only() -> None:
    data = settings(color_jitter=0.4)
    wanted = crop(blocks(), data, position=7)
    torch.manual_seed(1)
    crop(blocks(), data, position=8)
    torch.rand(5)
    again = crop(blocks(), data, position=7)
    assert torch.equal(wanted[0], again[0])
    assert torch.equal(wanted[1], again[1])
    assert not torch.equal(wanted[0], crop(blocks(), data, position=8)[0])
    assert not torch.equal(wanted[0], crop(blocks(), data, position=7, seed=1)[0])


def test_leaves_its_input_and_torchs_generator_alone() -> None:
    source = blocks()
    before, state = source[0].clone(), torch.get_rng_state()
    for position in range(4):
        crop(source, settings(color_jitter=0.4, scale_range=(1.0, 1.0)), position=position)
    assert torch.equal(source[0], before)
    assert torch.equal(torch.get_rng_state(), state)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    data = settings(color_jitter=0.4, crop_size=(301, 403))
    source = (torch.randint(0, 256, (3, 400, 500), dtype=torch.uint8), blocks(400, 500)[1])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([crop(source, data, position=position)[0] for position in range(6)])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(results[0] * 2, results[1] + results[2], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scales", [(0.5, 0.7), (1.0, 1.0), (1.0, 2.0), (2.5, 3.0)])
def test_image_and_label_stay_registered(scales: tuple[float, float]) -> None:
    data = settings(scale_range=scales)
    for position in range(12):
        image, label = crop(blocks(), data, position=position)
        valid = label != IGNORE_INDEX
        error = (in_bytes(image)[0] - 30.0 * label).abs()
        inner = _inside_of_blocks(label) & valid
        assert inner.float().mean() > 0.05
        assert error[inner].max() < 1.5
        # On an edge the image is between its two sides: a shift of the label would show on one side only.
        assert (error[valid] > 120).float().mean() < 0.05


def _inside_of_blocks(label: Tensor) -> Tensor:
    """Pixels whose neighbours up to three away all have the same label: away from edges and padding."""
    windows = torch.nn.functional.pad(label[None, None].double(), (3, 3, 3, 3), mode="replicate").unfold(
        2, 7, 1
    )
    windows = windows.unfold(3, 7, 1)[0, 0].flatten(2)
    return windows.amin(2) == windows.amax(2)


@pytest.mark.parametrize("scales", [(0.5, 0.9), (1.1, 1.9), (2.0, 4.0)])
def test_labels_are_not_shifted_against_the_image(scales: tuple[float, float]) -> None:
    """With torch's "nearest" instead of "nearest-exact" they lie half a pixel off on average."""
    bars = (torch.arange(WIDTH) // 12 % 2).to(torch.uint8).expand(HEIGHT, -1)
    data = settings(scale_range=scales, flip_probability=0.0)
    shifts = []
    for position in range(100):
        image, label = crop(((200 * bars).expand(3, -1, -1), bars), data, position=position)
        row = HEIGHT // 3
        shades, ids = in_bytes(image)[0, row] / 200, label[row].double()
        rising = ((ids.diff() == 1) & (label[row, 1:] != IGNORE_INDEX)).nonzero().flatten() + 1
        near = round(5 * scales[0])
        for edge in rising.tolist():
            if near <= edge <= len(ids) - near and (label[row, edge - near : edge + near] < 2).all():
                window = slice(edge - near, edge + near)
                shifts.append(float((shades[window] - ids[window]).sum()))
    assert len(shifts) > 50
    assert abs(sum(shifts) / len(shifts)) < 0.15


def test_scales_fill_their_range() -> None:
    data = settings(crop_size=(60, 80), scale_range=(1.0, 2.0))
    scales = torch.tensor([scale_of(crop(gradient(), data, position=position)[0]) for position in range(300)])
    assert 0.97 < scales.min() < 1.05
    assert 1.95 < scales.max() < 2.05
    assert scales.mean() == pytest.approx(1.5, abs=0.06)


def test_crops_reach_every_corner() -> None:
    data = settings(crop_size=(60, 80), scale_range=(1.5, 1.5), flip_probability=0.0)
    corners = torch.stack([in_bytes(crop(gradient(), data, position=p)[0])[:2, 0, 0] for p in range(300)])
    largest = torch.tensor([WIDTH - 80 / 1.5, HEIGHT - 60 / 1.5])
    assert (corners.amin(0) < 3).all()
    assert (corners.amax(0) > largest - 3).all()


def test_what_lies_outside_of_the_image_is_ignored_and_of_mean_colour() -> None:
    source = (torch.full((3, 40, 50), 255, dtype=torch.uint8), torch.ones(40, 50, dtype=torch.uint8))
    tops = set()
    for position in range(20):
        image, label = crop(source, settings(scale_range=(0.8, 0.8)), position=position)
        outside = label == IGNORE_INDEX
        assert (image[:, outside] == 0).all()
        assert (in_bytes(image)[:, ~outside] > 254.9).all()
        assert int((~outside).sum()) == 40 * 0.8 * 50 * 0.8
        tops.add(int((~outside).any(1).nonzero()[0]))
    assert len(tops) > 10


def test_a_source_of_another_shape_than_the_crop_is_padded_on_one_axis_only() -> None:
    image, label = crop(blocks(20, 400), settings(scale_range=(1.0, 1.0)), position=0)
    assert image.shape == (3, 64, 80)
    assert (label != IGNORE_INDEX).sum(0).eq(20).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_share_of_flipped_crops(probability: float) -> None:
    data = settings(flip_probability=probability, crop_size=(60, 80), scale_range=(1.0, 1.0))
    flips = [
        bool(in_bytes(crop(gradient(), data, position=position)[0])[0].diff().mean() < 0)
        for position in range(400)
    ]
    assert sum(flips) / 400 == pytest.approx(probability, abs=0.08 if probability == 0.5 else 0)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_a_flipped_crop_is_the_mirrored_one_with_its_padding(jitter: float) -> None:
    for position in range(20):
        crops = [
            crop(
                blocks(),
                settings(crop_size=(70, 150), flip_probability=probability, color_jitter=jitter),
                position=position,
            )
            for probability in (0.0, 1.0)
        ]
        for plain, flipped in zip(*crops, strict=True):
            assert torch.equal(plain.flip(-1), flipped)
            assert plain.shape[-2:] == (70, 150)


def test_colour_jitter_changes_colours_within_its_bounds_and_nothing_else() -> None:
    same_place = {"scale_range": (1.0, 1.0), "flip_probability": 0.5}
    flat = (
        torch.tensor([120, 100, 80], dtype=torch.uint8)[:, None, None].expand(-1, HEIGHT, WIDTH),
        blocks()[1],
    )
    greys, spreads = [], []
    for position in range(200):
        plain = crop(flat, settings(**same_place), position=position)
        jittered = crop(flat, settings(**same_place, color_jitter=0.4), position=position)
        assert torch.equal(plain[1], jittered[1])
        red, green, blue = in_bytes(jittered[0])[:, 0, 0].tolist()
        greys.append((0.299 * red + 0.587 * green + 0.114 * blue) / 103.7)
        spreads.append((red - blue) / 40 / greys[-1])
    # On a flat picture contrast keeps the mean: brightness alone moves the grey, 0.6 … 1.4 times; the spread
    # of the colours is moved by contrast and saturation together, 0.36 … 1.96 times.
    assert 0.58 < min(greys) < 0.64
    assert 1.36 < max(greys) < 1.41
    assert 0.33 < min(spreads) < 0.55
    assert 1.6 < max(spreads) < 2.0


def test_contrast_moves_the_spread_of_brightness() -> None:
    data = {"scale_range": (1.0, 1.0), "crop_size": (HEIGHT, WIDTH), "flip_probability": 0.0}
    halves = torch.where(torch.arange(WIDTH) < WIDTH // 2, 80, 120).to(torch.uint8).expand(3, HEIGHT, -1)
    ratios = []
    for position in range(150):
        image = in_bytes(
            crop((halves, blocks()[1]), settings(**data, color_jitter=0.4), position=position)[0]
        )
        dark, light = image[0, 0, 0], image[0, 0, -1]
        ratios.append(float((light - dark) / (light + dark)) / 0.2)
    assert 0.57 < min(ratios) < 0.65
    assert 1.35 < max(ratios) < 1.43


def test_validation_only_normalises() -> None:
    image, label = blocks(33, 47)
    normalised, ids = eval_transform(image, label)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    torch.testing.assert_close(normalised, (image / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert torch.equal(ids, label.long())
    assert normalised.is_contiguous()


def test_another_backbone_s_mean_and_standard_deviation() -> None:
    """Padding stays of the mean colour, which is 0 for any of them."""
    halves = Normalization((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    image, label = torch.full((3, 40, 50), 255, dtype=torch.uint8), torch.ones(40, 50, dtype=torch.uint8)
    white = torch.tensor([2.0, 1.0, 0.5])
    normalised, _ = eval_transform(image, label, halves)
    torch.testing.assert_close(normalised, white[:, None, None].expand(3, 40, 50))
    crop, ids = train_transform(
        image, label, data=settings(scale_range=(0.8, 0.8)), seed=0, position=0, normalization=halves
    )
    inside = ids != IGNORE_INDEX
    torch.testing.assert_close(crop[:, inside], white[:, None].expand(3, int(inside.sum())))
    assert (crop[:, ~inside] == 0).all()
    assert not inside.all()
