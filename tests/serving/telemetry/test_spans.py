"""A settled request as spans: their names, times and parents, what is in them and what is not."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from routing.records import AttemptKind, AttemptOutcome, RequestOutcome, RequestRecord
from serving.config import StackConfig
from serving.errors import ConfigInvalid
from serving.telemetry.spans import SpanFacts, Spans, TracesConfig, request_spans
from tests.serving.ledger.examples import ACCEPTED, DRAFT, ESCALATED, FAILED
from tests.serving.ledger.records import anything

SENT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=1"}
NOT_SAMPLED = {"traceparent": SENT["traceparent"][:-1] + "0"}


@pytest.fixture
def memory() -> Iterator[tuple[Spans, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter))
    yield spans, exporter
    spans.close()


def spans_of(row: RequestRecord) -> list[SpanFacts]:
    return request_spans(row, [attempt.model for attempt in row.attempts])


def by_name(row: RequestRecord) -> dict[str, SpanFacts]:
    return {span.name: span for span in spans_of(row)}


# What a request is made of


def test_escalated_request_is_route_draft_verdict_and_frontier() -> None:
    spans = spans_of(ESCALATED)
    assert [(span.name, span.parent) for span in spans] == [
        ("chat auto", None), ("route", None), ("verdict", None), ("router", "route"), ("draft", None),
        ("frontier", None),
    ]  # fmt: skip


def test_stations_follow_each_other_in_time() -> None:
    spans = by_name(ESCALATED)
    assert spans["route"].start_s == spans["router"].start_s
    assert spans["route"].end_s == spans["draft"].start_s
    assert spans["verdict"].start_s == spans["draft"].end_s
    assert spans["frontier"].end_s == pytest.approx(ESCALATED.duration_s)


def test_signal_that_the_gate_bought_lies_in_its_verdict() -> None:
    judge = DRAFT.model_copy(update={"kind": AttemptKind.JUDGE, "started_s": 0.64, "duration_s": 0.01})
    row = ACCEPTED.model_copy(update={"attempts": (*ACCEPTED.attempts, judge)})
    spans = by_name(row)
    assert spans["judge"].parent == "verdict"
    assert spans["verdict"].end_s == spans["judge"].end_s


def test_request_that_a_rule_decided_has_a_route_of_no_length() -> None:
    row = ACCEPTED.model_copy(update={"attempts": (DRAFT,)})
    route = by_name(row)["route"]
    assert route.start_s == route.end_s == DRAFT.started_s


def test_tokens_and_models_have_the_conventions_names() -> None:
    draft = request_spans(ACCEPTED, ["router", "asked-for"])[-1].attributes
    assert draft["gen_ai.operation.name"] == "chat"
    assert draft["gen_ai.provider.name"] == "vllm"
    assert (draft["gen_ai.request.model"], draft["gen_ai.response.model"]) == ("asked-for", "qwen-7b")
    assert (draft["gen_ai.usage.input_tokens"], draft["gen_ai.usage.output_tokens"]) == (160, 48)
    assert draft["gen_ai.usage.cache_read.input_tokens"] == 128
    assert draft["gen_ai.response.time_to_first_chunk"] == DRAFT.ttft_s


@pytest.mark.parametrize("row", [ACCEPTED, ESCALATED, FAILED], ids=lambda row: row.request_id)
def test_every_gen_ai_name_is_one_that_opentelemetry_knows(row: RequestRecord) -> None:
    theirs = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {name for span in spans_of(row) for name in span.attributes if name.startswith("gen_ai.")}
    assert ours <= theirs


@pytest.mark.parametrize(
    ("outcome", "status", "failed"),
    [
        (RequestOutcome.OK, 200, False),
        (RequestOutcome.ERROR, 503, True),
        (RequestOutcome.ERROR, 429, False),
        (RequestOutcome.BROKEN, 200, True),
        (RequestOutcome.CANCELLED, 499, False),
    ],
)
def test_request_counts_as_failed_when_the_fault_is_ours(outcome: RequestOutcome, status: int, failed: bool) -> None:
    row = ACCEPTED.model_copy(update={"outcome": outcome, "status": status, "error": "stream_broken"})
    assert spans_of(row)[0].error == ("stream_broken" if failed else None)


def test_failed_try_says_why() -> None:
    assert by_name(FAILED)["frontier"].error == "frontier_unavailable"


@given(anything)
def test_any_record_gives_spans_without_a_null_and_with_their_parents_before_them(row: RequestRecord) -> None:
    spans = spans_of(row)
    assert len(spans) == 1 + (row.decision is not None) + (row.verdict is not None) + len(row.attempts)
    for number, span in enumerate(spans):
        assert None not in span.attributes.values()
        assert span.end_s >= span.start_s
        assert span.parent is None or span.parent in [before.name for before in spans[:number]]
        assert all(re.match(r"(gen_ai|tierwise|http|error)\.", name) for name in span.attributes)


@given(anything)
def test_tenant_and_session_are_in_no_span(row: RequestRecord) -> None:
    """A collector may belong to somebody else."""
    marked = row.model_copy(update={"tenant": "tenant-of-the-test", "session_id": "session-of-the-test"})
    assert "-of-the-test" not in repr(spans_of(marked))


# What OpenTelemetry makes of it


def exported(memory: tuple[Spans, InMemorySpanExporter], row: RequestRecord, **headers: str) -> list[ReadableSpan]:
    spans, exporter = memory
    spans.emit(spans_of(row), headers)
    return list(exporter.get_finished_spans())


def test_all_spans_of_a_request_are_one_trace(memory: tuple[Spans, InMemorySpanExporter]) -> None:
    root, *rest = exported(memory, ESCALATED)
    assert root.parent is None
    assert root.kind is SpanKind.SERVER
    assert {span.context.trace_id for span in rest} == {root.context.trace_id}
    parents = {span.name: span.parent.span_id for span in rest if span.parent is not None}
    names = {span.context.span_id: span.name for span in (root, *rest)}
    assert {name: names[parent] for name, parent in parents.items()} == {
        "route": "chat auto", "verdict": "chat auto", "router": "route", "draft": "chat auto", "frontier": "chat auto"
    }  # fmt: skip
    assert {span.name for span in rest if span.kind is SpanKind.CLIENT} == {"router", "draft", "frontier"}


def test_clients_trace_goes_on_here(memory: tuple[Spans, InMemorySpanExporter]) -> None:
    root, *_ = exported(memory, ACCEPTED, **SENT)
    assert format_trace_id(root.context.trace_id) == SENT["traceparent"].split("-")[1]
    assert root.parent is not None
    assert format_span_id(root.parent.span_id) == SENT["traceparent"].split("-")[2]


def test_trace_that_the_client_does_not_record_is_not_recorded_here(
    memory: tuple[Spans, InMemorySpanExporter],
) -> None:
    assert exported(memory, ACCEPTED, **NOT_SAMPLED) == []


@pytest.mark.parametrize("junk", ["", "00-0-0-00", "é" * 50, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_header_that_is_no_context_begins_a_trace(memory: tuple[Spans, InMemorySpanExporter], junk: str) -> None:
    root, *_ = exported(memory, ACCEPTED, traceparent=junk)
    assert root.parent is None


def test_span_lasts_as_long_as_what_it_stands_for(memory: tuple[Spans, InMemorySpanExporter]) -> None:
    for span, facts in zip(exported(memory, ESCALATED), spans_of(ESCALATED), strict=True):
        assert span.end_time is not None
        assert span.start_time is not None
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(facts.end_s - facts.start_s, abs=1e-5)


def test_failure_is_the_spans_status(memory: tuple[Spans, InMemorySpanExporter]) -> None:
    root, frontier = exported(memory, FAILED)
    assert {root.status.status_code, frontier.status.status_code} == {StatusCode.ERROR}
    assert FAILED.attempts[0].outcome is AttemptOutcome.FAILED


def test_share_of_requests_is_recorded_with_all_of_their_spans_or_none() -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter), sample_rate=0.5)
    for _ in range(200):
        spans.emit(spans_of(ACCEPTED), {})
    finished = exporter.get_finished_spans()
    roots = [span for span in finished if span.parent is None]
    assert 50 < len(roots) < 150
    assert len(finished) == len(roots) * len(spans_of(ACCEPTED))
    spans.close()


# The section


def test_spans_are_off_unless_a_profile_asks_for_them() -> None:
    assert StackConfig.model_fields["traces"].default is None
    assert TracesConfig().endpoint.startswith("http://127.0.0.1:")


def test_missing_extra_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigInvalid, match="extra `otel`"):
        Spans.to(TracesConfig())
