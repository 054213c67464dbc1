"""Published networks' files: each gives its source's logits, or is refused with what to set."""

import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pixelcontrast import Data, Experiment, Model, Run, parse
from pixelcontrast.models import check_model_weights
from published_files import (
    REFERENCES,
    SOURCES,
    assert_same,
    build,
    file_of,
    normalised,
    picture,
    published,
    save,
)
from published_sources import CLASSES


@pytest.mark.parametrize("name", SOURCES)
@torch.inference_mode()
def test_a_published_file_gives_its_source_s_logits(name: str, tmp_path: Path) -> None:
    settings = {**SOURCES[name].settings, "classifier": "keep"}
    model = build({**settings, "weights": file_of(name, tmp_path)})
    rgb = picture(SOURCES[name].size)
    assert_same(model(normalised(rgb, model)).logits, published(name).logits)


@pytest.mark.parametrize("name", REFERENCES)
@torch.inference_mode()
def test_the_reference_s_head_gives_its_embeddings_and_its_memory_is_left_aside(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"encoder_q.{key}": value for key, value in published(name).state.items()}
    queues = ("segment_queue", "segment_queue_ptr", "pixel_queue", "pixel_queue_ptr")
    content = SOURCES[name].file(state | {key: torch.zeros(2) for key in queues})
    weights = save(content, tmp_path)
    head = {"embedding_batchnorm": True, "embedding_dim": 16, "classifier": "keep"}
    model = build({**SOURCES[name].settings, **head, "weights": weights}, embedding=True)
    rgb = picture(SOURCES[name].size)
    got = F.normalize(model.projection(model(normalised(rgb, model)).uncropped))
    want = published(name).embedding
    assert want is not None
    assert_same(got, want)
    assert [record.getMessage() for record in caplog.records] == [f"{weights}: its memory is left aside"]


@pytest.mark.parametrize("name", SOURCES)
def test_one_refusal_has_all_options_that_a_file_needs(name: str, tmp_path: Path) -> None:
    needed, weights = SOURCES[name].settings, file_of(name, tmp_path)
    model = Model(backbone=needed["backbone"], weights=weights)
    with pytest.raises(ValueError) as error:
        check_model_weights(model, num_classes=CLASSES, embedding=False)
    title, *lines = str(error.value).splitlines()
    assert title.startswith(f"{weights}: is a ")
    options = [line for line in lines if ":" not in line]
    asked = {line.partition(":")[0].strip(): line for line in lines if ":" in line}
    assert "keep if the file's 5 classes" in asked["--model.classifier"]
    assert ("--model.align-corners" in asked) == ("align_corners" in needed)
    answers = {"--model.classifier": "keep", "--model.align-corners": needed.get("align_corners", "")}
    answered = [word for option in asked for word in (option, answers[option])]
    experiment = Experiment(data=Data(layout="camvid", root="."), model=model, run=Run(name="tuned"))
    changed = parse(experiment, args=[*shlex.split(" ".join(options)), *answered])
    check_model_weights(changed.model, num_classes=CLASSES, embedding=False)


@pytest.mark.parametrize("name", ["official OCR", "torchvision DeepLabV3"])
def test_another_number_of_classes_gets_a_new_classifier_and_is_told(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SOURCES[name].settings, "weights": file_of(name, tmp_path)}
    model = build(settings, num_classes=3)
    assert "its classifier of 5 classes is replaced by a new one of 3" in caplog.text
    kept = build({**settings, "classifier": "keep"}).state_dict()
    new = {
        key
        for key, value in model.state_dict().items()
        if value.shape != kept[key].shape or not value.equal(kept[key])
    }
    classifiers = ("decoder.classifier", "decoder.auxiliary.classifier")
    assert new == {f"{classifier}.{part}" for classifier in classifiers for part in ("weight", "bias")}
    with pytest.raises(
        ValueError, match=r"--model\.classifier new: the file has 5 classes, and the data have 3"
    ):
        build({**settings, "classifier": "keep"}, num_classes=3)


def test_a_classifier_is_replaced_on_request(tmp_path: Path) -> None:
    name = "mmsegmentation HRNet"
    settings = {**SOURCES[name].settings, "weights": file_of(name, tmp_path)}
    kept, new = (build({**settings, "classifier": choice}).decoder for choice in ("keep", "new"))
    assert kept.conv.weight.equal(new.conv.weight)
    assert not kept.classifier.weight.equal(new.classifier.weight)
