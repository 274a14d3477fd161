"""Questions are asked over HTTP, graded and joined with the ledger; what comes out is one document, table and plot."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tqdm import tqdm

from benchmarks.layers import plan
from benchmarks.layers.measure import Load, ask, document, graded
from benchmarks.layers.section import measure, plot, table
from benchmarks.load.child_stack import LayersError, Stack, forget, standin
from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan
from benchmarks.tasks.command import some
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Number, Task
from routing.learning.release import RELEASE_FILE, Release
from tests.benchmarks.layers.answers import N, ladder, measured, one

SUMS = [task for task in some(tasks(Split.TEST), 4, 0) if task.kind == "arithmetic"]


def right(task: Task) -> str:
    assert isinstance(task.verifier, Number)
    return str(int(task.verifier.value))


async def served(app: web.Application, do: Any) -> Any:
    async with TestServer(app) as server:
        return await do(str(server.make_url("")).rstrip("/"))


def test_answers_are_graded_in_the_order_of_the_questions_and_failures_are_wrong() -> None:
    seen: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        task = next(t for t in SUMS if t.prompt == body["messages"][-1]["content"])
        if task is SUMS[2]:
            return web.Response(status=503, text="busy")
        said = right(task) if task is not SUMS[1] else "no idea"
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for chunk in (
            {"choices": [{"delta": {"content": said}}]},
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "tierwise": {"request_id": task.id}},
        ):
            await reply.write(f"data: {json.dumps(chunk)}\n\n".encode())
        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    play = plan.Play("row")
    samples, wall_s = asyncio.run(served(app, lambda url: ask(url, play, SUMS, 2, tqdm(disable=True))))
    found = graded(SUMS, samples, {})
    assert [f.task for f in found] == [task.id for task in SUMS]
    assert [f.quality for f in found] == [1.0, 0.0, 0.0, 1.0]
    assert [f.e2e_s is None for f in found] == [False, False, True, False]
    assert all(f.done_s is None or 0 < f.done_s <= wall_s for f in found)
    assert {(body["model"], body["messages"][0]["role"], body["stream"]) for body in seen} == {("auto", "system", True)}


def test_a_release_is_laid_over_and_waited_for(tmp_path: Path) -> None:
    asked = 0

    async def metrics(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        path = tmp_path / RELEASE_FILE
        version = Release.model_validate_json(path.read_bytes()).stable.version if path.exists() and asked > 2 else 0
        return web.Response(text=f'tierwise_config_info{{hash="abc.r{version}"}} 1.0')

    app = web.Application()
    app.router.add_get("/metrics", metrics)

    async def change(url: str) -> None:
        await asyncio.to_thread(Stack(url, Path("profile.yaml"), tmp_path, {}).lay_over, plan.NO_GATE)

    asyncio.run(served(app, change))
    assert asked > 2
    assert Release.model_validate_json((tmp_path / RELEASE_FILE).read_bytes()).stable.overrides == plan.NO_GATE


def test_the_frontier_forgets_between_rows() -> None:
    posted = []

    async def reset(request: web.Request) -> web.Response:
        posted.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_post("/reset_prefix_cache", reset)
    asyncio.run(served(app, forget))
    assert posted == ["/reset_prefix_cache"]


def test_a_frontier_that_runs_already_is_not_measured_by_mistake() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LayersError, match=f"port {port} already"), standin({"standin": {"port": port}}):
            pass


def found() -> dict[str, Any]:
    grades = {f"task-{n}": float(n % 2) for n in range(N)}
    return document(ladder(), grades, Load(SUMS, SUMS[:1], 4))


def test_document_is_plain_and_its_rows_have_spreads() -> None:
    made = json.loads(json.dumps(found()))
    assert [row["row"] for row in made["rows"]][:2] == ["all frontier", "+ routing"]
    assert all(
        {"usd_spread", "accuracy_spread", "throughput_rps_spread", "rounds"} <= row.keys() for row in made["rows"]
    )
    assert made["tier1_accuracy"] == 0.5
    assert made["ceiling"]["kept_ratio"] == 0.5


def test_table_has_a_line_a_row_and_a_factor_and_a_sentence_a_claim() -> None:
    made = found()
    text = table(made)
    for name in (
        "all frontier",
        "+ routing",
        "+ gate",
        "+ prefix caching",
        "+ KV-aware replicas",
        "+ continuous batching",
    ):
        assert name in text
    assert "all layers" in text
    assert all(claim["sentence"] in text for claim in made["claims"])
    assert "0.505 (" in text


def test_unknown_prices_are_dashes() -> None:
    rows = measured(("all frontier", one), ("+ routing", lambda n: one(n, frontier_usd=None)))
    made = document(rows, {f"task-{n}": 1.0 for n in range(N)}, Load(SUMS, [], 4))
    line = next(line for line in table(made).splitlines() if line.startswith("+ routing"))
    assert " - + 0.000" in line


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_is_drawn(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"layers.{ending}"
    plot(found(), path)
    assert path.stat().st_size > 1000


def test_section_is_left_out_where_it_cannot_be_measured_and_refuses_a_running_stack(tmp_path: Path) -> None:
    assert "left out: its engines have real weights" in table(section(Plan(scratch=tmp_path, quick=True)))
    gpu = Plan(scratch=tmp_path, profile=Path("deploy/profiles/gpu-80g.yaml"))
    assert "stand-in frontier on this machine; it has none" in table(section(gpu))
    with pytest.raises(SystemExit, match="stacks of their own"):
        section(Plan(scratch=tmp_path, url="http://127.0.0.1:8000"))


def section(plan: Plan) -> dict[str, Any]:
    return measure(plan, Labs(plan))
