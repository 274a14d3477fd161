"""`/dashboard`: the page and its data.

The page holds no figure. The data need an admin key where keys are in use.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel

from routing.records import RequestRecord, Tier
from serving.access.budgets import Budgets
from serving.access.keys import KeyRing
from serving.artefacts.weights import ROOT
from serving.errors import Forbidden, InvalidRequest, LedgerUnavailable, NotFound, StackError
from serving.gateway.budget_routes import shown
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.replicas.tracker import ReplicaTracker
from serving.report.__main__ import Order
from serving.report.html import asset
from serving.request.tiers import EngineStats

RANGES: Mapping[str, timedelta | None] = {
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=31),
    "all": None,
}
REPORT_TTL_S = 10.0  # a report of a large ledger takes seconds of a core
REPORT_TIMEOUT_S = 300.0
STATS_TIMEOUT_S = 1.0
N_LATEST = 20
AUDIT_FILE = "audit.jsonl"  # of the registry, `python -m models history` prints it in full
AUDIT_TAIL_BYTES = 64 * 1024
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
ASSETS = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}

AskStats = Callable[[], Awaitable[EngineStats]]


@dataclass(slots=True)
class ReportCache:
    """Reports by range. Each is made in a child process, one at a time, and kept for ttl_s."""

    ledger: LedgerConfig
    ttl_s: float = REPORT_TTL_S
    _made: dict[str, tuple[float, str]] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def report(self, name: str) -> str:
        """The report of a range as JSON. Raises LedgerUnavailable."""
        async with self._lock:
            made_s, report = self._made.get(name, (0.0, ""))
            if not report or time.perf_counter() - made_s > self.ttl_s:
                length = RANGES[name]
                since = None if length is None else (datetime.now(UTC) - length).isoformat()
                report = await run_report(Order(ledger=self.ledger, since=since))
                self._made[name] = (time.perf_counter(), report)
            return report


async def run_report(order: Order) -> str:
    """One report from a child process, which ends with its caller. Raises LedgerUnavailable with its last message."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "serving.report",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(REPORT_TIMEOUT_S):
            out, told = await child.communicate(order.model_dump_json().encode())
    except TimeoutError as error:
        raise LedgerUnavailable(
            f"the report took longer than {REPORT_TIMEOUT_S:g} s; choose a shorter range"
        ) from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        words = told.decode(errors="replace").strip().splitlines()
        raise LedgerUnavailable(words[-1] if child.returncode == 2 and words else "the report could not be made")
    return out.decode()


@dataclass(frozen=True, slots=True)
class Live:
    """Where the page asks for the current state, which it shows beside the report."""

    keys: KeyRing
    budgets: Budgets
    engines: Mapping[Tier, AskStats]
    in_flight: Callable[[], int]
    trackers: Sequence[ReplicaTracker]
    registry: Path | None


def add_dashboard_routes(app: FastAPI, ledger: LedgerConfig, live: Live) -> None:
    """The page, its two files and its data."""
    router = APIRouter(include_in_schema=False)
    reports = ReportCache(ledger)

    @router.get("/dashboard")
    async def page() -> Response:
        """The empty page. It loads the data itself, and asks for a key where one is needed."""
        return Response(asset("page.html"), media_type="text/html; charset=utf-8", headers=HEADERS)

    @router.get("/dashboard/data")
    async def data(request: Request) -> Response:
        """Everything on the page."""
        if not live.keys.authenticate(request.headers.get("authorization")).admin:
            raise Forbidden("the dashboard needs an admin key")
        name = request.query_params.get("range", "week")
        if name not in RANGES:
            raise InvalidRequest(f"range is {name[:40]!r}; known: {', '.join(RANGES)}", param="range")
        now = DashboardNow(
            generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
            in_flight=live.in_flight(),
            engines=list(await asyncio.gather(*(engine(tier, ask) for tier, ask in live.engines.items()))),
            replicas=[replica for tracker in live.trackers for replica in tracked_replicas(tracker)],
            budgets=[shown(state) for state in await live.budgets.states()],
            promotions=await asyncio.to_thread(promotions, live.registry),
            latest=await asyncio.to_thread(latest, ledger),
        )
        body = f'{{"report":{await reports.report(name)},{now.model_dump_json()[1:]}'
        return Response(body, media_type="application/json", headers=HEADERS)

    @router.get("/dashboard/{name}")
    async def file(name: str) -> Response:
        """The page's style and script."""
        if name not in ASSETS:
            raise NotFound("no such path")
        return Response(asset(name), media_type=ASSETS[name], headers=HEADERS)

    app.include_router(router)


class DashboardNow(BaseModel):
    """The current state."""

    generated_at: str
    in_flight: int
    engines: list[dict[str, Any]]
    replicas: list[dict[str, Any]]
    budgets: list[dict[str, Any]]
    promotions: list[dict[str, Any]]
    latest: list[dict[str, Any]]


async def engine(tier: Tier, ask: AskStats) -> dict[str, Any]:
    """One engine's load, or an error code when it does not answer."""
    try:
        async with asyncio.timeout(STATS_TIMEOUT_S):
            stats = await ask()
    except StackError as error:
        return {"tier": tier, "error": error.code}
    except TimeoutError:
        return {"tier": tier, "error": "timeout"}
    asked = stats.prompt_tokens_queried
    return {"tier": tier, **asdict(stats), "prefix_hit_ratio": stats.prompt_tokens_cached / asked if asked else None}


def tracked_replicas(tracker: ReplicaTracker) -> list[dict[str, Any]]:
    """The queues that the choice of a replica goes by."""
    return [
        {
            "replica_id": replica.replica_id,
            "mode": replica.mode,
            "waiting": replica.load.waiting,
            "outstanding": replica.load.outstanding,
            "prefill_tokens_per_s": replica.load.speed.tokens_per_s,
        }
        for replica in tracker.replicas.values()
    ]


def promotions(registry: Path | None) -> list[dict[str, Any]]:
    """The newest steps of the registry's audit log, newest first. A line that is cut off is left out."""
    if registry is None:
        return []
    try:
        with (registry / AUDIT_FILE).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(log.tell() - AUDIT_TAIL_BYTES, 0))
            lines = log.read().splitlines()[-N_LATEST:]
    except OSError:
        return []  # nothing was promoted yet
    steps = []
    for line in reversed(lines):
        try:
            entry = json.loads(line)
            steps.append({name: entry.get(name) for name in ("at", "step", "version", "artefact", "reasons")})
        except (ValueError, AttributeError):
            continue
    return steps


def latest(ledger: LedgerConfig) -> list[dict[str, Any]]:
    """The latest requests, newest first."""
    reader = LedgerReader(ledger)
    try:
        return [summary(record) for record in reversed(reader.latest(N_LATEST))]
    finally:
        reader.close()


def summary(record: RequestRecord) -> dict[str, Any]:
    """One request as a line of the page. `verdict` holds the reasons of a rejection, empty when accepted."""
    return {
        "at": record.at,
        "tenant": record.tenant,
        "category": record.features.category if record.features else None,
        "served_tier": record.served_tier,
        "outcome": record.outcome,
        "decision": record.decision.reason if record.decision else None,
        "verdict": None if record.verdict is None else list(record.verdict.reasons),
        "cost_usd": record.cost_usd,
        "baseline_cost_usd": record.baseline_cost_usd,
    }
