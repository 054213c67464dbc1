"""Settings of a memory that is not there: named in one line, where they are not at their defaults."""

import pytest

from pixelcontrast import Contrast
from pixelcontrast.training.contrast import without_effect


@pytest.mark.parametrize(
    ("contrast", "line"),
    [
        (
            Contrast(negative_mining="semi-hard"),
            "contrast.negative_mining semi-hard has no effect: contrast.memory is none",
        ),
        (
            Contrast(boundary_share=0.5, memory_sharded=True, memory_term="joint", num_positives=1024),
            "contrast.memory_term joint, contrast.boundary_share 0.5, contrast.memory_sharded True have no "
            "effect: contrast.memory is none",
        ),
        (
            Contrast(memory="pixel", region_memory_size=9, pixel_queue_size=9),
            "contrast.region_memory_size 9 has no effect: contrast.memory is pixel",
        ),
        (
            Contrast(memory="region", pixels_per_image=9, region_memory_size=9, num_negatives=9),
            "contrast.pixels_per_image 9 has no effect: contrast.memory is region",
        ),
        (Contrast(memory="both", region_memory_size=9, pixel_queue_size=9, num_negatives=9), None),
        (Contrast(temperature=0.07, hard_share=1.0), None),
        (Contrast(weight=0.0, negative_mining="semi-hard"), None),
    ],
)
def test_settings_of_a_memory_that_is_not_there_are_named(contrast: Contrast, line: str | None) -> None:
    assert without_effect(contrast) == line
