"""Settings without effect beside others: named in one line, where they are not at their defaults."""

from typing import Any

import pytest

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run
from pixelcontrast.training.idle_settings import idle_settings


def lines(**sections: Any) -> list[str]:
    data = Data(layout="camvid", root="/")
    return list(idle_settings(Experiment(data=data, run=Run(name="a"), **sections)))


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
    assert lines(contrast=contrast) == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {"model": Model(decoder="ocr", decoder_kernel=3)},
            "model.decoder_kernel 3 has no effect: model.decoder is ocr",
        ),
        ({"model": Model(decoder="hrnet", decoder_kernel=3)}, None),
        (
            {"optim": Optim(auxiliary_weight=1.0)},
            "optim.auxiliary_weight 1.0 has no effect: model.decoder hrnet has no auxiliary head",
        ),
        ({"model": Model(decoder="ocr"), "optim": Optim(auxiliary_weight=1.0)}, None),
        (
            {"optim": Optim(steps=20, lr=0.1, lr_warmup_steps=20)},
            "optim.lr 0.1 is never reached: optim.lr_warmup_steps is 20 and optim.steps 20",
        ),
        ({"optim": Optim(steps=20, lr_warmup_steps=19)}, None),
    ],
)
def test_other_settings_without_effect_are_named(sections: dict[str, Any], line: str | None) -> None:
    assert lines(**sections) == ([] if line is None else [line])
