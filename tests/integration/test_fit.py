"""``training.fit`` without Ray: in one process, killed and resumed, and in two gloo processes."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from object_store import CANARY, ObjectStore
from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, load_model, replace, training
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.models import SegmentationModel
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training import loop
from pixelcontrast.training.evaluate import evaluate
from pixelcontrast.training.state import build_state
from processes import run_ranks
from same_run import assert_same_run, differing_parts, learnt

CPU = torch.device("cpu")
STEPS = 8


def experiment(scenes: Path, storage: Path, **overrides: Any) -> Experiment:
    small = Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(64, 64)),
        model=Model(backbone="hrnet_w18_small", embedding_dim=32, dropout=0.1),
        contrast=Contrast(memory="both", pixel_queue_size=20, num_positives=15, num_negatives=60, warmup=0.3),
        optim=Optim(steps=STEPS, batch_size=3),
        run=Run(
            name="small", storage=str(storage), report_interval=2, eval_interval=4, checkpoint_interval=3
        ),
    )
    return replace(small, {key.replace("__", "."): value for key, value in overrides.items()})


def fit(settings: Experiment) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    training.fit(settings, device=CPU, report=rows.append)
    return rows


def metrics(settings: Experiment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in open_storage(settings).read("metrics.jsonl").splitlines()]


@pytest.fixture(scope="module")
def finished(
    scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Experiment, list[dict[str, Any]]]:
    """A run that was never interrupted, and what it reported."""
    settings = experiment(scenes, tmp_path_factory.mktemp("uninterrupted"))
    assert training.check(settings) is None
    return settings, fit(settings)


def test_run_folder_holds_what_was_reported(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    settings, reported = finished
    run = open_storage(settings)
    assert metrics(settings) == reported
    kinds = [(row["kind"], row["step"]) for row in reported]
    assert kinds == [("train", s) for s in (2, 3, 4)] + [("eval", 4), ("train", 6), ("train", 8), ("eval", 8)]
    assert config.from_json(run.read("experiment.json")) == settings
    assert [row["attempt"] for row in reported] == [1] * len(reported)
    for row in reported:
        if row["kind"] == "train":
            assert row["contrast"] > 0
            assert 0 <= row["hard_anchors"] <= 1
            assert -1 <= row["batch_positive_similarity"] <= 1
            assert row["gap"] == row["batch_positive_similarity"] - row["batch_negative_similarity"]
        else:
            for bank in ("pixel", "region"):
                fill, age = row[f"{bank}_fill"], row[f"{bank}_age"]
                assert fill.keys() == age.keys() == row["iou"].keys()
                assert 0 < fill["road"] <= 1
                assert 1 <= age["road"] <= row["step"]
                assert all((age[name] is None) == (fill[name] == 0) for name in fill)

    table = pq.read_table(io.BytesIO(run.read("metrics.parquet"))).to_pylist()
    assert [row["step"] for row in table] == [row["step"] for row in reported]
    assert table[3]["iou/road"] == reported[3]["iou"]["road"]
    events = EventAccumulator(run.path("tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/miou")] == [
        (row["step"], pytest.approx(row["miou"])) for row in reported if row["kind"] == "eval"
    ]
    confusion = json.loads(run.read("confusion.json"))
    counts = torch.tensor(confusion["pixels"])
    assert confusion["step"] == STEPS
    assert counts.diagonal().sum() / counts.sum() == pytest.approx(reported[-1]["pixel_accuracy"])
    for step in (4, 8):
        picture = Image.open(io.BytesIO(run.read(f"overlays/step-{step:08d}.png")))
        assert picture.width > 3 * 128


def test_finished_run_says_so(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    settings, reported = finished
    result = training.check(settings)
    assert result is not None
    assert result["miou"] == reported[-1]["miou"]
    best = max((row for row in reported if row["kind"] == "eval"), key=lambda row: row["miou"])
    assert result["best"] == {"step": best["step"], "miou": best["miou"]}
    run = open_storage(settings)
    for name in (result["checkpoint"], result["best_checkpoint"]):
        provenance = json.loads(checkpoint.load(run, name)["provenance.json"])
        assert provenance == result["provenance"]
    assert {"git", "source", "configuration", "data", "versions", "machine"} <= result["provenance"].keys()
    counts = ("threads", "seed", "world_size", "attempt")
    assert [result["provenance"][name] for name in counts] == [1, 0, 1, 1]


def test_another_configuration_is_refused_by_key(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    settings, _ = finished
    changed = replace(settings, {"contrast.temperature": 0.2, "optim.lr": 1.0, "run.report_interval": 1})
    with pytest.raises(
        ValueError, match=r"contrast\.temperature was 0\.1 and is now 0\.2\n  optim\.lr was"
    ) as caught:
        training.check(changed)
    assert "report_interval" not in str(caught.value)


def test_other_images_under_the_same_name_are_refused(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may move, but not change: here an image is gone."""
    settings = replace(finished[0], {"run.storage": str(tmp_path / "runs")})
    fit_until(4, settings, monkeypatch)
    moved = tmp_path / "moved"
    shutil.copytree(settings.data.root, moved)
    fit_elsewhere = replace(settings, {"data.root": str(moved)})
    next(moved.glob("leftImg8bit/train/*/*.png")).unlink()
    with pytest.raises(ValueError, match=r"moved: the train images are not those that run small began with"):
        fit(fit_elsewhere)


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("at", [3, 4, 7])
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    at: int,
    finished: tuple[Experiment, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped right after step ``at``: on a checkpoint, on an evaluation, and in between."""
    reference, _ = finished
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(at, settings, monkeypatch)
    fit(settings)
    assert_same_run(settings, reference)
    assert [row["attempt"] for row in metrics(settings)][-1] == 2


def test_the_memory_is_emptied_once_also_by_a_run_that_resumes_in_that_step(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up's last step is 2, counted from 0, and there is a checkpoint right after it."""
    reference, _ = finished
    settings = replace(reference, {"run.storage": str(tmp_path)})
    emptied, clear = [], Memory.clear

    def seen(memory: Memory) -> None:
        assert memory.pixel is not None
        emptied.append(int(memory.pixel.written.max()))
        clear(memory)

    monkeypatch.setattr(Memory, "clear", seen)
    fit_until(3, settings, monkeypatch)
    assert emptied == [2], "rows of an untrained head"
    fit_until(4, settings, monkeypatch)
    assert emptied == [2, 2], "the interrupted step is done anew"
    fit(settings)
    assert emptied == [2, 2], "the rows of steps 3 to 5 stay"
    assert_same_run(settings, reference)


def test_a_run_that_goes_on_under_other_conditions_says_so(
    finished: tuple[Experiment, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = replace(finished[0], {"run.storage": str(tmp_path)})
    fit_until(3, settings, monkeypatch)
    fit_until(0, settings, monkeypatch)
    assert "threads was" not in caplog.text
    torch.set_num_threads(2)
    try:
        fit_until(0, settings, monkeypatch)
    finally:
        torch.set_num_threads(1)
    assert "written under other conditions: threads was 1 and is now 2" in caplog.text
    lines = open_storage(settings).read("attempts.jsonl").splitlines()
    assert [json.loads(line)["changed"] for line in lines] == [{}, {}, {"threads": [1, 2]}]


def fit_until(step: int, settings: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and break off when the step after ``step`` begins."""
    original, calls = loop.train_step, iter(range(STEPS))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            raise InterruptedRunError
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", interrupted)
        with pytest.raises(InterruptedRunError):
            fit(settings)


def fit_and_stop(rank: int, world_size: int, text: str, at: int) -> int | None:
    """Only the last rank is asked to stop, when step ``at`` begins."""
    settings, asked = config.from_json(text), []

    def stop() -> bool:
        asked.append(rank)
        return rank == world_size - 1 and len(asked) > at

    return training.fit(settings, device=CPU, report=lambda _: None, stop=stop)


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_of_that_step(
    world_size: int, scenes: Path, tmp_path: Path
) -> None:
    """All ranks stop after the same step, the one in which any of them was asked; nothing is done twice."""
    settings = experiment(scenes, tmp_path, run__checkpoint_interval=100, run__eval_interval=100)
    settings = replace(settings, {"run.report_interval": 1})
    text = config.to_json(settings)
    assert run_ranks(world_size, fit_and_stop, text, 4) == [5] * world_size
    assert open_storage(settings).names("checkpoints") == ["step-00000005"]
    assert run_ranks(world_size, fit_and_stop, text, 0) == [6] * world_size
    assert run_ranks(world_size, fit_and_stop, text, 100) == [None] * world_size
    rows = metrics(settings)
    assert [(row["step"], row["attempt"]) for row in rows if row["kind"] == "train"] == [
        *((step, 1) for step in range(1, 6)),
        (6, 2),
        (7, 3),
        (8, 3),
    ]
    reference = replace(settings, {"run.name": "reference"})
    run_ranks(world_size, fit_ranks, config.to_json(reference))
    assert_same_run(settings, reference)


def test_a_run_killed_between_its_last_checkpoint_and_its_result_gets_its_result(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path
) -> None:
    reference, _ = finished
    settings = replace(reference, {"run.storage": str(tmp_path)})
    shutil.copytree(open_storage(reference).root, tmp_path / "small")
    before = json.loads((tmp_path / "small/result.json").read_text())
    for name in ("result.json", "metrics.parquet"):
        (tmp_path / "small" / name).unlink()
    assert fit(settings) == []
    result = training.check(settings)
    assert result is not None
    same = ("miou", "pixel_accuracy", "iou", "step", "best", "checkpoint", "overlays")
    assert {key: result[key] for key in same} == {key: before[key] for key in same}
    assert (tmp_path / "small/metrics.parquet").exists()
    assert_same_run(settings, reference)


def test_dropping_the_memory_from_a_checkpoint_is_noticed(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: it fails when the memory starts empty after a resume."""
    from pixelcontrast.contrast import PixelContrast

    reference, _ = finished
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(4, settings, monkeypatch)
    monkeypatch.setattr(PixelContrast, "load_state_dict", lambda *_: None)
    fit(settings)
    assert "model.safetensors" in differing_parts(settings, reference)


@pytest.mark.parametrize("place", ["local", pytest.param("S3", marks=pytest.mark.slow)])
def test_sigkill_half_way_and_the_same_command_again(
    place: str, finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, object_store: ObjectStore
) -> None:
    reference, _ = finished
    storage = str(tmp_path / "runs") if place == "local" else object_store.uri("killed")
    settings = replace(reference, {"run.storage": storage})
    (tmp_path / "experiment.json").write_text(config.to_json(settings))
    code = """
import sys, torch
from pathlib import Path
from pixelcontrast import config, training
torch.set_num_threads(1)
settings = config.from_json(Path(sys.argv[1]).read_text())
training.fit(settings, device=torch.device("cpu"), report=lambda row: print(row["step"], flush=True))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "experiment.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 4:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert training.check(settings) is None
    subprocess.run(command, check=True, capture_output=True)
    assert training.check(settings) is not None
    assert_same_run(settings, reference)
    run = open_storage(settings)
    assert run.sizes().keys() >= {"metrics.parquet", "confusion.json", "overlays/step-00000008.png"}
    assert len(run.names("tensorboard")) == 2  # an attempt's events each
    assert not [name for name in run.sizes() if CANARY.encode() in run.read(name)]
    ours, theirs = (load_model(open_storage(which).location) for which in (settings, reference))
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _ = finished
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(7, settings, monkeypatch)
    path = Path(open_storage(settings).path(f"{checkpoint.folder_of(6)}/optimizer.pt"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    fit(settings)
    attempt = json.loads(open_storage(settings).read("attempts.jsonl").splitlines()[-1])
    assert attempt["from_step"] == 4
    assert "step-00000006/optimizer.pt was altered" in attempt["skipped_checkpoints"][0]
    assert_same_run(settings, reference)

    for name in open_storage(settings).names("checkpoints"):
        Path(open_storage(settings).path(f"checkpoints/{name}/model.safetensors")).write_bytes(b"")
    Path(open_storage(settings).path("result.json")).unlink()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint is valid"):
        fit(settings)


def test_fit_itself_refuses_another_configuration_and_lost_checkpoints(
    finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path
) -> None:
    reference, _ = finished
    shutil.copytree(open_storage(reference).path(), tmp_path / "small")
    settings = replace(reference, {"run.storage": str(tmp_path)})
    before = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for key, value in {"optim.lr": 0.5, "run.seed": 7, "optim.steps": STEPS + 1}.items():
        with pytest.raises(ValueError, match=rf"{key} was .* and is now {value}"):
            fit(replace(settings, {key: value}))
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) == before
    shutil.rmtree(tmp_path / "small" / "checkpoints")
    with pytest.raises(
        checkpoint.CheckpointError, match="no checkpoint in checkpoints/, but the run had one"
    ):
        fit(settings)


def fit_ranks(_rank: int, _world_size: int, text: str) -> list[dict[str, Any]]:
    return fit(config.from_json(text))


def test_two_processes_train_and_count_each_image_once(scenes: Path, tmp_path: Path) -> None:
    """Five validation images on two ranks: the scores are those of one process with the same weights."""
    settings = experiment(scenes, tmp_path, optim__steps=3, contrast__warmup=0.0, model__dropout=0.0)
    first, second = run_ranks(2, fit_ranks, config.to_json(settings))
    assert learnt(first) == learnt(second)
    one = fit(replace(settings, {"run.name": "one"}))
    for ours, theirs in zip(learnt(first), learnt(one), strict=True):
        if ours["kind"] == "train":
            # In float32 rounding may flip which pixels are hard; tests/parity compares in float64.
            assert ours["ce"] == pytest.approx(theirs["ce"], rel=1e-2)
            assert ours["contrast"] == pytest.approx(theirs["contrast"], rel=1e-2)

    val_set = build_dataset(settings.data, "val")
    state = build_state(settings, num_classes=19, num_images=10, device=CPU)
    state.restore(checkpoint.load(open_storage(settings), checkpoint.folder_of(3)))
    again = evaluate(state.model, val_set, device=CPU).scores
    assert {key: first[-1][key] for key in again} == again


def test_training_evaluation_and_overlays_normalise_as_the_backbone_expects(
    scenes: Path, tmp_path: Path
) -> None:
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def look(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, SegmentationModel):
            seen[module.training].append(args[0])

    settings = experiment(
        scenes,
        tmp_path,
        model__backbone="tf_efficientnet_lite0",
        optim__steps=1,
        data__scale_range=(0.5, 0.5),
    )
    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        fit(settings)
    val_set = build_dataset(settings.data, "val")
    evaluated, drawn = seen[False][: len(val_set)], seen[False][len(val_set) :]
    wanted = [val_set.read(index)[0].float() / 127.5 - 1 for index in range(len(val_set))]
    for images, want in zip(evaluated, wanted, strict=True):
        torch.testing.assert_close(images[0], want)
    assert all(any(torch.allclose(images[0], want, atol=1e-5) for want in wanted) for images in drawn)
    assert drawn
    (crops,) = seen[True]
    assert -1 <= crops.min() < crops.max() <= 1  # by ImageNet's numbers the darkest pixels are at -2.1
    assert (crops == 0).all(dim=1).float().mean() > 0.4  # around the images, which are half a crop high


def test_two_processes_train_ocr_and_its_network_is_used_without_the_head(
    scenes: Path, tmp_path: Path
) -> None:
    """Every parameter has a gradient in every step, or DDP would fail in the second."""
    settings = experiment(scenes, tmp_path, optim__steps=2, model__decoder="ocr", optim__auxiliary_weight=0.5)
    settings = replace(settings, {"run.report_interval": 1})
    rows, others = run_ranks(2, fit_ranks, config.to_json(settings))
    assert learnt(rows) == learnt(others)
    for row in rows[:2]:
        total = row["ce"] + 0.5 * row["auxiliary"] + row["contrast"]  # in warm-up, too: the head's loss
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    model = load_model(tmp_path / "small")
    assert model.projection is None
    scores = evaluate(model, build_dataset(settings.data, "val"), device=CPU).scores
    assert {key: rows[-1][key] for key in scores} == scores


def test_a_memory_shared_by_two_processes_is_in_the_run_s_checkpoints(scenes: Path, tmp_path: Path) -> None:
    """Both parts are written, and a run that goes on from them ends as the one that was not broken off."""
    settings = experiment(scenes, tmp_path, optim__steps=4, contrast__memory_sharded=True)
    run_ranks(2, fit_ranks, config.to_json(settings))
    run, name = open_storage(settings), checkpoint.folder_of(4)
    parts = checkpoint.load(run, name)
    assert {"memory-0-of-2.safetensors", "memory-1-of-2.safetensors"} <= parts.keys()
    run.delete_folder(name, first=checkpoint.MANIFEST)
    Path(run.path("result.json")).unlink()
    run_ranks(2, fit_ranks, config.to_json(settings))
    again = checkpoint.load(run, name)
    assert json.loads(run.read("attempts.jsonl").splitlines()[-1])["from_step"] == 3
    for part in ("model.safetensors", "memory-0-of-2.safetensors", "memory-1-of-2.safetensors"):
        assert again[part] == parts[part], part


def test_baseline_has_neither_head_nor_memory(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path, contrast__weight=0.0, optim__steps=2)
    rows = fit(settings)
    assert "contrast" not in rows[0]
    assert rows[0]["loss"] == rows[0]["ce"]
    parts = checkpoint.load(open_storage(settings), checkpoint.folder_of(2))
    assert not any("memory" in part for part in parts)
    assert b"projection" not in parts["model.safetensors"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__root": "/nowhere"}, "/nowhere"),
        ({"model__backbone": "hrnet_w19"}, "hrnet_w19"),
        ({"model__decoder": "deeplabv3"}, "model.decoder: deeplabv3"),
        ({"model__weights": "/nowhere/weights.pth"}, "/nowhere/weights.pth"),
        ({"optim__class_weights": (1.0, 2.0)}, "optim.class_weights: 2 numbers for 19 classes: road"),
        ({"run__storage": "nosuch://bucket"}, "nosuch://bucket"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    overrides: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    settings = experiment(scenes, tmp_path, **overrides)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        training.check(settings)
    assert not list(tmp_path.iterdir())
