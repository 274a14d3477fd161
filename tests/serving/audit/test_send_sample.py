"""Generated traffic goes to this machine alone, and every answer is a line that the audit can read."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.audit.example_log import lines
from serving.audit.send_sample import send_all
from serving.errors import AuditError
from tests.serving.audit.audit_logs import report


class Answers(BaseHTTPRequestHandler):
    """A stack that answers every second request and is too busy for the others."""

    seen: list[dict[str, object]]
    looks: list[str]
    never_ready: bool

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        busy = len(self.seen) % 2 == 0
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        answer = {"error": {"message": "busy"}} if busy else {"model": "tier1", "usage": usage}
        raw = json.dumps(answer).encode()
        self.send_response(429 if busy else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        """/readyz: the frontier comes up after the first question."""
        self.looks.append(self.path)
        ready = len(self.looks) > 1 and not self.never_ready
        raw = json.dumps({"tiers": {"tier1": "ok", "frontier": "ok" if ready else "frontier_unavailable"}}).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def stack() -> Iterator[str]:
    Answers.seen, Answers.looks, Answers.never_ready = [], [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5)


def test_each_answer_is_a_line_of_a_log(stack: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    options = ["--requests", "10", "--send", stack, "--concurrency", "1", "--max-tokens", "7", "--out", str(log)]
    assert main(["audit-log", *options]) == 0
    assert [body["max_tokens"] for body in Answers.seen] == [7] * 10
    found = report(log)
    assert (found.totals.requests, found.totals.failed, found.bad_rows["count"]) == (10, 5, 0)
    assert found.totals.input_tokens == 50


def test_nothing_is_sent_before_every_tier_is_ready(stack: str, tmp_path: Path) -> None:
    send_all(lines(2, 1.0, 0), stack, tmp_path / "log.jsonl", 2, 1, 4)
    assert Answers.looks == ["/readyz", "/readyz"]
    assert len(Answers.seen) == 2


def test_a_tier_that_never_comes_up_is_named(stack: str, tmp_path: Path) -> None:
    Answers.never_ready = True
    with pytest.raises(AuditError, match="frontier_unavailable"):
        send_all(lines(2, 1.0, 0), stack, tmp_path / "log.jsonl", 2, 1, 4, ready_within_s=0.1)
    assert Answers.seen == []


@pytest.mark.parametrize("url", ["http://api.example.com", "http://10.0.0.7:8000", "http://127.0.0.1.example.com"])
def test_traffic_for_another_machine_is_refused(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit-log", "--requests", "1", "--send", url, "--out", str(tmp_path / "log.jsonl")]) == 2
    assert "this machine alone" in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists()
