"""Settings without effect beside others: named in one line, where they are not at their defaults."""

from typing import Any

import pytest

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, Workers
from pixelcontrast.training.idle_settings import idle_settings

SHARED = Contrast(memory="pixel", memory_sharded=True)


def lines(**sections: Any) -> list[str]:
    data = Data(layout="camvid", root="/")
    sections.setdefault("run", Run(name="a"))
    return list(idle_settings(Experiment(data=data, **sections)))


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
        (Contrast(temperature=0.07, hard_share=1.0, warmup=0.5, rare_class_power=0.5), None),
        (Contrast(memory="pixel", memory_weight=0.5, memory_dtype="bfloat16", memory_max_age=9), None),
        (Contrast(weight=0.0, temperature=0.07, negative_mining="semi-hard"), None),  # a baseline
        (
            Contrast(memory="pixel", memory_weight=0.0, num_negatives=9),
            "contrast.memory pixel, contrast.num_negatives 9 have no effect: contrast.memory_weight is 0",
        ),
        (
            Contrast(memory="pixel", memory_term="joint", memory_weight=0.0),
            "contrast.memory_weight 0.0 has no effect: contrast.memory_term is joint",
        ),
        (
            Contrast(memory="pixel", positive_mining="all", num_positives=9, num_negatives=9),
            "contrast.num_positives 9 has no effect: contrast.positive_mining is all",
        ),
        (
            Contrast(memory="pixel", negative_mining="all", num_positives=9, num_negatives=9),
            "contrast.num_negatives 9 has no effect: contrast.negative_mining is all",
        ),
        (
            Contrast(memory="pixel", positive_mining="hardest", semi_hard_share=0.2),
            "contrast.semi_hard_share 0.2 has no effect: contrast.positive_mining is hardest and "
            "contrast.negative_mining random",
        ),
        (Contrast(memory="pixel", negative_mining="semi-hard-subset", semi_hard_share=0.2), None),
        (Contrast(memory="pixel", positive_mining="semi-hard", semi_hard_share=0.2), None),
        (
            Contrast(memory="pixel", memory_sharded=True),
            "contrast.memory_sharded True has no effect: run.workers is 1",
        ),
    ],
)
def test_settings_of_the_contrast_without_effect_are_named(contrast: Contrast, line: str | None) -> None:
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
        (
            {
                "model": Model(embedding_dim=64, embedding_batchnorm=True),
                "contrast": Contrast(weight=0.0, warmup=0.1),
            },
            None,
        ),
        ({"model": Model(embedding_dim=64, embedding_batchnorm=True)}, None),
        ({"model": Model(classifier="new")}, "model.classifier new has no effect: model.weights is none"),
        (
            {"model": Model(classifier="new", weights="timm")},
            "model.classifier new has no effect: model.weights is timm",
        ),
        ({"model": Model(classifier="new", weights="run.safetensors")}, None),
        (
            {"model": Model(backbone="convnext_tiny", drop_path=0.2, freeze_backbone=True)},
            "model.drop_path 0.2 has no effect: model.freeze_backbone is set",
        ),
        ({"model": Model(backbone="convnext_tiny", drop_path=0.2)}, None),
        (
            {"run": Run(name="a", device="cpu", gpus_per_worker=0.5)},
            "run.gpus_per_worker 0.5 has no effect: run.device is cpu",
        ),
        ({"run": Run(name="a", gpus_per_worker=0.5)}, None),
        (
            {"run": Run(name="a", device="cpu", matmul_precision="high")},
            "run.matmul_precision high has no effect: run.device is cpu",
        ),
        ({"run": Run(name="a", device="cpu", matmul_precision="medium")}, None),
        (
            {"run": Run(name="a", workers=Workers(1, 2)), "contrast": SHARED},
            None,
        ),
    ],
)
def test_other_settings_without_effect_are_named(sections: dict[str, Any], line: str | None) -> None:
    assert lines(**sections) == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("model", "idle"),
    [
        (Model(operators="hrnet"), True),
        (Model(backbone="convnext_tiny", operators="hrnet"), True),
        (Model(backbone="resnet50", operators="hrnet"), False),  # its pooling rounds down
        (Model(decoder="ocr", operators="hrnet"), False),  # another auxiliary head
        (Model(operators="mmsegmentation"), False),  # other upsampling
        (Model(operators="mmsegmentation", align_corners="yes"), True),
        (Model(operators="hrnet", weights="published.pth"), False),  # which ask for them
    ],
)
def test_operators_that_change_no_layer_are_named(model: Model, idle: bool) -> None:
    found = lines(model=model)
    assert [line.partition(" has no effect: ")[0] for line in found] == (
        [f"model.operators {model.operators}"] if idle else []
    )
    assert all(
        line.endswith(f"with model.decoder {model.decoder} computes the same with reference")
        for line in found
    )
