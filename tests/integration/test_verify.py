"""``verify`` on a real run's folder, whole and damaged in every way that a disk or a person has."""

import hashlib
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pixelcontrast import cli, config
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training import verify
from processes import run_ranks
from small_fit import FinishedRun, experiment, fit, fit_ranks, fit_until

LAST = checkpoint.folder_of(8)


@pytest.fixture
def finished(uninterrupted: FinishedRun) -> Path:
    """The folder of a finished run of eight steps; to be left as it is."""
    return Path(open_storage(uninterrupted.settings).path())


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(finished, tmp_path / "small")


def found(run: Path, state: str = "DAMAGED") -> dict[str, str]:
    """File → text."""
    return {line.name: line.text for line in verify(run) if line.state == state}


def test_a_finished_run_is_sound_and_stays_as_it_is(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert found(finished) == found(finished, "left over") == {}
    sound = found(finished, "ok")
    checkpoints = {f"checkpoints/{path.name}" for path in (finished / "checkpoints").iterdir()}
    assert sound.keys() == checkpoints | {
        *("experiment.json", "attempts.jsonl", "metrics.jsonl", "metrics.parquet", "confusion.json"),
        *("overlays/step-00000004.png", "overlays/step-00000008.png", "result.json"),
    }
    assert sound["metrics.jsonl"] == "7 rows to step 8"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_run_of_a_version_with_fewer_settings_is_sound_also_resumed_under_this_one(run: Path) -> None:
    now = config.fingerprint(config.from_json((run / "experiment.json").read_bytes()))
    tree, result = (json.loads((run / name).read_text()) for name in ("experiment.json", "result.json"))
    assert result["provenance"]["configuration"] == now
    del tree["contrast"]["semi_hard_share"]
    older = config.recorded_fingerprint(json.dumps(tree))
    assert older != now
    (run / "experiment.json").write_text(json.dumps(tree))
    for recorded in (older, now):
        result["provenance"]["configuration"] = recorded
        (run / "result.json").write_text(json.dumps(result))
        assert found(run) == {}
    result["provenance"]["configuration"] = "0" * 64
    (run / "result.json").write_text(json.dumps(result))
    assert found(run) == {"result.json": "is of another configuration than experiment.json"}


def test_every_damaged_file_of_a_checkpoint_is_named(run: Path) -> None:
    flip(run / LAST / "memory-0-of-1.safetensors", at=2000)
    truncate(run / LAST / "optimizer.pt")
    (run / LAST / "loop.json").unlink()
    assert found(run) == {
        f"{LAST}/memory-0-of-1.safetensors": "was altered: its sha256 is not the manifest's",
        f"{LAST}/optimizer.pt": f"has {(run / LAST / 'optimizer.pt').stat().st_size} bytes instead of "
        f"{(run / LAST / 'optimizer.pt').stat().st_size + 1}",
        f"{LAST}/loop.json": "is missing",
    }


@pytest.mark.parametrize(
    "name", sorted(("model.safetensors", "provenance.json", "experiment.json", "loop.json"))
)
def test_one_wrong_bit_anywhere_in_a_checkpoint_is_found(run: Path, name: str) -> None:
    flip(run / LAST / name, at=(run / LAST / name).stat().st_size // 2)
    assert found(run) == {f"{LAST}/{name}": "was altered: its sha256 is not the manifest's"}


@pytest.mark.parametrize("word", ['"step"', '"files"', '"size"', '"sha256"', "loop.json", "8", "{"])
def test_a_wrong_bit_in_a_manifest_is_found(run: Path, word: str) -> None:
    flip(run / LAST / "manifest.json", at=(run / LAST / "manifest.json").read_text().index(word))
    assert {Path(name).parent for name in found(run)} == {Path(LAST)}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(run: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file's content."""
    path = run / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def rewrite_lines(run: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def replace_part(run: Path, name: str, content: bytes) -> None:
    """Put another file into the last checkpoint, and make its manifest agree."""
    (run / LAST / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(run, f"{LAST}/manifest.json", lambda m: m | {"files": m["files"] | {name: entry}})


class Canary:
    """Its pickle runs code where it is loaded carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_contents_are_loaded_without_executing_code(run: Path, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"state": Canary(canary)}, buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert canary.exists(), "the canary works"
    canary.unlink()
    replace_part(run, "optimizer.pt", buffer.getvalue())
    damaged = found(run)
    assert damaged.keys() == {f"{LAST}/optimizer.pt"}
    assert "UnpicklingError" in damaged[f"{LAST}/optimizer.pt"]
    replace_part(run, "model.safetensors", pickle.dumps(Canary(canary)))
    assert "SafetensorError" in found(run)[f"{LAST}/model.safetensors"]
    assert not canary.exists()


def change_tensors(
    run: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]
) -> dict[str, str]:
    tensors = safetensors.torch.load_file(run / LAST / name)
    change(tensors)
    replace_part(run, name, safetensors.torch.save(tensors))
    damaged = found(run)
    assert damaged.keys() == {f"{LAST}/{name}"}
    return damaged


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("model.safetensors", lambda t: t.pop("backbone.bn1.weight"), "has no backbone.bn1.weight"),
        ("model.safetensors", lambda t: t.update(x=torch.ones(1)), "has x, which does not belong"),
        (
            "model.safetensors",
            lambda t: t["backbone.conv1.0.weight"].resize_(1, 2),
            "has backbone.conv1.0.weight as float32 [1, 2] instead of float32 [16, 3, 3, 3]",
        ),
        (
            "model.safetensors",
            lambda t: t["backbone.bn1.running_var"].fill_(torch.nan),
            "numbers in backbone.bn1.running_var that are not finite",
        ),
        ("memory-0-of-1.safetensors", lambda t: t.pop("steps"), "has no steps"),
        (
            "memory-0-of-1.safetensors",
            lambda t: t.update({"memory.pixel.rows": t["memory.pixel.rows"].bfloat16()}),
            "has memory.pixel.rows as bfloat16 [19, 20, 32] instead of float32 [19, 20, 32]",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_configuration_are_named(
    run: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object], text: str
) -> None:
    assert text in change_tensors(run, name, change)[f"{LAST}/{name}"]


def test_an_optimizer_of_other_parameters_is_named(run: Path) -> None:
    state = torch.load(run / LAST / "optimizer.pt", weights_only=True)
    state["state"][0]["momentum_buffer"] = torch.zeros(2)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_part(run, "optimizer.pt", buffer.getvalue())
    text = "the momentum_buffer of parameter 0 as float32 [2] instead of"
    assert text in found(run)[f"{LAST}/optimizer.pt"]


def test_what_adamw_remembers_is_whole_and_finite(scenes: Path, tmp_path: Path) -> None:
    fit(experiment(scenes, tmp_path, optim__optimizer="adamw", optim__lr=0.001))
    run = tmp_path / "small"
    assert found(run) == {}
    sound = torch.load(run / LAST / "optimizer.pt", weights_only=True)
    for change, text in (
        ({"exp_avg": torch.full_like(sound["state"][0]["exp_avg"], float("nan"))}, "exp_avg of parameter 0"),
        ({"exp_avg_sq": torch.zeros(2)}, "exp_avg_sq of parameter 0 as float32 [2] instead of"),
        ({"momentum_buffer": None}, "has exp_avg, exp_avg_sq, momentum_buffer, step of parameter 0 instead"),
    ):
        buffer = io.BytesIO()
        torch.save(sound | {"state": sound["state"] | {0: sound["state"][0] | change}}, buffer)
        replace_part(run, "optimizer.pt", buffer.getvalue())
        assert text in found(run)[f"{LAST}/optimizer.pt"]


def test_what_an_interrupted_writing_leaves_is_named_and_harmless(run: Path) -> None:
    (run / "checkpoints" / ".step-00000009.partial").mkdir()
    (run / "checkpoints" / ".step-00000001.deleted").mkdir()
    (run / ".metrics.jsonl.partial").write_text("{")
    (run / LAST / "memory-1-of-2.safetensors").write_bytes(b"of another number of workers")
    (run / "checkpoints" / ".DS_Store").write_text("of a file manager")
    assert found(run) == {}
    text = "of an interrupted writing or deletion; the run removes it when it is resumed"
    assert found(run, "left over") == {
        "checkpoints/.DS_Store": "is no checkpoint of the run, which leaves it alone",
        "checkpoints/.step-00000009.partial": text,
        "checkpoints/.step-00000001.deleted": text,
        ".metrics.jsonl.partial": text,
        f"{LAST}/memory-1-of-2.safetensors": "is not in the manifest",
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [lines[0], lines[1][:-20], *lines[2:]], "line 2 is no JSON"),
        (lambda lines: [*lines[:3], lines[3][:-20] + "\n"], "line 4 is no JSON"),
        (lambda lines: [*lines[:3], lines[3][:-20]], "line 4, the last, is cut off; resuming the run"),
        (lambda _: [], "is empty, but the run has checkpoints/step-00000004, "),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4 is a second train row of step 4"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 2 has step 2 after 3"),
        (
            lambda lines: [line.replace('"step": 8', '"step": 9') for line in lines],
            "step 9 is beyond the last, 8",
        ),
        (lambda lines: [line.replace('"attempt": 1', '"attempt": 2') for line in lines], "attempt 2 of 1"),
        (lambda lines: [lines[0], "[2]\n", *lines[2:]], "line 2 is no JSON object"),
        (lambda lines: [line.replace('"miou"', '"mIoU"') for line in lines], " lacks miou"),
    ],
)
def test_metrics_that_are_not_in_order_are_named(
    run: Path, change: Callable[[list[str]], list[str]], text: str
) -> None:
    rewrite_lines(run, change)
    damaged = found(run)
    assert text in damaged["metrics.jsonl"]
    assert f"{LAST}/loop.json" not in damaged, "it is sound"


def test_metrics_result_and_checkpoints_must_agree(run: Path) -> None:
    miou = json.loads((run / "result.json").read_text())["miou"]
    rewrite_lines(run, lambda lines: [line for line in lines if '"kind": "eval", "step": 8' not in line])
    damaged = found(run)
    assert damaged["result.json"] == f"has mIoU {miou} at step 8, metrics.jsonl has none there"
    assert damaged["metrics.parquet"] == "has other rows than metrics.jsonl"
    rewrite_lines(run, lambda lines: lines[:-2])
    assert "has step 8, of which metrics.jsonl has no row" in found(run)[f"{LAST}/loop.json"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r | {"step": 7}, "is of step 7, but the run has 8"),
        (lambda r: r | {"attempts": 2}, "counts 2 attempts, attempts.jsonl 1"),
        (lambda r: r | {"checkpoint": "checkpoints/step-00000007"}, "names checkpoints/step-00000007, which"),
        (lambda r: r | {"miou": 0.9}, "has mIoU 0.9 at step 8, metrics.jsonl has 0."),
        (lambda r: {key: r[key] for key in r if key != "best"}, "not hold what it should: KeyError: 'best'"),
        (lambda r: {key: r[key] for key in r if key != "miou"}, "lacks miou"),
        (lambda r: [r], "is no JSON object"),
    ],
)
def test_a_result_that_says_otherwise_is_named(run: Path, change: Callable[[Any], Any], text: str) -> None:
    rewrite(run, "result.json", change)
    damaged = found(run)
    assert damaged.keys() == {"result.json"}
    assert text in damaged["result.json"]


def test_a_missing_best_checkpoint_is_named(run: Path) -> None:
    best = json.loads((run / "result.json").read_text())["best_checkpoint"]
    shutil.rmtree(run / best)
    damaged = found(run)
    assert "which is missing" in damaged["result.json"]
    if best != LAST:
        assert damaged[best] == f"is missing: {LAST} names it as the best"


@pytest.mark.parametrize("name", ["experiment.json", "attempts.jsonl", "confusion.json", "metrics.parquet"])
def test_other_files_are_read_too(run: Path, name: str) -> None:
    path = run / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert found(run).keys() == {name}
    path.unlink()
    assert found(run).keys() == ({name} - {"confusion.json"})


def test_one_wrong_bit_in_a_picture_is_found(run: Path) -> None:
    flip(run / "overlays" / "step-00000004.png", at=5000)
    assert found(run).keys() == {"overlays/step-00000004.png"}


def test_an_interrupted_run_is_sound(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment(scenes, tmp_path)
    fit_until(7, settings, monkeypatch)
    assert found(tmp_path / "small") == {}
    fit(settings)
    assert found(tmp_path / "small") == {}


def test_a_memory_in_parts_is_checked_as_a_whole(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path, optim__steps=2, contrast__memory_sharded=True)
    run_ranks(2, fit_ranks, config.to_json(settings))
    assert found(tmp_path / "small") == {}
    folder = checkpoint.folder_of(2)
    flip(Path(open_storage(settings).path(f"{folder}/memory-1-of-2.safetensors")), at=3000)
    assert found(tmp_path / "small").keys() == {f"{folder}/memory-1-of-2.safetensors"}


def test_the_command_names_the_damage_and_ends_with_1(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(folder: Path) -> object:
        monkeypatch.setattr(sys, "argv", ["pixelcontrast", "verify", str(folder)])
        with pytest.raises(SystemExit) as caught:
            cli.command()
        return caught.value.code

    assert command(run) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: all well"
    flip(run / LAST / "model.safetensors", at=100_000)
    assert command(run) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"DAMAGED    {LAST}/model.safetensors  was altered: its sha256 is not the manifest's" in lines
    assert lines[-1] == f"{run}: 1 damaged"
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == f"{tmp_path}: there is no run here\n"
