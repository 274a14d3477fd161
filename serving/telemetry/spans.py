"""Makes the OpenTelemetry spans of a settled request: its own, and children for route, draft, verdict and frontier.

They are made from the ledger's record when a request is over, so a stack without `traces` does nothing for them.
Names are those of OpenTelemetry's gen_ai conventions (1.39) where they have one, else tierwise.*. Spans hold no text
of prompts or answers.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field

from routing.records import Api, Attempt, AttemptKind, AttemptOutcome, Record, RequestOutcome, RequestRecord, Usage
from serving.errors import ConfigInvalid
from serving.request.trace import SELF_PROVIDER, RequestTrace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

log = logging.getLogger(__name__)

Value = str | bool | int | float | Sequence[str]
SERVICE = "tierwise"
OWN_ENGINE = "vllm"
CONTEXT_HEADERS = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/
EXPORT_TIMEOUT_S = 5.0  # of one batch. Spans that a collector does not take are dropped. Requests never wait for it.
ROUTE, VERDICT = "route", "verdict"
STATION = {AttemptKind.ROUTER: ROUTE, AttemptKind.JUDGE: VERDICT, AttemptKind.SAMPLE: VERDICT}
OPERATION = {Api.CHAT: "chat", Api.COMPLETIONS: "text_completion"}


class TracesConfig(Record):
    """Where spans go. The section turns them on. Needs the extra `otel`.

    Headers for the collector, its key among them, come from the environment: OTEL_EXPORTER_OTLP_HEADERS.
    """

    endpoint: str = Field(
        "http://127.0.0.1:4318/v1/traces", pattern=r"^https?://", description="an OTLP/HTTP collector's full URL"
    )
    sample_rate: float = Field(
        1.0, ge=0, le=1, description="of requests without a traceparent; one that has it goes by its sampled flag"
    )


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """One span before OpenTelemetry has it. Times are seconds since the request arrived.

    parent: name of the span that it belongs to. None: the request's own span, which is the first.
    calls: whether it is our call of a model.
    """

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Value]
    parent: str | None = None
    calls: bool = False
    error: str | None = None


def request_spans(row: RequestRecord, asked: Sequence[str]) -> list[SpanFacts]:
    """The spans of a request, parents before their children.

    asked: per attempt the model that was asked for. The attempt's row has the name that the answer gave.
    """
    operation = OPERATION[row.api]
    spans = [
        SpanFacts(f"{operation} {row.requested_model}", 0.0, row.duration_s, of_request(row), None, False, fault(row))
    ]
    if row.decision is not None:
        decided = {
            "tierwise.tier": row.decision.tier,
            "tierwise.decision": row.decision.reason,
            "tierwise.p_tier1_ok": row.decision.p_tier1_ok,
            "tierwise.threshold": row.decision.threshold,
        }
        spans.append(SpanFacts(ROUTE, *choosing(row), known(decided)))
    if row.verdict is not None:
        ruled = {
            "gen_ai.evaluation.name": "gate",
            "gen_ai.evaluation.score.label": "accepted" if row.verdict.accepted else "rejected",
            "gen_ai.evaluation.score.value": row.verdict.p_accept,
            "tierwise.reasons": tuple(row.verdict.reasons) or None,
        }
        spans.append(SpanFacts(VERDICT, *ruling(row), known(ruled)))
    named = {span.name for span in spans}
    for attempt, model in zip(row.attempts, asked, strict=True):
        station = STATION.get(attempt.kind)
        failed = attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.BROKEN)
        spans.append(
            SpanFacts(
                attempt.kind,
                attempt.started_s,
                attempt.started_s + attempt.duration_s,
                of_attempt(attempt, operation, model),
                parent=station if station in named else None,
                calls=True,
                error=(attempt.error or attempt.outcome) if failed else None,
            )
        )
    return spans


def choosing(row: RequestRecord) -> tuple[float, float]:
    """When the tier was chosen, (start, end): from the router's call, if any, to the first call for an answer."""
    asked = [a.started_s for a in row.attempts if a.kind is AttemptKind.ROUTER]
    answers = [a.started_s for a in row.attempts if a.kind in (AttemptKind.DRAFT, AttemptKind.FRONTIER)]
    end = min(answers, default=row.duration_s)
    return min([*asked, end]), end


def ruling(row: RequestRecord) -> tuple[float, float]:
    """When the gate ruled, (start, end): from the draft's end to the end of the last paid signal."""
    ended = [a.started_s + a.duration_s for a in row.attempts if a.kind is AttemptKind.DRAFT]
    signals = [a.started_s + a.duration_s for a in row.attempts if STATION.get(a.kind) == VERDICT]
    start = min(ended, default=row.duration_s)
    return start, max([start, *signals])


def of_request(row: RequestRecord) -> dict[str, Value]:
    """Attributes of the request's own span."""
    served = next((a for a in row.attempts if a.outcome is AttemptOutcome.SERVED), None)
    facts: dict[str, Value | None] = {
        "http.request.method": "POST",
        "http.route": f"/v1/{row.api.replace('.', '/')}",
        "http.response.status_code": row.status,
        "gen_ai.operation.name": OPERATION[row.api],
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": row.requested_model,
        "gen_ai.request.stream": row.stream,
        "gen_ai.response.model": row.served_model,
        "gen_ai.response.time_to_first_chunk": row.ttft_s,
        "tierwise.request_id": row.request_id,
        "tierwise.config": row.config_hash,
        "tierwise.outcome": row.outcome,
        "tierwise.tier": row.served_tier,
        "tierwise.category": None if row.features is None else row.features.category,
        "tierwise.held_s": row.held_s,
        "tierwise.degraded": row.degraded,
        "tierwise.cost_usd": row.cost_usd,
        "error.type": row.error,
    }
    return known(facts) | of_usage(None if served is None else served.usage)


def of_attempt(attempt: Attempt, operation: str, asked: str) -> dict[str, Value]:
    """Attributes of one call of a model."""
    facts = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": OWN_ENGINE if attempt.provider == SELF_PROVIDER else attempt.provider,
        "gen_ai.request.model": asked,
        "gen_ai.response.model": None if attempt.usage is None else attempt.model,
        "gen_ai.response.time_to_first_chunk": attempt.ttft_s,
        "tierwise.outcome": attempt.outcome,
        "tierwise.try": attempt.try_number,
        "tierwise.replica_id": attempt.replica_id,
        "tierwise.cost_usd": attempt.cost_usd,
        "error.type": attempt.error,
    }
    return known(facts) | of_usage(attempt.usage)


def of_usage(usage: Usage | None) -> dict[str, Value]:
    """Tokens under the conventions' names. Empty when there is no usage."""
    if usage is None:
        return {}
    facts = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
    return known(facts)


def known(facts: Mapping[str, Value | None]) -> dict[str, Value]:
    """The facts without those that were not measured, because a span has no null."""
    return {name: value for name, value in facts.items() if value is not None}


def fault(row: RequestRecord) -> str | None:
    """Why the request counts as failed. None for success and for mistakes of the client."""
    failed = row.outcome is RequestOutcome.BROKEN or (row.outcome is RequestOutcome.ERROR and row.status >= 500)
    return (row.error or row.outcome) if failed else None


class Spans:
    """Hands the spans of settled requests to OpenTelemetry. One per gateway process. Close it, for it has a thread."""

    def __init__(self, processor: "SpanProcessor", sample_rate: float = 1.0) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_rate)), resource=Resource.create({"service.name": SERVICE})
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE)

    @classmethod
    def to(cls, config: TracesConfig) -> Self:
        """Spans sent to a collector in batches, from a thread of their own. Raises ConfigInvalid without the extra."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise ConfigInvalid(f"traces: {error.name} is not installed; install the extra `otel`") from error
        exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=EXPORT_TIMEOUT_S)
        return cls(BatchSpanProcessor(exporter), config.sample_rate)

    def settling(
        self, settle: Callable[[RequestRecord], None], trace: RequestTrace, headers: Mapping[str, str]
    ) -> Callable[[RequestRecord], None]:
        """A function that calls `settle`, then emits the request's spans under the context in its headers."""
        carried = {name: headers[name] for name in CONTEXT_HEADERS if name in headers}

        def both(row: RequestRecord) -> None:
            settle(row)
            try:
                self.emit(request_spans(row, [booking.asked_model for booking in trace.bookings]), carried)
            except Exception:  # an answer never fails because of its spans
                log.exception("no spans of a request", extra={"request_id": row.request_id})

        return both

    def emit(self, spans: Sequence[SpanFacts], carried: Mapping[str, str]) -> None:
        """Start and end the spans at their times. The first one ended just now."""
        api, arrived = self._api, time.time() - spans[0].end_s
        context = self._propagator.extract(dict(carried))
        inside: dict[str | None, Context] = {}
        for number, span in enumerate(spans):
            parent = inside[span.parent] if number else context
            kind = api.SpanKind.CLIENT if span.calls else api.SpanKind.INTERNAL if number else api.SpanKind.SERVER
            live = self._tracer.start_span(
                span.name, parent, kind, dict(span.attributes), start_time=ns(arrived + span.start_s)
            )
            if span.error is not None:
                live.set_status(api.StatusCode.ERROR, span.error)
            live.end(ns(arrived + span.end_s))
            inside[span.name if number else None] = api.set_span_in_context(live, context)

    def close(self) -> None:
        """Send the waiting spans, as far as the collector takes them in time."""
        self._provider.shutdown()


def ns(seconds: float) -> int:
    """Seconds as nanoseconds, OpenTelemetry's unit of time."""
    return int(seconds * 1e9)
