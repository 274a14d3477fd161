"""`models drift` on a ledger: silent while the signals are as they were, an alarm by name when they shift."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.__main__ import main
from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.store import Store
from tests.serving.ledger.examples import ACCEPTED

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = ["--calibrated-since", "2026-03-01", "--calibrated-until", "2026-03-02"]


def rows(day: int, mean_logprob: float, n: int = 200) -> list[RequestRecord]:
    rng = random.Random(day)
    assert ACCEPTED.verdict is not None
    return [
        ACCEPTED.model_copy(
            update={
                "request_id": f"{day}-{i}",
                "at": (START + timedelta(days=day, minutes=i)).isoformat(timespec="microseconds"),
                "verdict": ACCEPTED.verdict.model_copy(update={"mean_logprob": mean_logprob - rng.random()}),
            }
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(("live", "status"), [(-0.1, 0), (-1.5, 1)], ids=["as before", "shifted"])
def test_shift_of_a_gate_signal_is_an_alarm(
    live: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    store = Store(LedgerConfig(url=url))
    store.migrate()
    store.insert([*rows(0, -0.1), *rows(1, live)])
    store.dispose()
    assert main(["drift", "--ledger", url, *WINDOW]) == status
    said = capsys.readouterr()
    assert ("mean_logprob (PSI" in said.err) == (status == 1)
    assert ("p_tier1_ok (PSI" in said.err) is False


def test_missing_ledger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "--ledger", f"sqlite:///{tmp_path}/none.sqlite3", *WINDOW]) == 1
    assert "no ledger" in capsys.readouterr().err
