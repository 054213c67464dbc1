"""Reports of real, tiny searches: what stands in them, and that they hold in every state of a search."""

import html as html_library
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, fs

from pixelcontrast import Data, Experiment, Run, Search, config, parse
from pixelcontrast.reports import write_report
from pixelcontrast.reports.arms_page import compare_record
from pixelcontrast.reports.search_page import search_page
from pixelcontrast.runs import read_experiment_file
from pixelcontrast.search import reading
from pixelcontrast.search.folder import SearchFolder, open_study_storage
from pixelcontrast.search.trials import Trials
from pixelcontrast.storage import Storage
from pixelcontrast.words import percent, points
from searches import ARMS, SPACE, experiment, run_search

TRIALS = 6


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of six trials, arms on two seeds with one run missing, and a search with two objectives."""
    runs = tmp_path_factory.mktemp("runs")
    settings = experiment(scenes, runs)
    run_search(settings, Search(space=SPACE, trials=TRIALS, name="space", early_stopping="none"))
    run_search(settings, Search(arms=ARMS, seeds=(0, 1), name="arms"), arms=True, limit=5)
    both = Search(space=SPACE, trials=2, name="both", objectives=("miou", "seconds_per_step"))
    run_search(settings, both)
    return runs


@pytest.fixture
def space(runs: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(runs / "space", tmp_path / "space"))


def text_of(report: str) -> str:
    return Path(report).read_text()


def words_of(page: str) -> str:
    """What a reader sees, without the pages' scripts and figures."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html_library.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def commands_in(page: str) -> list[list[str]]:
    """The words of each command, as a shell would split them."""
    found = re.findall(r'<pre class="command"[^>]*><code>(.*?)</code>', page, flags=re.DOTALL)
    lines = [html_library.unescape(line).replace("\\\n", " ") for line in found]
    return [shlex.split(line) for line in lines]


class _Loads(HTMLParser):
    """Every address in the page's attributes, and how many plots it has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.plots = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("base", "iframe", "object")
        named = dict(attrs)
        self.found += [named[name] or "" for name in ("src", "href", "srcset", "data") if name in named]
        self.plots += "plotly-graph-div" in (named.get("class") or "")


def assert_stands_alone(page: str) -> None:
    loads = _Loads()
    loads.feed(page)
    outside = [place for place in loads.found if not place.startswith(("#", "data:"))]
    assert set(outside) <= {"trials.csv", "trials.parquet"}
    for style in re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL):
        assert "url(" not in style
        assert "@import" not in style
    assert page.count("* plotly.js v") == (1 if loads.plots else 0)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page


def test_a_search(runs: Path) -> None:
    journal = (runs / "space" / "study.journal").read_bytes()
    report = write_report(str(runs / "space"))
    assert report == str(runs / "space" / "report.html")
    assert (runs / "space" / "study.journal").read_bytes() == journal, "a report only reads the study"
    page, found = text_of(report), reading.read_search(Storage(str(runs / "space")))
    best = found.best
    assert best is not None
    assert best.values[0] == max(trial.values[0] for trial in found.trials)
    words = words_of(page)
    assert f"Best mIoU {percent(best.values[0])} % {best.run}, after its 4 steps" in words
    for part in ("trial-0005", "complete", "Importance", "Confusion", "Predictions", "Provenance", "git"):
        assert part in words
    assert "100 bootstrap resamples of the 6 complete trials" in words
    overlay = re.search(r'src="data:image/png;base64,([^"]{100})', page)
    assert overlay is not None
    assert_stands_alone(page)


@pytest.mark.parametrize("best", [0, 5])
def test_the_best_trial_against_the_experiment_s_own_values(runs: Path, best: int) -> None:
    found = reading.read_search(Storage(str(runs / "space")))
    trials = tuple(
        replace(trial, values=(float(trial.number == best),), summary={**trial.summary, "last_miou": 0.5})
        for trial in found.trials
    )
    page = search_page(replace(found, trials=trials), written=0.0)
    words = words_of(page)
    assert f"Best mIoU 100.0 % trial-000{best}, after its 4 steps" in words
    if best == 0:
        assert "the experiment's own values are the best so far" in words
        assert "IoU of trial-0000, which has the experiment's own values." in words
    else:
        assert "Baseline mIoU 50.0 % trial-0000, the experiment's own values" in words
        assert "IoU of trial-0005 against trial-0000, which has the experiment's own values." in words
    assert ('"name":"trial-0000, baseline"' in page) == (best != 0)


def test_the_command_gives_the_best_trial_s_configuration(runs: Path, scenes: Path) -> None:
    page = text_of(write_report(str(runs / "space")))
    found = reading.read_search(Storage(str(runs / "space")))
    assert found.best is not None
    settings, overrides = experiment(scenes, runs), dict(found.best.overrides)
    expected = config.replace(settings, {**overrides, "run.name": f"small-{found.best.run}"})
    short, complete = commands_in(page)
    assert short[:2] == ["pixelcontrast", "train"]
    assert parse(read_experiment_file(short[2]), args=short[3:]) == expected
    other = Experiment(data=Data(layout="camvid", root="elsewhere"), run=Run(name="other", seed=9))
    assert complete[:2] == ["python", sys.argv[0]], "what made the search"
    assert parse(other, args=complete[2:]) == expected, "every setting is written out"


def test_the_tables_hold_what_the_study_does(runs: Path) -> None:
    write_report(str(runs / "space"))
    table = pq.read_table(runs / "space" / "trials.parquet")
    storage = open_study_storage(runs / "space", None)
    trials = optuna.load_study(study_name="space", storage=storage).get_trials()
    rows = table.to_pylist()
    assert len(rows) == len(trials) == TRIALS
    for row, trial in zip(rows, trials, strict=True):
        assert (row["number"], row["state"], row["miou"]) == (trial.number, "COMPLETE", trial.value)
        assert {key: row[key] for key in SPACE} == trial.params
        noted = trial.user_attrs
        for name in ("best_miou", "best_step", "steps", "seconds_per_step", "worker_seconds", "checkpoint"):
            assert row[name] == noted[name]
        assert (runs / "space" / row["run"] / row["checkpoint"] / "model.safetensors").is_file()
        iou = [row[name] for name in row if name.startswith("iou/") and row[name] is not None]
        assert sum(iou) / len(iou) == pytest.approx(row["miou"]), "classes are of the same evaluation"
    read = csv.ConvertOptions(column_types=table.schema, strings_can_be_null=True)
    assert csv.read_csv(runs / "space" / "trials.csv", convert_options=read).equals(table)


def test_running_failed_and_stopped_trials(runs: Path, space: Path, scenes: Path) -> None:
    hostile = 'worker died: <script>alert("x")</script> & <b>more</b> </script>'
    running = add_trials(space, experiment(scenes, runs), hostile)
    page = text_of(write_report(str(space)))
    words = words_of(page)
    assert "6 complete, 1 stopped early, 1 failed, 1 running" in words
    assert hostile in words
    assert "<script>alert" not in page
    assert_stands_alone(page)
    rows = {row["run"]: row for row in pq.read_table(space / "trials.parquet").to_pylist()}
    assert [rows[f"trial-000{number}"]["state"] for number in (6, 7, 8)] == ["PRUNED", "FAIL", "RUNNING"]
    assert rows["trial-0007"]["error"] == hostile
    assert rows[running]["steps"] == 2, "read from its folder while it runs"
    assert rows[running]["miou"] > 0
    cost = words[words.index("steps trained") :]
    assert "complete 6 24 " in cost, "trials and steps"
    assert "running 1 2 " in cost
    assert "all 9 " in cost


def add_trials(folder: Path, settings: Experiment, error: str) -> str:
    """To a search's folder: one trial that was stopped early, one that failed, one that is half way."""
    moved = config.replace(settings, {"run.storage": str(folder.parent)})
    search = Search(space=SPACE, trials=TRIALS + 3, name="space", early_stopping="none")
    with SearchFolder(moved, search, None).held() as storage:
        trials = Trials(search, moved, name="space", storage=storage)
        stopped, failed, running = (trials.next() for _ in range(3))
        assert stopped is not None
        assert failed is not None
        assert running is not None
        for proposal in (stopped, running):
            shutil.copytree(folder / "trial-0001", folder / proposal.name)
            metrics = folder / proposal.name / "metrics.jsonl"
            rows = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] == 2]
            metrics.write_text("\n".join(rows) + "\n")
            (folder / proposal.name / "result.json").unlink()
        trials.report(stopped.number, 2, 0.01)
        trials.prune(stopped.number)
        trials.fail(failed.number, error)
    return running.name


def test_a_search_before_its_first_result(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path)
    search = Search(space=SPACE, trials=3, name="new")
    folder = run_search(settings, search, limit=0)
    words = words_of(text_of(write_report(str(tmp_path / "new"))))
    assert "No trial is complete yet." in words
    assert "No trial has been started yet." in words
    assert pq.read_table(tmp_path / "new" / "trials.parquet").num_rows == 0
    with folder.held() as storage:
        Trials(search, settings, name="new", storage=storage).next()
    page = text_of(write_report(str(tmp_path / "new")))
    assert "1 trial for mIoU: 1 running." in words_of(page)
    assert_stands_alone(page)
    (tmp_path / "new" / "study.journal").unlink()
    assert "No trial has been started yet." in words_of(text_of(write_report(str(tmp_path / "new"))))
    assert not (tmp_path / "new" / "study.journal").exists(), "a report makes no study"


def test_what_all_trials_share_is_said_once(runs: Path) -> None:
    words = words_of(text_of(write_report(str(runs / "space"))))
    heads = words[words.index("Trials trial state") : words.index("trial-0000 complete")]
    assert "steps" not in heads, "each trained 4"
    assert "worker" not in heads, "with one worker, its time is the time"
    assert "contrast. temperature" in heads
    assert re.search(r"The same in all: [^.]*\bsteps 4\b", words)


def test_too_few_trials_for_importance(runs: Path) -> None:
    words = words_of(text_of(write_report(str(runs / "both"))))
    assert "Too few complete trials to say which settings matter: 2" in words


def test_two_objectives(runs: Path) -> None:
    page = text_of(write_report(str(runs / "both")))
    found = reading.read_search(Storage(str(runs / "both")))
    assert found.best is None
    storage = open_study_storage(runs / "both", None)
    front = optuna.load_study(study_name="both", storage=storage).best_trials
    assert {trial.number for trial in found.front} == {trial.number for trial in front}
    assert len(commands_in(page)) == len(front)
    assert f"{len(front)} of 2 complete trials" in words_of(page)
    assert_stands_alone(page)


def test_arms(runs: Path) -> None:
    page = text_of(write_report(str(runs / "arms")))
    comparison = compare_record(reading.read_search(Storage(str(runs / "arms"))))
    results = [json.loads((runs / "arms" / f"{arm}-s0/result.json").read_text()) for arm in ARMS]
    assert [arm.name for arm in comparison.miou] == list(ARMS)
    assert [arm.scores[0] for arm in comparison.miou] == [result["miou"] for result in results]
    first, second, third = comparison.miou
    assert (len(second.scores), len(third.scores)) == (2, 1)
    assert second.difference is not None
    assert third.difference is not None
    words = words_of(page)
    assert f"{points(second.difference.mean)} – 2 cool" in words, "two seeds give no interval"
    assert f"{points(third.difference.mean)} – 1 " in words
    assert first.std is not None
    assert f"{percent(first.mean)} ± {percent(first.std)} – – – contrast" in words
    heads = "class ce, % 2 seeds contrast, % 2 seeds contrast − ce 2 seeds cool, % 1 seed cool − ce 1 seed"
    assert heads in words, "means and differences are not of the same seeds"
    road = comparison.classes["road"][0]
    assert road.scores[0] == results[0]["iou"]["road"]
    assert_stands_alone(page)
    table = pq.read_table(runs / "arms" / "trials.parquet").to_pydict()
    assert (table["arm"], table["seed"]) == (["ce", "contrast", "cool", "ce", "contrast"], [0, 0, 0, 1, 1])
    assert table["contrast.weight"] == [0.0, 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("keep", [None, 2, 0], ids=["finished", "half way", "just started"])
def test_a_run(space: Path, keep: int | None) -> None:
    run = space / "trial-0001"
    if keep is not None:
        (run / "result.json").unlink()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= keep]
        (run / "metrics.jsonl").write_text("".join(kept))
    page = text_of(write_report(str(run)))
    words = words_of(page)
    assert ("not finished, " in words) == (keep is not None)
    assert f"{4 if keep is None else keep} of 4 steps" in words
    assert "code (git commit)" in words
    assert ("plot-losses" in page) == ("plot-classes" in page) == (keep != 0)
    assert not (run / "trials.csv").exists()
    assert_stands_alone(page)


def test_steps_that_were_left_out_are_counted(space: Path) -> None:
    run = space / "trial-0001"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    trained[0] |= {"skipped": 2, "loss": None, "ce": None}  # of all its steps
    trained[1] |= {"skipped": 1}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "3 steps left out: loss or gradients were not finite." in words_of(text_of(write_report(str(run))))


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=rf"{place} is neither .*experiment.json.*search.json"):
            write_report(str(place))


def test_a_checkpoint_s_folder_is_not_taken_for_a_run(space: Path) -> None:
    folder = max((space / "trial-0001" / "checkpoints").iterdir())
    with pytest.raises(ValueError, match=rf"^{folder} is a checkpoint; allowed is the folder of its run$"):
        write_report(str(folder))


def test_object_store(runs: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a file system of pyarrow's that is not the local one, on real files."""

    def bucket(location: str, option: str) -> Storage:
        del option
        storage = Storage(str(space))
        storage.location = location
        storage.fs = fs.SubTreeFileSystem(str(space.parent), fs.LocalFileSystem())
        storage.root = "space"
        return storage

    write_report(str(runs / "space"))
    monkeypatch.setattr(reading, "Storage", bucket)
    assert write_report("s3://bucket/runs/space/") == "s3://bucket/runs/space/report.html"
    there, here = (pq.read_table(folder / "trials.parquet") for folder in (space, runs / "space"))
    assert there.equals(here)
    assert "6 complete" in words_of(text_of(str(space / "report.html")))
    assert sorted(path.name for path in space.iterdir() if path.is_file() and path.name[0] != ".") == [
        "report.html",
        "search.json",
        "study.journal",
        "trials.csv",
        "trials.parquet",
    ]


def test_a_study_in_a_database_and_a_folder_that_was_renamed(scenes: Path, space: Path) -> None:
    renamed = space.rename(space.with_name("kept"))
    assert "6 complete" in words_of(text_of(write_report(str(renamed))))
    settings = experiment(scenes, space.parent)
    url = f"sqlite:///{space.parent}/study.db"
    run_search(settings, Search(space=SPACE, trials=1, name="database", study=url))
    assert "1 trial for mIoU: 1 complete." in words_of(text_of(write_report(str(space.parent / "database"))))
