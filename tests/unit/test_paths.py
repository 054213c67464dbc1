"""One place, however it is written: ``~``, relative and absolute paths, in settings and at the door."""

from pathlib import Path

import pytest

from pixelcontrast import Data, Experiment, Model, Run, config, main
from pixelcontrast.runs.checkpoint import folder_of
from pixelcontrast.runs.resume import check_resumable
from pixelcontrast.runs.run_folder import open_storage, read_experiment_file
from pixelcontrast.storage import Storage
from pixelcontrast.training.run_log import RunLog
from small_runs import attempt_row, metrics_row


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, in which the tests work."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(*, weights: str = "none", storage: str = "runs", root: str = "camvid") -> Experiment:
    data, model = Data(layout="camvid", root=root), Model(weights=weights)
    return Experiment(data=data, model=model, run=Run(name="street", storage=storage))


def test_home_is_expanded_in_every_setting_that_is_a_place(home: Path) -> None:
    made = experiment(weights="~/a.pth", storage="~/runs", root="~/data")
    assert made.model.weights == f"{home}/a.pth"
    assert made.run.storage == f"{home}/runs"
    assert made.data.root == f"{home}/data"
    changed = config.replace(experiment(), {"run.storage": "~/elsewhere"})
    assert changed.run.storage == f"{home}/elsewhere"


@pytest.mark.parametrize("key", ["run.storage", "data.root", "model.weights"])
def test_a_place_is_never_empty(key: str) -> None:
    with pytest.raises(ValueError, match="at least 1 character") as caught:
        config.replace(experiment(), {key: ""})
    assert config.explain(caught.value).startswith(f"{key}: ")


def test_a_home_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no home folder for ~nobody-of-this-name"):
        experiment(storage="~nobody-of-this-name/runs")


def write_run(settings: Experiment) -> None:
    """A run with a checkpoint, as far as its names tell."""
    run = open_storage(settings)
    log = RunLog(run, settings, step=0, attempt=attempt_row())
    log.add(metrics_row(1))
    log.close()
    run.write(f"{folder_of(1)}/manifest.json", b"{}")


@pytest.mark.parametrize("again", ["a.pth", "./a.pth", "~/a.pth", "{home}/a.pth"])
def test_a_run_is_resumed_however_its_weights_are_written(again: str, home: Path) -> None:
    write_run(experiment(weights="a.pth"))
    same = experiment(weights=again.format(home=home))
    check_resumable(open_storage(same), same)
    other = experiment(weights="b.pth")
    with pytest.raises(ValueError, match=r"model\.weights was '.*/a\.pth' and is now '.*/b\.pth'"):
        check_resumable(open_storage(other), other)


def test_a_changed_setting_is_refused_in_a_storage_below_home() -> None:
    write_run(experiment(storage="~/runs"))
    changed = config.replace(experiment(storage="~/runs"), {"optim.lr": 0.5})
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.01 and is now 0\.5"):
        check_resumable(open_storage(changed), changed)
    assert not Path("~").exists()


def test_locations_given_to_commands_and_functions_are_expanded(home: Path) -> None:
    write_run(experiment())
    assert Storage("~/runs/street").location == f"{home}/runs/street"
    assert read_experiment_file("~/runs/street/experiment.json") == experiment()


def test_the_command_shows_and_prepares_absolute_paths(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[Experiment] = []
    args = ["--data.root=~/data", "--run.storage", "runs", "--model.backbone", "resnet18"]
    with pytest.raises(SystemExit) as ended:
        main(experiment(), prepare=prepared.append, args=args)
    assert ended.value.code == 2
    assert f"{home}/data" in capsys.readouterr().err
    assert (prepared[0].data.root, prepared[0].run.storage) == (f"{home}/data", f"{home}/runs")


def test_a_place_named_through_the_folder_above_is_the_same_place(home: Path) -> None:
    (home / "experiments").mkdir()
    (home / "disk" / "runs").mkdir(parents=True)
    (home / "link").symlink_to(home / "disk" / "runs")
    assert config.absolute_path("experiments/../w.pth") == f"{home}/w.pth"
    assert config.absolute_path("experiments/../link/w.pth") == f"{home}/link/w.pth", "links stay"
    assert config.absolute_path("link/../w.pth") == f"{home}/disk/w.pth", "where the system opens it"
    assert Storage("disk/runs/..").name == "disk"
    assert not config.differences(experiment(weights="w.pth"), experiment(weights="experiments/../w.pth"))
