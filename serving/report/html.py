"""Renders a report as one HTML file: the gateway's page with its style, its script and the data inside."""

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from routing.cost.savings import SavingsReport

PAGE = Path(__file__).parent / "page"
STYLE_LINK = '<link rel="stylesheet" href="/dashboard/page.css">'
SCRIPT_LINK = '<script src="/dashboard/page.js" defer></script>'


def asset(name: str) -> str:
    """The text of page.html, page.css or page.js."""
    return (PAGE / name).read_text("utf-8")


def render(report: SavingsReport, now: datetime | None = None) -> str:
    """HTML that may be mailed or kept. It sends no request, and nothing but its own script runs in it."""
    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    style, script = asset("page.css"), asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    data = as_script({"report": report.model_dump(mode="json"), "generated_at": at})
    page = asset("page.html")
    for link, inlined in (
        (STYLE_LINK, f"<style>{style}</style>"),
        (SCRIPT_LINK, f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>'),
        (
            '<meta charset="utf-8">',
            f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        ),
    ):
        assert link in page
        page = page.replace(link, inlined)
    return page


def as_script(value: JsonValue) -> str:
    """JSON that cannot end the script element that holds it."""
    return TypeAdapter(JsonValue).dump_json(value).decode().replace("<", "\\u003c")


def digest(text: str) -> str:
    """The name of an inlined text in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
