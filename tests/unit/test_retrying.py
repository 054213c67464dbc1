"""A study's database that is away for a while."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from pixelcontrast import Experiment, Search
from pixelcontrast.search import retrying
from studies import SPACE, Driver, states


class Outage:
    """Lets the next statements that are sent to any database fail, as if its server was away.

    Attributes:
        left: how many still will.
    """

    def __init__(self) -> None:
        self.left = 0
        event.listen(Engine, "before_cursor_execute", self._fail)

    def _fail(self, *_: Any) -> None:
        if self.left:
            self.left -= 1
            raise OperationalError("SELECT 1", {}, Exception("the server is gone\nat 10.0.0.1"))

    def end(self) -> None:
        event.remove(Engine, "before_cursor_execute", self._fail)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(retrying, "PAUSES_S", (0.0, 0.0, 0.0))
    outage = Outage()
    yield outage
    outage.end()


def test_a_search_outlives_a_database_that_is_away(
    experiment: Experiment, tmp_path: Path, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(experiment, Search(space=SPACE, trials=3, study=f"sqlite:///{tmp_path}/study.db"))
    proposal = driver.trials.next()
    assert proposal is not None
    outage.left = 3
    driver.end(proposal.number, 0.5)
    assert outage.left == 0
    assert states(driver.trials.all()) == ["COMPLETE"]
    assert driver.trials.all()[0].intermediate_values == {400: 0.5}
    assert "the study's database failed, next attempt in 0 s: " in caplog.text
    assert "10.0.0.1" not in caplog.text  # one line


def test_a_database_that_stays_away_is_an_error(tmp_path: Path, outage: Outage) -> None:
    storage = retrying.retrying(RDBStorage(f"sqlite:///{tmp_path}/study.db"))
    study = optuna.create_study(storage=storage)
    outage.left = 4
    with pytest.raises(StorageInternalError):
        study.set_user_attr("key", 1)
    assert outage.left == 0
