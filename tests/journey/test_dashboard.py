"""The dashboard: nobody sees a figure without an admin key, and every figure on the page is the ledger's."""

import json
import os
import re
from collections.abc import AsyncGenerator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from routing.cost.savings import SavingsConfig
from serving.access.keys import new_key
from serving.ledger.export import export_jsonl
from serving.report.html import digest, render
from serving.report.read import savings_report
from tests.journey.browser import CHROMIUM, browser
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import error, ok

DOCS = Path(__file__).resolve().parents[2] / "deploy" / "docs"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
PROMPTS = ["hello there", "write a python function that adds", "what is 12 * 7?", "translate to German: good day"]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1100, "height": 1150}


async def traffic(g: Gateway) -> None:
    """Kept drafts, escalations, frontier answers, a failure."""
    for number in range(24):
        if number % 4 == 1:
            g.tier1.script(Draft(text=""))
        g.upstream.script(ok("the frontier says so " * (1 + number % 3), input_tokens=200, cached_tokens=50))
        model = "frontier" if number % 6 == 5 else "auto"
        reply = await g.chat(PROMPTS[number % 4], model=model, headers={"x-session-id": f"s{number // 2}"})
        assert reply.status_code == 200
        g.upstream.always(g.upstream.default)
    g.upstream.script(error(400))
    assert (await g.chat("refused", model="frontier")).status_code == 400
    await g.row(24)
    assert g.stack.ledger.flush()


def at(data: Any, key: str) -> Any:
    """The value that a data-key names."""
    for part in key.split("/"):
        if data is None:
            return None
        data = data[int(part)] if isinstance(data, list) else data.get(part)
    return data


def ratio(part: float, of: float) -> float | None:
    return part / of if of else None


def derived(report: dict[str, Any], key: str) -> Any:
    """The few figures that the page divides itself; their keys begin with '='."""
    path, _, name = key[1:].rpartition(".")
    if name == "ratio":
        return ratio(report["total"][path.rpartition(".")[2]], report["total"]["cost_usd"])
    group = at(report, path)
    if name == "prefix_hit_ratio":
        return ratio(group["cached_tokens"], group["input_tokens"])
    answered = sum(group["served"].values())
    return {
        "tier1_ratio": ratio(group["served"].get("tier1", 0), answered),
        "answered": answered,
        "escalation_rate": ratio(group["escalated"], group["judged"]),
    }[name]


def read_number(text: str) -> float | None:
    """What a reader takes from the text of a figure."""
    if text in ("–", "not measured"):
        return None
    number = float(re.sub(r"[^0-9.]", "", text)) * (-1 if text.startswith("−") else 1)
    return number / 100 if text.endswith("%") else number


FIGURES = """() => [...document.querySelectorAll("[data-key]")].map(
  (e) => ({key: e.dataset.key, value: e.dataset.value, text: e.textContent.trim()}))"""


def assert_figures(figures: list[dict[str, str]], report: dict[str, Any], data: dict[str, Any]) -> None:
    """Each value is the report's to the last digit, and each text says it to the digits it has."""
    seen = set()
    for figure in figures:
        key, text = figure["key"], figure["text"]
        if key.startswith("="):
            expected = derived(report, key)
        else:
            expected = at(
                data if key.partition("/")[0] in ("engines", "replicas", "promotions", "budgets", "latest") else report,
                key,
            )
        expected = 0 if expected is None and key.startswith("total/served/") else expected
        shown = float(figure["value"]) if figure["value"] else None
        assert shown == (None if expected is None else pytest.approx(expected, rel=1e-15, abs=0)), key
        read = read_number(text)
        near = {"rel": 6e-3, "abs": 1e-9} if "$" in text else {"rel": 0, "abs": 6e-4}
        assert read == (None if expected is None else pytest.approx(expected, **near)), (key, text)
        seen.add(key)
    for field in ("total/cost_usd", "total/saved_usd/value", "total/layers/gate/value", "total/baseline_usd"):
        assert field in seen
    for groups in ("by_tenant", "by_category", "by_day"):
        assert {f"{groups}/{name}/cost_usd" for name in report[groups]} <= seen


def the_ledgers(g: Gateway) -> dict[str, Any]:
    """The report as this process computes it from the ledger."""
    return json.loads(savings_report(g.reader, SavingsConfig()).model_dump_json())


PROMOTED = """{"at": "2026-11-20T10:00:00+00:00", "step": "added", "artefact": "router-2", "version": null}
{"at": "2026-11-21T10:00:00+00:00", "step": "promoted", "artefact": "router-2", "version": 2, "reasons": ["better"]}
"""


@pytest.fixture
async def busy(start: StartGateway, tmp_path: Path) -> AsyncGenerator[Gateway, None]:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "audit.jsonl").write_text(PROMOTED + '{"at": "2026-1', encoding="utf-8")
    async with start(promotion={"registry": str(tmp_path / "registry")}) as g:
        await traffic(g)
        yield g


# The data


async def test_data_are_the_ledgers_report(busy: Gateway) -> None:
    reply = await busy.http.get("/dashboard/data", params={"range": "all"})
    assert reply.status_code == 200
    report = reply.json()["report"]
    assert report == the_ledgers(busy)
    out = BytesIO()
    export_jsonl(busy.reader, out)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert report["total"]["requests"] == len(rows) == 25
    assert report["total"]["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-9)
    assert [line["at"] for line in reply.json()["latest"]] == [row["at"] for row in reversed(rows[-20:])]


async def test_report_is_kept_for_a_moment_and_made_once(busy: Gateway) -> None:
    first = (await busy.http.get("/dashboard/data")).json()["report"]
    await busy.chat("one more")
    assert busy.stack.ledger.flush()
    again = (await busy.http.get("/dashboard/data")).json()
    assert again["report"] == first
    assert again["latest"][0]["tenant"] == "local"


async def test_promotions_are_the_registrys_newest_first(busy: Gateway) -> None:
    steps = (await busy.http.get("/dashboard/data")).json()["promotions"]
    assert [(step["step"], step["version"], step["reasons"]) for step in steps] == [
        ("promoted", 2, ["better"]),
        ("added", None, None),
    ]


@pytest.mark.parametrize("name", ["year", "", "day;drop", "x" * 10_000])
async def test_unknown_range_is_named(g: Gateway, name: str) -> None:
    reply = await g.http.get("/dashboard/data", params={"range": name})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "range")


async def test_figures_need_an_admin_key(start: StartGateway, tmp_path: Path) -> None:
    """Non-admin key on admin routes. Admin key in query string."""
    (blue, one), (admin, other) = new_key("blue"), new_key("operators", admin=True)
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json") for entry in (one, other)]}))
    async with start(gateway={"keys_file": str(keys)}) as g:
        assert g.stack.ledger.wait_up(5)

        async def status(key: str | None = None, **query: str) -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return (await g.http.get("/dashboard/data", headers=headers, params=query)).status_code

        assert await status() == 401
        assert await status(blue) == 403
        assert await status(api_key=admin) == 401
        assert await status(admin) == 200
        page = await g.http.get("/dashboard")
        assert page.status_code == 200
        assert "data-key" not in page.text


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/page.js", "/dashboard/page.css", "/dashboard/data"])
async def test_page_runs_nothing_but_its_own_script(g: Gateway, path: str) -> None:
    assert g.stack.ledger.wait_up(5)
    headers = (await g.http.get(path)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/dashboard/page.html", "/dashboard/../metrics2", "/dashboard/x"])
async def test_folder_of_the_page_is_not_served(g: Gateway, path: str) -> None:
    assert (await g.http.get(path)).status_code == 404


# The page


@pytest.mark.slow
@needs_chromium
async def test_every_figure_on_the_page_is_the_ledgers(busy: Gateway, tmp_path: Path, shoot: Any) -> None:
    await busy.http.put(
        "/admin/budgets", json={"scope": "tenant", "subject": "local", "period": "month", "hard_usd": 5, "soft_usd": 4}
    )
    async with browser(tmp_path / "profile", viewport=DESK, color_scheme="light") as page:
        foreign, errors = watch(page, busy.url)
        await page.goto(f"{busy.url}/dashboard")
        await page.wait_for_selector("main[data-state=ready]")
        await page.select_option("#range", "all")
        await page.wait_for_selector("main[data-state=ready]")
        data = (await busy.http.get("/dashboard/data", params={"range": "all"})).json()
        figures = await page.evaluate(FIGURES)
        assert_figures(figures, the_ledgers(busy), data)
        assert {figure["key"] for figure in figures} >= {
            "engines/0/running",
            "budgets/0/hard_usd",
            "latest/0/cost_usd",
            "by_replica/r0/attempts",
            "promotions/0/version",
        }
        await shoot(page, "dashboard-light")
        light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.emulate_media(color_scheme="dark")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        await shoot(page, "dashboard-dark")
        assert (foreign, errors) == ([], [])


@pytest.mark.slow
@needs_chromium
async def test_states_of_the_page(start: StartGateway, tmp_path: Path, shoot: Any) -> None:
    """Asking for the key, a wrong one, loading, nothing yet, and a ledger that is away."""
    (_, one), (admin, other) = new_key("blue"), new_key("operators", admin=True)
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json") for entry in (one, other)]}))
    async with (
        start(gateway={"keys_file": str(keys)}) as g,
        browser(tmp_path / "profile", viewport=PHONE, color_scheme="light") as page,
    ):
        assert g.stack.ledger.wait_up(5)
        await page.goto(f"{g.url}/dashboard")
        await page.wait_for_selector("main[data-state=key]")
        assert await page.evaluate("document.activeElement.id") == "key"
        await page.keyboard.type("tw-wrong")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=That key is not known")
        await page.keyboard.type(admin)
        await page.route("**/dashboard/data*", lambda route: None)  # the answer is on its way
        await page.keyboard.press("Enter")
        await page.wait_for_selector("main[data-state=loading]")
        await page.unroute("**/dashboard/data*")
        await page.select_option("#range", "day")
        await page.wait_for_selector("main[data-state=empty]")
        assert "No requests in this range" in await page.inner_text("main")
        await shoot(page, "dashboard-empty")
        os.unlink(str(g.stack.ledger.config.sqlite_path))
        await page.select_option("#range", "month")
        await page.wait_for_selector("main[data-state=error]")
        assert "no ledger" in await page.inner_text("[role=alert]")
        await shoot(page, "dashboard-error")


@pytest.mark.slow
@needs_chromium
async def test_phone_scrolls_down_and_not_sideways(busy: Gateway, tmp_path: Path, shoot: Any) -> None:
    async with browser(tmp_path / "profile", viewport=PHONE, color_scheme="dark") as page:
        await page.goto(f"{busy.url}/dashboard")
        await page.wait_for_selector("main[data-state=ready]")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        await shoot(page, "dashboard-phone")


@pytest.mark.slow
@needs_chromium
async def test_written_page_shows_the_same_figures_and_asks_nobody(busy: Gateway, tmp_path: Path) -> None:
    report = savings_report(busy.reader, SavingsConfig(kernel_speedup=1.5))
    written = tmp_path / "report.html"
    written.write_text(render(report), encoding="utf-8")
    async with browser(tmp_path / "profile", viewport=DESK) as page:
        foreign, errors = watch(page, written.as_uri())
        await page.goto(written.as_uri())
        await page.wait_for_selector("main[data-state=ready]")
        data = json.loads(report.model_dump_json())
        assert_figures(await page.evaluate(FIGURES), data, {})
        assert (foreign, errors) == ([], [])


@pytest.mark.slow
@needs_chromium
async def test_tenant_with_a_script_for_a_name_is_a_name(g: Gateway, tmp_path: Path) -> None:
    await g.chat()
    row = await g.row()
    name = "</script><img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    g.stack.ledger.record(row.model_copy(update={"request_id": "x", "tenant": name}))
    assert g.stack.ledger.flush()
    written = tmp_path / "report.html"
    written.write_text(render(savings_report(g.reader, SavingsConfig())), encoding="utf-8")
    async with browser(tmp_path / "profile", viewport=DESK) as page:
        for where in (f"{g.url}/dashboard", written.as_uri()):
            await page.goto(where)
            await page.wait_for_selector("main[data-state=ready]")
            assert name in await page.inner_text("main")
            assert await page.title() != "broken"


def test_written_page_names_its_script_and_style_by_hash(tmp_path: Path) -> None:
    page = render(savings_report_of_nothing())
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert digest(text) in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


def savings_report_of_nothing() -> Any:
    from routing.cost.savings import SavingsBook

    return SavingsBook((), SavingsConfig()).report()


def watch(page: Any, home: str) -> tuple[list[str], list[str]]:
    """Requests that leave for elsewhere, and errors of the page (a refused script or style is one)."""
    foreign: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((home, "data:")) else foreign.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    return foreign, errors


@pytest.fixture
def shoot() -> Callable[..., Any]:
    """Keep a picture for the documents when TIERWISE_GOLDEN=1."""

    async def take(page: Any, name: str) -> None:
        if os.environ.get("TIERWISE_GOLDEN") == "1":
            await page.screenshot(path=DOCS / f"{name}.png")

    return take
