"""Requests generated from our own OpenAPI document, right and wrong ones: none is answered by a bug."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from routing.records import RequestedModel
from tests.journey.gateway import Gateway

CHAT, COMPLETIONS, MODEL = "/v1/chat/completions", "/v1/completions", "/v1/models/{name}"
FEEDBACK = "/v1/feedback"
# Enough of each to reach past the door; the operations without input have one case.
EXAMPLES: dict[tuple[str, GenerationMode], int] = {
    (CHAT, GenerationMode.POSITIVE): 500,
    (CHAT, GenerationMode.NEGATIVE): 250,
    (COMPLETIONS, GenerationMode.POSITIVE): 1500,
    (COMPLETIONS, GenerationMode.NEGATIVE): 1000,
    (MODEL, GenerationMode.POSITIVE): 1650,
    (FEEDBACK, GenerationMode.POSITIVE): 50,
    (FEEDBACK, GenerationMode.NEGATIVE): 50,
    ("/v1/models", GenerationMode.POSITIVE): 1,
    ("/healthz", GenerationMode.POSITIVE): 1,
    ("/readyz", GenerationMode.POSITIVE): 1,
    ("/metrics", GenerationMode.POSITIVE): 1,
}
# Laid over many of the cases: a generated model is not one of ours, a generated conversation rarely makes sense.
MODELS = st.sampled_from([model.value for model in RequestedModel])
KNOWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {"model": MODELS, "messages": st.just([{"role": "user", "content": "hello there"}])},
    COMPLETIONS: {"model": MODELS, "prompt": st.just("once upon a time")},
}
LEAST_CASES = 5000
LEAST_ANSWERED = 200
BUG = re.compile(r"Traceback|internal_error|File \\?\"|\.py\b")


def play(
    document: dict[str, object], examples: dict[tuple[str, GenerationMode], int], check: Callable[[Case], None]
) -> None:
    """Generate the cases of every operation and check each; the same ones every time."""
    operations = {o.ok().path: o.ok() for o in schemathesis.openapi.from_dict(document).get_all_operations()}
    assert set(operations) == {path for path, _ in examples}, "an operation without examples"
    for (path, mode), n in examples.items():
        cases = operations[path].as_strategy(generation_mode=mode)

        @settings(
            max_examples=n,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, known=st.fixed_dictionaries({}, optional=KNOWN.get(path, {})))
        def run(case: Case, known: dict[str, Any]) -> None:
            if isinstance(case.body, dict):
                case.body |= known
            check(case)

        run()


def assert_no_bug(case: Case, status: int, content_type: str, text: str) -> None:
    """Not our fault, and said as OpenAI says it."""
    assert status < 500, (status, text, case.body)
    assert not BUG.search(text), (text, case.body)
    if status >= 400 and case.path.startswith("/v1/"):
        assert content_type == "application/json"
        body = json.loads(text)
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
        assert body["error"]["type"].endswith("_error")


@pytest.mark.timeout(900)
async def test_no_generated_request_is_answered_by_a_bug(g: Gateway) -> None:
    """Never a 5xx, every refusal in OpenAI's shape, no stack trace."""
    document = (await g.http.get("/openapi.json")).json()
    statuses: Counter[int] = Counter()
    with requests.Session() as session:

        def check(case: Case) -> None:
            reply = case.call(base_url=g.url, session=session, timeout=60)
            statuses[reply.status_code] += 1
            (content_type,) = reply.headers["content-type"]
            assert_no_bug(case, reply.status_code, content_type, reply.text)

        await asyncio.to_thread(play, document, EXAMPLES, check)
    assert statuses.total() >= LEAST_CASES, statuses
    assert statuses[200] >= LEAST_ANSWERED, statuses
    assert {400, 404} <= set(statuses), statuses
    assert all(row.status < 500 for row in g.rows)


@pytest.mark.parametrize(
    "body", ['{"error": "Traceback (most recent call last)"}', '{"detail": "no"}', '{"error": {"message": ""}}']
)
def test_check_sees_a_bug(body: str) -> None:
    """What the property would say of a wrong answer."""
    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {CHAT: {"post": {"responses": {"200": {"description": "ok"}}}}},
    }
    with pytest.raises(AssertionError):
        play(
            document,
            {(CHAT, GenerationMode.POSITIVE): 1},
            lambda case: assert_no_bug(case, 400, "application/json", body),
        )
