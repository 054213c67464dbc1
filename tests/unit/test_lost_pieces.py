"""A run's folder with files that are gone, cut off or damaged: named, never a silent restart."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pixelcontrast import cli, training
from pixelcontrast.config import Experiment, replace
from pixelcontrast.reports import write_report
from pixelcontrast.runs import run_folder
from pixelcontrast.runs.checkpoint import CheckpointError, folder_of
from pixelcontrast.runs.record import read_run
from pixelcontrast.runs.reproduce import reproduce
from pixelcontrast.runs.resume import check_resumable
from pixelcontrast.runs.run_folder import Row, read_attempts, read_rows
from pixelcontrast.search import Search
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.reading import read_search
from pixelcontrast.storage import Storage
from pixelcontrast.training.run_log import RunLog
from small_runs import EXPERIMENT, attempt_row, write_finished_run
from small_runs import metrics_row as row
from studies import SPACE, Driver

ANEW = "to start anew on purpose, delete the folder or choose another --run.name"
FIRST = attempt_row() | {"placement": {"run.checkpoint_interval": 10, "run.eval_interval": 30}}


def write_run(folder: Path, *rows: Row, attempts: tuple[Row, ...] = (FIRST,), checkpoint: int = 0) -> Storage:
    """What a killed run leaves, as far as names and rows tell."""
    run = Storage(str(folder / "a"))
    run_folder.write_experiment(run, EXPERIMENT)
    for attempt in attempts:
        run_folder.add_attempt(run, attempt)
    run_folder.write_rows(run, list(rows))
    if checkpoint:
        run.write(f"{folder_of(checkpoint)}/manifest.json", b"{}")
    return run


@pytest.mark.parametrize(
    ("rows", "attempts", "reason"),
    [
        ([row(10), row(20)], (FIRST,), "metrics.jsonl has rows to step 20"),
        ([row(9, "eval"), row(12)], (), "metrics.jsonl has rows to step 12"),
        ([], (FIRST, FIRST | {"attempt": 2, "from_step": 10}), "has attempt 2 resumed from step 10"),
    ],
)
def test_lost_checkpoints_are_an_error_that_says_how_to_start_anew(
    rows: list[Row], attempts: tuple[Row, ...], reason: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, *rows, attempts=attempts)
    with pytest.raises(CheckpointError) as caught:
        check_resumable(run, EXPERIMENT)
    assert f"{run.location}: there is no checkpoint in checkpoints/, but the run had one: " in str(
        caught.value
    )
    assert reason in str(caught.value)
    assert ANEW in str(caught.value)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    second = FIRST | {"attempt": 2, "placement": {"run.checkpoint_interval": 5, "run.eval_interval": 5}}
    for rows in ([], [row(5)], [row(10)]):  # the row of a checkpoint's step comes before it
        check_resumable(write_run(tmp_path, *rows), EXPERIMENT)
    check_resumable(write_run(tmp_path, row(8), attempts=(second,)), EXPERIMENT)  # rows of the first attempt


def test_a_finished_run_without_its_checkpoints_shows_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_finished_run(Storage(str(tmp_path / "a")))
    shutil.rmtree(run.path("checkpoints"))
    settings = replace(EXPERIMENT, {"run.storage": str(tmp_path)})
    cli.run(settings)
    said = capsys.readouterr().out
    assert "Run a is finished; choose another --run.name to start a new one." in said
    assert f"result       {run.location}/result.json" in said
    assert "best network deleted" in said
    with pytest.raises(ValueError, match=r"optim\.lr was .* and is now 0\.5"):
        training.check(replace(settings, {"optim.lr": 0.5}))
    run.delete("experiment.json")
    with pytest.raises(ValueError, match=r"experiment\.json is missing, but the run has finished"):
        training.check(settings)


@pytest.mark.parametrize("name", ["metrics.jsonl", "experiment.json"])
def test_a_lost_file_of_a_run_with_checkpoints_is_named(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, row(10), checkpoint=10)
    run.delete(name)
    with pytest.raises(
        ValueError, match=f"{name} is missing or empty, but the run has checkpoints/step-.*"
    ) as e:
        check_resumable(run, EXPERIMENT)
    assert ANEW in str(e.value)


def test_attempts_are_counted_on_where_their_file_is_lost(tmp_path: Path) -> None:
    run = write_run(tmp_path, row(10) | {"attempt": 3}, checkpoint=10)
    run.delete("attempts.jsonl")
    assert run_folder.next_attempt(run) == 4


@pytest.mark.parametrize(("name", "read"), [("metrics.jsonl", read_rows), ("attempts.jsonl", read_attempts)])
def test_a_cut_last_line_is_left_out_with_a_warning(
    name: str, read: Callable[[Storage], list[Row]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path, row(1), row(2), attempts=(FIRST, FIRST))
    path = Path(run.path(name))
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert len(read(run)) == len(read(run)) == 1
    assert caplog.messages == [f"{path}: the last line, 2, is cut off and was left out"]
    path.write_bytes(b'{"kind": \n' + path.read_bytes())
    with pytest.raises(
        ValueError, match=rf"^{path} is damaged: line 1 is no valid JSON\. Restore the file, or"
    ):
        read(run)


@pytest.mark.parametrize(
    ("name", "lost", "says"),
    [
        ("metrics.jsonl", ["time"], "line 1 lacks time. Restore the file, or delete the line"),
        ("metrics.jsonl", ["miou", "iou"], "line 2 lacks miou, iou. Restore"),
        ("attempts.jsonl", ["started"], "line 1 lacks started. Restore"),
        (
            "result.json",
            ["best_checkpoint"],
            "lacks best_checkpoint. Delete it: the run's command",
        ),
        ("confusion.json", ["pixels"], "confusion.json lacks pixels. Delete it: the next evaluation"),
    ],
)
def test_what_a_file_lacks_is_named(name: str, lost: list[str], says: str, tmp_path: Path) -> None:
    run = write_finished_run(Storage(str(tmp_path / "a")))
    run.write("confusion.json", b'{"step": 2, "classes": ["road"], "pixels": [[1]]}')
    write_report(run.location)
    lines = run.read(name).splitlines() if name.endswith("l") else [run.read(name)]
    rows = [{key: value for key, value in json.loads(line).items() if key not in lost} for line in lines]
    run.write(name, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    with pytest.raises(ValueError, match=re.escape(says)):
        write_report(run.location)


def test_what_a_result_s_provenance_lacks_is_named_when_it_is_to_be_reproduced(tmp_path: Path) -> None:
    run = write_finished_run(Storage(str(tmp_path / "a")))
    shutil.rmtree(run.path("checkpoints"))
    assert reproduce(run.location)
    result = json.loads(run.read("result.json"))
    del result["provenance"]["seed"], result["provenance"]["git"]
    run_folder.write_result(run, result)
    with pytest.raises(ValueError, match=r"/a/result\.json: the provenance lacks git, seed\. Restore"):
        reproduce(run.location)


@pytest.mark.parametrize("content", [b"", b'{"name": "a", "st'])
def test_a_damaged_result_is_named_with_its_remedy(content: bytes, tmp_path: Path) -> None:
    run = write_finished_run(Storage(str(tmp_path / "a")))
    run.write("result.json", content)
    settings = replace(EXPERIMENT, {"run.storage": str(tmp_path)})
    for read in (lambda: training.check(settings), lambda: read_run(run), lambda: write_report(run.location)):
        with pytest.raises(
            ValueError, match=r"/a/result\.json is damaged: it is no valid JSON\. Delete it: the"
        ):
            read()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged: it is no valid JSON"),
        (b'{"kind": "space", "sea', "is damaged: it is no valid JSON"),
        (b'{"kind": "space"}', "lacks program, experiment, search, arms"),
    ],
)
def test_a_damaged_description_of_a_search_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    folder = SearchFolder(
        replace(EXPERIMENT, {"run.storage": str(tmp_path)}), Search(trials=1, name="s"), None
    )
    with folder.held():
        pass
    folder.storage.write("search.json", content)
    for read in (folder.check, lambda: write_report(folder.storage.location)):
        with pytest.raises(ValueError, match=rf"/s/search\.json {says}\. Delete it"):
            read()
    folder.storage.delete("search.json")
    with folder.held():
        folder.check()


def test_a_damaged_run_of_a_search_hides_no_other(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(experiment, Search(space=SPACE, trials=2))
    for name in ("trial-0000", "trial-0001"):
        driver.trials.next()
        write_finished_run(driver.folder.run(name))
    path = Path(driver.folder.run("trial-0000").path("metrics.jsonl"))
    path.write_bytes(b'{"bad\n' + path.read_bytes())
    assert [len(trial.curve) for trial in read_search(driver.folder.storage).trials] == [0, 1]
    assert f"{path} is damaged: line 1 " in caplog.text


def test_an_evaluation_that_the_result_needs_and_is_lost_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, row(10), checkpoint=10)
    log = RunLog(run, EXPERIMENT, step=10, attempt=FIRST | {"attempt": 2, "from_step": 10})
    with pytest.raises(ValueError, match=r"metrics\.jsonl has lost the evaluation of step 10.* delete check"):
        log.evaluation(10)
    log.close()


def test_a_run_that_saved_nothing_pins_no_settings(tmp_path: Path) -> None:
    run = write_run(tmp_path, row(5))
    mended = replace(EXPERIMENT, {"optim.lr": 0.5})
    check_resumable(run, mended)
    for number in (2, 3):
        log = RunLog(run, mended, step=0, attempt=FIRST | {"attempt": number})
        log.add(row(5) | {"loss": 1.0})
        log.close()
    events = EventAccumulator(run.path("tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5], "attempt 2's is lost"
    RunLog(run, mended, step=0, attempt=FIRST | {"attempt": 4}).close()
    assert run_folder.read_experiment(run) == mended
    assert read_rows(run) == []
    run.write(f"{folder_of(10)}/manifest.json", b"{}")
    run_folder.write_rows(run, [row(10)])
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.5 and is now 0\.01"):
        check_resumable(run, EXPERIMENT)


def test_a_row_is_added_without_writing_the_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, row(5), row(10), row(15), checkpoint=10)
    log = RunLog(run, EXPERIMENT, step=10, attempt=FIRST | {"attempt": 2, "from_step": 10})
    monkeypatch.delattr(Storage, "write")
    log.add(row(20) | {"loss": 1.0})
    log.add(row(30, "eval") | {"miou": 0.5})
    log.close()
    assert [each["step"] for each in read_rows(run)] == [5, 10, 20, 30]
    assert read_rows(run) == log.rows


def test_a_run_named_as_a_search_is_refused(tmp_path: Path) -> None:
    experiment: Experiment = replace(EXPERIMENT, {"run.storage": str(tmp_path), "run.name": "s"})
    with SearchFolder(experiment, Search(trials=1, name="s"), None).held():
        pass
    with pytest.raises(ValueError, match=rf"{tmp_path}/s is a search's folder; choose another --run\.name"):
        training.check(experiment)
    assert json.loads((tmp_path / "s" / "search.json").read_text())["experiment"]["run"]["name"] == "s"
