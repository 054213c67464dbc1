"""The command line of an experiment's file: its verbs, their options, and what is refused."""

import pytest

from pixelcontrast import Data, Experiment, Run, Search, main, uniform
from pixelcontrast.cli.verbs import parse_command

EXPERIMENT = Experiment(data=Data(layout="camvid", root="camvid"), run=Run(name="street"))
SEARCH = Search(
    space={"contrast.temperature": uniform(0.05, 0.5)}, arms={"ce": {"contrast.weight": 0.0}, "contrast": {}}
)


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["street.py"])


@pytest.mark.parametrize("args", ["", "train"])
def test_a_command_without_options_is_the_file_s_own(args: str) -> None:
    command = parse_command(EXPERIMENT, SEARCH, args=args.split())
    assert (command.verb, command.experiment, command.search) == ("train", EXPERIMENT, SEARCH)


def test_settings_need_no_verb() -> None:
    command = parse_command(EXPERIMENT, SEARCH, args=["--run.name", "search", "--optim.steps", "10"])
    assert command.verb == "train"
    assert (command.experiment.run.name, command.experiment.optim.steps) == ("search", 10)


def test_a_search_and_the_experiment_are_changed_side_by_side() -> None:
    args = "search --trials 8 --objectives miou seconds_per_step --optim.steps 10 --run.workers 2"
    command = parse_command(EXPERIMENT, SEARCH, args=args.split())
    assert command.verb == "search"
    assert command.search.trials == 8
    assert command.search.objectives == ("miou", "seconds_per_step")
    assert (command.search.space, command.search.known, command.search.arms) == (
        SEARCH.space,
        SEARCH.known,
        SEARCH.arms,
    )
    assert command.experiment.optim.steps == 10


@pytest.mark.parametrize(
    ("args", "arms", "seeds"),
    [
        ("compare", (), (0, 1, 2)),
        ("compare --seeds 4", (), (4,)),
        ("compare ce contrast --seeds 0 1 --optim.steps 10", ("ce", "contrast"), (0, 1)),
        ("compare --optim.steps 10 ce", ("ce",), (0, 1, 2)),
    ],
)
def test_arms_are_named_or_all(args: str, arms: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    command = parse_command(EXPERIMENT, SEARCH, args=args.split())
    assert (command.verb, command.arms, command.search.seeds) == ("compare", arms, seeds)


def test_the_file_may_say_how_many_trials() -> None:
    search = Search(space=SEARCH.space, trials=3)
    assert parse_command(EXPERIMENT, search, args=["search"]).search.trials == 3


def refusal(args: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(EXPERIMENT, search=SEARCH, args=args.split())
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("search --trials 0", "--trials: Input should be greater than or equal to 1 (got 0)\n"),
        ("compare --seeds 1 1", "--seeds: one or more different values are needed (got (1, 1))\n"),
        (
            "compare --max-failures -1",
            "--max-failures: Input should be greater than or equal to 0 (got -1)\n",
        ),
        ("compare hard", "there is no arm hard; the experiment's file has ce, contrast\n"),
        (
            "serach --trials 2",
            "serach: no such command; there are train, search, compare, each with --help\n",
        ),
    ],
)
def test_a_mistake_is_one_line(args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(args, capsys) == message


@pytest.mark.parametrize(
    ("args", "option"),
    [
        ("search", "--trials"),
        ("search --trials 2 --sampler grid", "--sampler"),
        ("--trials 2", "--trials"),
        ("search --trials 2 --seeds 1", "--seeds"),
        ("compare --trials 2", "--trials"),
    ],
)
def test_an_option_that_is_missing_or_not_the_verb_s_is_named(
    args: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert option in refusal(args, capsys)


@pytest.mark.parametrize(
    ("verb", "own"), [("search", ["--trials", "--objectives", "--study"]), ("compare", ["ARM", "--seeds"])]
)
def test_a_verb_s_help_has_its_own_options_before_the_settings(
    verb: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(EXPERIMENT, search=SEARCH, args=[verb, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    places = [
        shown.index(text) for text in [f"street.py {verb}", *own, "--data.root", "--contrast.temperature"]
    ]
    assert places == sorted(places)


def test_the_file_s_help_has_its_verbs_and_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(EXPERIMENT, search=SEARCH, description="A street.", args=["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(text) for text in ("A street.", "  train ", "  search --trials N", "  compare ")]
    assert places == sorted(places)
    assert "--contrast.temperature" in shown


def test_what_prepares_the_data_is_told_the_changed_experiment_and_may_refuse_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def prepare(experiment: Experiment) -> None:
        raise ValueError(f"{experiment.data.root} holds other data")

    with pytest.raises(SystemExit) as ended:
        main(EXPERIMENT, prepare=prepare, args=["--data.root", "/elsewhere"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "/elsewhere holds other data\n"
