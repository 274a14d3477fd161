"""Canary, promotion, rollback: what serving is told at each step, and that a bad promotion does not stay."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.flywheel.monitor import LiveMargins, Turned, live_by_version, turned
from models.flywheel.registry import ArtefactManifest, Registry, RegistryInvalid
from models.flywheel.steps import finish, roll_back, start_canary, watch_release, with_adapter
from routing.ladder.policy import PolicyConfig
from routing.learning.labels import Pair
from routing.learning.release import marked
from routing.records import RequestOutcome, RequestRecord, Tier
from tests.serving.ledger.examples import ACCEPTED

MARGINS = LiveMargins(n_resamples=200)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "router.json").write_text(name)
        fields = {"name": name, "kind": "router", "at": "2026-03-01T00:00:00+00:00", "data_sha256": "0" * 64}
        overrides = {"policy": {"quality_target": 0.9}}
        registry.add(folder, ArtefactManifest.model_validate({**fields, "overrides": overrides}))
    return registry


def rows(
    version: int, n: int = 150, *, at_tier1: bool = True, good: float = 1.0, cost: float = 0.5, failed: float = 0.0
) -> tuple[list[RequestRecord], list[Pair]]:
    """Requests of a version with the grades of all."""
    records, pairs = [], []
    for i in range(n):
        bad = i < failed * n
        record = ACCEPTED.model_copy(
            update={
                "request_id": f"r{version}-{i}",
                "at": (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=i)).isoformat(timespec="microseconds"),
                "config_hash": marked("c0ffee", version),
                "served_tier": Tier.TIER1 if at_tier1 else Tier.FRONTIER,
                "cost_usd": cost * (0.9 + 0.2 * (i % 2)),
                "baseline_cost_usd": 1.0,
                "outcome": RequestOutcome.ERROR if bad else RequestOutcome.OK,
                "status": 500 if bad else 200,
            }
        )
        records.append(record)
        quality = float(i % 100 < 100 * good)
        pairs.append(
            Pair(id=record.request_id, category="chat", prompt=f"{i}", tier1_quality=quality, frontier_quality=1.0)
        )
    return records, pairs


def live(*versions: tuple[list[RequestRecord], list[Pair]]):
    return live_by_version([r for records, _ in versions for r in records], [p for _, ps in versions for p in ps])


def test_canary_then_everybody_then_back(registry: Registry) -> None:
    canary = start_canary(registry, "one", 0.2)
    assert (canary.stable.version, canary.canary_ratio) == (1, 0.2)
    assert canary.canary is not None
    assert canary.canary.overrides["policy"] == {
        "quality_target": 0.9,
        "artefact": str(registry.folder("one").resolve()),
    }
    assert registry.release() == canary
    assert finish(registry).stable == canary.canary
    second = start_canary(registry, "two", 1.0)
    assert (second.stable.version, second.stable.parent, second.canary) == (3, 2, None)
    assert roll_back(registry).stable.artefacts == {"router": "one"}
    assert roll_back(registry, to=1).stable.overrides == {}
    assert roll_back(registry, to=3).stable.artefacts == {"router": "two"}


def test_adapters_nobody_drafts_with_leave_the_release() -> None:
    both = with_adapter({"quality_target": 0.9}, "one", "/r/one", ["code", "math"])
    assert both["categories"] == {"code": {"adapter": "one"}, "math": {"adapter": "one"}}
    mixed = with_adapter(both, "two", "/r/two", ["code"])
    assert mixed["adapters"] == {"one": "/r/one", "two": "/r/two"}
    assert mixed["categories"] == {"code": {"adapter": "two"}, "math": {"adapter": "one"}}
    assert "categories" not in with_adapter(mixed, "three", "/r/3", [])
    held = {**mixed["categories"], "chat": {"hold": "off"}}
    everywhere = with_adapter({**mixed, "categories": held}, "three", "/r/3", [])
    assert everywhere["adapters"] == {"three": "/r/3"}
    assert everywhere["categories"] == {"chat": {"hold": "off"}}
    assert (everywhere["default_adapter"], everywhere["quality_target"]) == ("three", 0.9)
    PolicyConfig.model_validate(everywhere)


def test_rollback_of_a_canary_leaves_the_stable(registry: Registry) -> None:
    start_canary(registry, "one", 1.0)
    start_canary(registry, "two", 0.1)
    assert roll_back(registry).stable.artefacts == {"router": "one"}
    assert registry.release().canary is None
    assert start_canary(registry, "two", 0.1).canary.version == 4  # a number is never used twice


def test_steps_that_make_no_sense_are_refused(registry: Registry) -> None:
    with pytest.raises(RegistryInvalid, match="no canary"):
        finish(registry)
    with pytest.raises(RegistryInvalid, match="--to"):
        roll_back(registry)
    with pytest.raises(RegistryInvalid):
        roll_back(registry, to=99)


def test_bad_promotion_forced_by_hand_is_rolled_back_by_the_monitor(registry: Registry) -> None:
    start_canary(registry, "one", 1.0, reasons=("forced: I know better",))
    worse = live(rows(1, at_tier1=False, cost=1.0), rows(2, good=0.6, cost=0.3))
    assert watch_release(registry, worse, MARGINS) == "rolled_back"
    assert registry.release().stable.version == 1
    last = registry.history()[-1]
    assert (last.step, last.reasons) == ("rolled_back", ("live_quality",))
    assert last.detail["quality"] == pytest.approx(110 / 150, abs=0.001)


def test_good_canary_is_promoted_and_a_costly_one_rolled_back(registry: Registry) -> None:
    start_canary(registry, "one", 0.3)
    assert watch_release(registry, live(rows(1, cost=0.8), rows(2, cost=0.5)), MARGINS) == "promoted"
    start_canary(registry, "two", 0.3)
    assert watch_release(registry, live(rows(2, cost=0.5), rows(3, cost=0.9)), MARGINS) == "rolled_back"
    assert registry.release().stable.version == 2


def test_nothing_is_done_on_little_evidence(registry: Registry) -> None:
    start_canary(registry, "one", 0.3)
    assert watch_release(registry, live(rows(1, 40), rows(2, 40, good=0.0)), MARGINS) is None
    assert watch_release(registry, live(rows(1)), MARGINS) is None


@pytest.mark.parametrize(
    ("after", "what"),
    [
        ({}, ()),
        ({"good": 0.98}, ()),
        ({"good": 0.7}, (Turned.QUALITY,)),
        ({"cost": 0.55}, ()),
        ({"cost": 0.8}, (Turned.COST,)),
        ({"failed": 0.2}, (Turned.FAILURES,)),
        ({"good": 0.5, "cost": 0.9}, (Turned.QUALITY, Turned.COST)),
    ],
)
def test_turned_when_surely_worse_by_more_than_the_margin(after: dict[str, float], what: tuple[Turned, ...]) -> None:
    seen = live(rows(1), rows(2, **after))  # type: ignore[arg-type]
    assert turned(seen[1], seen[2], MARGINS) == what


def test_quality_nobody_graded_says_nothing() -> None:
    before, after = rows(1), rows(2, good=0.0)
    seen = live((before[0], []), (after[0], []))
    assert turned(seen[1], seen[2], MARGINS) == ()
