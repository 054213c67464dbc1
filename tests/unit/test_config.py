import contextlib
import json
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from pixelcontrast import PAPER, Contrast, Data, Experiment, Optim, Run, Workers, config, parse, replace
from pixelcontrast.datasets.dataset_file import DatasetFile

EXPERIMENT = Experiment(
    data=Data(layout="camvid", root="/data", crop_size=(192, 256)),
    contrast=Contrast(memory="both", pixel_queue_size=100),
    optim=Optim(class_weights=(0.5, 1.0)),
    run=Run(name="test", workers=Workers(1, 4)),
)


def test_json_round_trip() -> None:
    assert config.from_json(config.to_json(EXPERIMENT)) == EXPERIMENT


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("contrast.temperatur", 0.1, r"contrast\.temperatur: no such setting"),
        ("contrast.temperature", "warm", r"contrast\.temperature: .*number \(got 'warm'\)"),
        ("contrast.temperature", -1, r"contrast\.temperature: .*greater than 0 \(got -1\)"),
        ("optim.steps", 1.5, r"optim\.steps: .*integer.*got 1\.5"),
        ("data.layout", "cityscape", r"data\.layout: .*'cityscapes'.*got 'cityscape'"),
        ("data.crop_size", [1], r"data\.crop_size"),
        ("run.workers", "4:1", r"run\.workers: .*MIN <= MAX.*got '4:1'"),
        ("run.workers", 2.5, r"run\.workers: .*such as 2 or 1:4.*got 2\.5"),
        ("run.name", "a/b", r"run\.name: .*got 'a/b'"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(key: str, value: Any, line: str) -> None:
    tree = json.loads(config.to_json(EXPERIMENT))
    section, field = key.split(".")
    tree[section][field] = value
    with pytest.raises(ValidationError) as caught:
        config.from_json(json.dumps(tree))
    lines = config.explain(caught.value).splitlines()
    assert len(lines) == 1
    assert __import__("re").match(line, lines[0]), lines[0]


@pytest.mark.parametrize(("given", "means"), [(2, Workers(2)), ("2", Workers(2)), ("1:4", Workers(1, 4))])
def test_workers_may_be_a_number_as_well(given: object, means: Workers) -> None:
    settings = replace(EXPERIMENT, {"optim.batch_size": 8, "run.workers": given})
    assert settings.run.workers == means


@pytest.mark.parametrize("given", [0, True, 2.0, "1:2:3", "two"])
def test_other_workers_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="workers are N or MIN:MAX"):
        replace(EXPERIMENT, {"run.workers": given})


def test_several_mistakes_are_several_lines() -> None:
    tree = json.loads(config.to_json(EXPERIMENT))
    tree["optim"]["lr"], tree["contrast"]["hard_share"] = 0, 2
    with pytest.raises(ValidationError) as caught:
        config.from_json(json.dumps(tree))
    assert [line.split(":")[0] for line in config.explain(caught.value).splitlines()] == [
        "contrast.hard_share",
        "optim.lr",
    ]


def test_a_list_whose_items_are_wrong_is_not_said_to_be_too_short() -> None:
    of_classes = TypeAdapter(DatasetFile)
    for classes, keys in (
        (
            [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "ids": [256]}],
            ["classes.0.colour", "classes.1.ids.0"],
        ),
        ([], ["classes"]),
    ):
        with pytest.raises(ValidationError) as caught:
            of_classes.validate_json(json.dumps({"images": "{split}", "masks": "m", "classes": classes}))
        assert [line.split(":")[0] for line in config.explain(caught.value).splitlines()] == keys


def test_replace_changes_by_dotted_key() -> None:
    changed = replace(EXPERIMENT, {"contrast.temperature": 0.07, "run.workers": Workers(2)})
    assert (changed.contrast.temperature, changed.run.workers) == (0.07, Workers(2))
    assert changed.data == EXPERIMENT.data
    assert EXPERIMENT.contrast.temperature == 0.1


@pytest.mark.parametrize("key", ["contrast.temperatur", "contrast", "loss.weight", "temperature"])
def test_replace_names_an_unknown_key(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: no such key; there are .*contrast\.temperature"):
        replace(EXPERIMENT, {key: 1})


def test_construction_in_python_is_checked_too() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Contrast(temperature=0.0)
    with pytest.raises(ValueError, match="must not exceed"):
        Data(layout="camvid", root="/", scale_range=(2.0, 0.5))
    with pytest.raises(ValueError, match=r"run.workers is 9 and optim.batch_size 8"):
        Experiment(data=EXPERIMENT.data, run=Run(name="a", workers=Workers(9)))


def test_differences_leave_out_placement() -> None:
    changed = replace(
        EXPERIMENT,
        {
            "run.workers": Workers(3),
            "run.eval_interval": 7,
            "data.root": "/elsewhere",
            "contrast.temperature": 0.2,
        },
    )
    assert config.differences(EXPERIMENT, changed) == {"contrast.temperature": (0.1, 0.2)}


ONE_WORKER = replace(EXPERIMENT, {"run.workers": "1", "run.device": "cpu"})


def others(value: Any) -> list[Any]:
    """Values like this one, of which a field allows one, unless it is a choice of words."""
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value / 2, value / 2 + 0.1]
        case None:
            return [1, 0.5, [1.0] * 19, [0.5] * 3, "voc", "yes", "keep"]
        case list():
            return [[number * 2 for number in value], [number / 2 for number in value]]
    return [f"{value}s"]


def changed(key: str, value: Any) -> Experiment:
    """The experiment with another allowed value of a key."""
    section, _, name = key.partition(".")
    field = type(getattr(ONE_WORKER, section)).__pydantic_fields__[name]
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str | int)]
    for other in [*choices, *others(value)]:
        if other != value:
            with contextlib.suppress(ValidationError):
                return replace(ONE_WORKER, {key: other})
    raise AssertionError(f"no other value of {key} found")


def test_the_paper_s_settings_leave_none_to_the_experiment() -> None:
    """As an arm they are the same method beside whatever an experiment has set."""
    others = {
        key: config.flatten(changed(key, value))[key]
        for key, value in config.flatten(ONE_WORKER).items()
        if key.startswith("contrast.")
    }
    assert replace(replace(ONE_WORKER, others), PAPER).contrast == replace(ONE_WORKER, PAPER).contrast


def test_the_fingerprint_is_of_what_is_trained() -> None:
    first = config.fingerprint(ONE_WORKER)
    for key, value in config.flatten(ONE_WORKER).items():
        other = replace(ONE_WORKER, {key: "3"}) if key == "run.workers" else changed(key, value)
        assert config.flatten(other)[key] != value
        assert (config.fingerprint(other) == first) == (key in config.PLACEMENT), key


def test_the_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    written = json.loads(config.to_json(EXPERIMENT))
    backwards = {section: dict(reversed(fields.items())) for section, fields in reversed(written.items())}
    assert config.recorded_fingerprint(json.dumps(backwards)) == config.fingerprint(EXPERIMENT)


def test_placement_names_real_keys() -> None:
    assert set(config.flatten(EXPERIMENT)) >= config.PLACEMENT


def test_command_line_sets_values() -> None:
    args = "--contrast.temperature 0.07 --run.workers 2 --data.crop-size 64 96 --optim.class-weights None"
    changed = parse(EXPERIMENT, args=args.split())
    assert changed.contrast.temperature == 0.07
    assert changed.run.workers == Workers(2)
    assert changed.data.crop_size == (64, 96)
    assert changed.optim.class_weights is None
    assert changed.contrast.pixel_queue_size == 100
    assert parse(EXPERIMENT, args=[]) == EXPERIMENT


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ("--contrast.temperature -1", "contrast.temperature: Input should be greater than 0 (got -1.0)\n"),
        ("--run.workers 9", "run.workers is 9 and optim.batch_size 8"),
        (
            "--contrast.anchors-per-class 1 --contrast.memory none",
            "contrast.anchors_per_class is 1 and no memory is used",
        ),
        ("--run.workers many", "such as 2 or 1:4, not"),
        ("--contrast.temperatur 1", "--contrast.temperatur"),
        ("--contrast.memory all", "'none', 'pixel', 'region'"),
        ("--contrast.negative-mining easy", "'all', 'random', 'hardest'"),
    ],
)
def test_command_line_mistakes_end_with_status_2(
    args: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(EXPERIMENT, args=args.split())
    assert caught.value.code == 2
    assert word in capsys.readouterr().err


def test_help_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(EXPERIMENT, args=["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for section in ("data", "run", "model", "contrast", "optim"):
        for name, field in type(getattr(EXPERIMENT, section)).__pydantic_fields__.items():
            assert f"--{section}.{name.replace('_', '-')}" in text
            assert field.description
            assert " ".join(field.description.split()) in text
