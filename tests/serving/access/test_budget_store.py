"""Budgets in the database: the first to come reserves, in any process, and spend counts in the reservation's window."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from routing.cost.budget import Action, Budget, BudgetConfig, Period, Scope
from serving.access.budget_store import BudgetStore, Granted, Reserve, Settle
from serving.ledger.config import LedgerConfig
from serving.ledger.store import StorageDown, Store
from tests.serving.ledger.examples import ACCEPTED, ESCALATED

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BLUE = ((Scope.TENANT, "blue"),)
RACE = """
import json, sys
from datetime import UTC, datetime, timedelta
from routing.cost.budget import BudgetConfig, Scope
from serving.access.budget_store import BudgetStore, Reserve
from serving.ledger.config import LedgerConfig
store = BudgetStore(LedgerConfig(**json.loads(sys.argv[1])), BudgetConfig())
now = datetime.now(UTC)
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for number in range(50):
    one = Reserve(f"{sys.argv[2]}-{number}", ((Scope.TENANT, "blue"),), 1.0, 0.1, now + timedelta(minutes=5))
    granted += bool(store.apply([], [one], now)[0].holds)
print(json.dumps(granted))
"""


@pytest.fixture
def config(database: dict[str, Any]) -> LedgerConfig:
    config = LedgerConfig(**database)
    store = Store(config)
    store.migrate()
    store.insert([ACCEPTED, ESCALATED])
    store.dispose()
    return config


@pytest.fixture
def store(config: LedgerConfig) -> Iterator[BudgetStore]:
    store = BudgetStore(config, BudgetConfig())
    yield store
    store.close()


def budget(
    hard: float = 1.0, scope: Scope = Scope.TENANT, subject: str = "blue", period: Period = Period.DAY
) -> Budget:
    return Budget(scope=scope, subject=subject, period=period, hard_usd=hard)


def reserve(store: BudgetStore, name: str, usd: float = 0.6, now: datetime = NOW) -> Granted:
    (granted,) = store.apply([], [Reserve(name, BLUE, usd, 0.1, now + timedelta(minutes=5))], now)
    return granted


def used(store: BudgetStore, now: datetime = NOW) -> tuple[float, float]:
    (state,) = store.states(now)
    return state.spent_usd, state.reserved_usd


def test_reserves_until_what_is_used_reaches_the_limit(store: BudgetStore) -> None:
    store.put(budget(), NOW)
    first, second, third = (reserve(store, name) for name in "abc")
    assert (first.ruling.action, second.ruling.action, third.ruling.action) == (
        Action.ALLOW, Action.ALLOW, Action.REFUSE,
    )  # fmt: skip
    assert third.holds == ()
    assert used(store) == (0, pytest.approx(1.2))


def test_settling_frees_what_was_reserved_and_books_what_was_spent(store: BudgetStore) -> None:
    store.put(budget(), NOW)
    granted = reserve(store, "a", 5.0)
    assert reserve(store, "b").ruling.action is Action.REFUSE
    store.apply([Settle("a", granted.holds, 0.25)], [], NOW)
    assert used(store) == (0.25, 0)
    assert reserve(store, "c").ruling.action is Action.ALLOW


def test_one_request_is_held_against_every_budget_it_is_paid_from(store: BudgetStore) -> None:
    for limit in (budget(), budget(9, period=Period.MONTH), budget(9, Scope.KEY, "k1"), budget(9, subject="red")):
        store.put(limit, NOW)
    subjects = (*BLUE, (Scope.KEY, "k1"))
    (granted,) = store.apply([], [Reserve("a", subjects, 0.5, 0.1, NOW + timedelta(minutes=5))], NOW)
    assert len(granted.holds) == 3
    store.apply([Settle("a", granted.holds, 0.2)], [], NOW)
    spent = {(s.budget.subject, s.budget.period): s.spent_usd for s in store.states(NOW)}
    assert spent == {("blue", "day"): 0.2, ("blue", "month"): 0.2, ("k1", "day"): 0.2, ("red", "day"): 0}


def test_requests_of_one_batch_see_each_other(store: BudgetStore) -> None:
    """100 parallel requests on a budget for one."""
    store.put(budget(), NOW)
    asked = [Reserve(f"r{n}", BLUE, 1.0, 0.1, NOW + timedelta(minutes=5)) for n in range(100)]
    granted = store.apply([], asked, NOW)
    assert [bool(g.holds) for g in granted] == [True, *[False] * 99]


@pytest.mark.slow
def test_processes_see_each_other(database: dict[str, Any], store: BudgetStore) -> None:
    store.put(budget(1.0), datetime.now(UTC))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, json.dumps({**database, "busy_timeout_s": 30}), name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    granted = [json.loads(racer.communicate("go\n", timeout=60)[0]) for racer in racers]
    assert sum(granted) == 1
    assert used(store, datetime.now(UTC)) == (0, 1.0)


class TestClock:
    """Clock jump ±1 h, UTC midnight, month end."""

    def test_new_day_begins_with_nothing_spent(self, store: BudgetStore) -> None:
        store.put(budget(), NOW)
        store.put(budget(9, period=Period.MONTH), NOW)
        store.apply([Settle("a", reserve(store, "a").holds, 1.0)], [], NOW)
        tomorrow = NOW + timedelta(hours=12)
        spent = {state.budget.period: state.spent_usd for state in store.states(tomorrow)}
        assert spent == {Period.DAY: 0, Period.MONTH: 1.0}
        next_month = datetime(2026, 12, 1, tzinfo=UTC)
        assert {state.spent_usd for state in store.states(next_month)} == {0}

    def test_request_over_midnight_is_booked_on_the_day_it_was_let_in(self, store: BudgetStore) -> None:
        late = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
        store.put(budget(), late)
        granted = reserve(store, "a", now=late)
        assert granted.holds[0].starts == date(2026, 11, 22)
        store.apply([Settle("a", granted.holds, 0.4)], [], late + timedelta(seconds=5))
        assert used(store, late) == (0.4, 0)
        assert used(store, late + timedelta(seconds=5)) == (0, 0)

    @pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "back"])
    def test_clock_that_jumps_leaves_no_negative_and_no_lasting_reservation(
        self, store: BudgetStore, jump: timedelta
    ) -> None:
        store.put(budget(), NOW)
        granted = reserve(store, "a")
        store.apply([], [], NOW + jump)
        store.apply([Settle("a", granted.holds, 0.3)], [], NOW + jump)
        assert used(store, NOW + jump) == (0.3, 0)


def test_reservation_of_a_process_that_died_expires(store: BudgetStore) -> None:
    store.put(budget(), NOW)
    reserve(store, "a", 2.0)
    assert reserve(store, "b").ruling.action is Action.REFUSE
    later = NOW + timedelta(minutes=6)
    assert used(store, later) == (0, 0)
    assert reserve(store, "c", now=later).ruling.action is Action.ALLOW


def test_budget_set_in_the_middle_begins_with_what_the_ledger_has(store: BudgetStore) -> None:
    at = datetime(2026, 3, 1, 18, tzinfo=UTC)
    store.put(budget(1.0, period=Period.MONTH), at)
    (state,) = store.states(at)
    assert state.spent_usd == pytest.approx(0.0001203 + 0.0015203)


def test_changing_a_limit_keeps_what_was_spent(store: BudgetStore) -> None:
    store.put(budget(1.0), NOW)
    store.apply([Settle("a", reserve(store, "a").holds, 1.0)], [], NOW)
    store.put(budget(2.0), NOW)
    assert used(store) == (1.0, 0)
    assert store.remove(Scope.TENANT, "blue", Period.DAY)
    assert not store.remove(Scope.TENANT, "blue", Period.DAY)
    assert store.subjects() == frozenset()
    store.put(budget(2.0), NOW)
    assert used(store) == (1.0, 0)


def test_database_that_is_not_there_is_down_not_made(tmp_path: Path) -> None:
    store = BudgetStore(LedgerConfig(url=f"sqlite:///{tmp_path}/none.sqlite3"), BudgetConfig())
    with pytest.raises(StorageDown):
        store.states(NOW)
    assert not (tmp_path / "none.sqlite3").exists()
