"""Options of a search on the command line of an experiment's file."""

import pytest

from pixelcontrast import Data, Experiment, Run, Search, main, uniform
from pixelcontrast.cli.options import parse_command

EXPERIMENT = Experiment(data=Data(layout="camvid", root="camvid"), run=Run(name="street"))
SEARCH = Search(
    space={"contrast.temperature": uniform(0.05, 0.5)}, arms={"ce": {"contrast.weight": 0.0}, "contrast": {}}
)


def test_a_command_without_options_is_the_file_s_own() -> None:
    command = parse_command(EXPERIMENT, SEARCH, args=[])
    assert (command.experiment, command.search, command.arms) == (EXPERIMENT, SEARCH, None)


def test_a_search_and_the_experiment_are_changed_side_by_side() -> None:
    args = "--search.trials 8 --search.objectives miou seconds_per_step --optim.steps 10 --run.workers 2"
    command = parse_command(EXPERIMENT, SEARCH, args=args.split())
    assert command.search.trials == 8
    assert command.search.objectives == ("miou", "seconds_per_step")
    assert (command.search.space, command.search.known, command.search.arms) == (
        SEARCH.space,
        SEARCH.known,
        SEARCH.arms,
    )
    assert command.experiment.optim.steps == 10


@pytest.mark.parametrize(
    ("args", "arms"), [("--search.arms", ()), ("--search.arms ce", ("ce",)), ("--search.seeds 4", None)]
)
def test_arms_are_all_some_or_none(args: str, arms: tuple[str, ...] | None) -> None:
    assert parse_command(EXPERIMENT, SEARCH, args=args.split()).arms == arms


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--search.trials 0", "search.trials: Input should be greater than or equal to 1 (got 0)"),
        (
            "--search.seeds 1 1 --search.arms",
            "search.seeds: one or more different values are needed (got (1, 1))",
        ),
        ("--search.trials 2 --search.arms", "--search.trials searches the space and --search.arms compares"),
        ("--search.seed 3", "options of --search need --search.trials N, to search, or --search.arms"),
        ("--search.sampler grid", "--search.sampler"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    args: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["street.py", *args.split()])
    with pytest.raises(SystemExit) as ended:
        main(EXPERIMENT, search=SEARCH)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_what_prepares_the_data_is_told_the_changed_experiment_and_may_refuse_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(experiment: Experiment) -> None:
        raise ValueError(f"{experiment.data.root} holds other data")

    monkeypatch.setattr("sys.argv", ["street.py", "--data.root", "elsewhere"])
    with pytest.raises(SystemExit) as ended:
        main(EXPERIMENT, prepare=prepare)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "elsewhere holds other data\n"
