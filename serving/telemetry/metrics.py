"""Prometheus metrics. What they say of requests comes from the settled request record.

Labels are tiers, kinds, outcomes and reasons, never tenants, models or texts. This bounds the number of series.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from routing.cost.budget import Action, Scope
from routing.records import Attempt, ReplicaMode, RequestRecord, Tier
from serving.hosted.breaker import BreakerState
from serving.hosted.faults import Reason
from serving.learning.sampler import SampleEvent
from serving.ledger.writer import Ledger
from serving.replicas.tracker import ReplicaTracker
from serving.request.tiers import EngineStats

SERIES = re.compile(rb"^(tierwise_\w+)(\{.*\})? ", re.MULTILINE)  # no label value of ours holds a brace and a space
LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Telemetry:
    """The metrics of one gateway process. Names are listed in deploy/README.md."""

    def __init__(self, config_hash: str, ledger: Ledger | None = None) -> None:
        self.registry = CollectorRegistry()
        self.trackers: list[ReplicaTracker] = []
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=LATENCY_BUCKETS_S)
        self.requests = counter(
            "tierwise_requests", "Requests by how they ended", ["api", "requested_model", "tier", "outcome"]
        )
        self.errors = counter("tierwise_request_errors", "Requests that failed, by error code", ["code"])
        self.decisions = counter("tierwise_decisions", "Tier decisions by reason", ["tier", "reason", "category"])
        self.verdicts = counter("tierwise_verdicts", "Drafts judged", ["accepted", "category"])
        self.rejections = counter("tierwise_rejections", "Reasons of rejected drafts", ["reason"])
        self.attempts = counter("tierwise_attempts", "Calls of models", ["kind", "outcome", "error"])
        self.tokens = counter("tierwise_tokens", "Tokens by direction", ["kind", "direction"])
        self.cost = counter("tierwise_cost_usd", "Dollars spent, by kind of attempt", ["kind"])
        self.baseline = counter(
            "tierwise_baseline_cost_usd", "Dollars the same answers would have cost at the frontier"
        )
        self.unpriced = counter(
            "tierwise_unknown_price_attempts", "Attempts whose price is unknown: fix the price table", ["kind"]
        )
        self.steering = counter("tierwise_steering_attempts", "Prompts that try to choose their own tier")
        self.degraded = counter("tierwise_degraded", "Tier-1 answers shown because the frontier was down")
        self.duration = histogram("tierwise_request_duration_seconds", "Whole requests", ["tier"])
        self.ttft = histogram("tierwise_ttft_seconds", "Arrival to first released frame", ["tier"])
        self.held = histogram("tierwise_held_seconds", "Hold of drafts")
        self.provider_faults = counter(
            "tierwise_frontier_faults", "Tries at a provider that failed", ["provider", "reason"]
        )
        self.breaker_open = gauge("tierwise_breaker_open", "1 while a provider's breaker is not closed", ["provider"])
        self.engine = gauge("tierwise_engine", "Load of a replica of our own, when scraped", ["tier", "quantity"])
        self.in_flight = gauge("tierwise_in_flight_requests", "Requests being answered")
        self.samples = counter("tierwise_samples", "Requests kept or shadowed to learn from", ["event"])
        self.budgets = counter("tierwise_budget_limits", "Requests that met a budget's limit", ["scope", "action"])
        self.budget_unreserved = counter(
            "tierwise_budget_unreserved", "Requests whose budget could not be checked: the database was away"
        )
        self.refused = counter("tierwise_refused", "Requests refused because this process was full")
        self.reloads = counter("tierwise_reloads", "Promoted releases that were applied or refused", ["result"])
        self.config_info = gauge("tierwise_config_info", "The running configuration", ["hash"])
        self.config_info.labels(config_hash).set(1)
        if ledger is not None:
            self.registry.register(LedgerCollector(ledger))

    def observe(self, row: RequestRecord) -> None:
        """Count one settled request."""
        tier = row.served_tier or "none"
        category = row.features.category if row.features else "none"
        self.requests.labels(row.api, row.requested_model, tier, row.outcome).inc()
        self.duration.labels(tier).observe(row.duration_s)
        if row.error is not None:
            self.errors.labels(row.error).inc()
        if row.ttft_s is not None:
            self.ttft.labels(tier).observe(row.ttft_s)
        if row.held_s is not None:
            self.held.observe(row.held_s)
        if row.decision is not None:
            self.decisions.labels(row.decision.tier, row.decision.reason, category).inc()
        if row.verdict is not None:
            self.verdicts.labels(str(row.verdict.accepted).lower(), category).inc()
            for reason in row.verdict.reasons:
                self.rejections.labels(reason).inc()
        if row.degraded:
            self.degraded.inc()
        if row.baseline_cost_usd is not None:
            self.baseline.inc(row.baseline_cost_usd)
        for attempt in row.attempts:
            self.observe_attempt(attempt)

    def observe_attempt(self, attempt: Attempt) -> None:
        """Count one settled attempt. A shadow's is settled after its request."""
        self.attempts.labels(attempt.kind, attempt.outcome, attempt.error or "none").inc()
        if attempt.usage is not None:
            self.tokens.labels(attempt.kind, "input").inc(attempt.usage.input_tokens)
            self.tokens.labels(attempt.kind, "cached").inc(attempt.usage.cached_tokens or 0)
            self.tokens.labels(attempt.kind, "output").inc(attempt.usage.output_tokens)
        if attempt.cost_usd is None and attempt.price_source is None:
            self.unpriced.labels(attempt.kind).inc()
        elif attempt.cost_usd is not None:
            self.cost.labels(attempt.kind).inc(attempt.cost_usd)

    def reloaded(self, applied: bool, hashes: tuple[str, ...]) -> None:
        """See serving.cascade.releases.ReleaseObserver."""
        self.reloads.labels("applied" if applied else "refused").inc()
        self.config_info.clear()
        for config_hash in hashes:
            self.config_info.labels(config_hash).set(1)

    def sample(self, event: SampleEvent) -> None:
        """See serving.learning.sampler.SamplerObserver."""
        self.samples.labels(event).inc()

    def try_failed(self, provider: str, reason: Reason) -> None:
        """See serving.hosted.client.FrontierObserver."""
        self.provider_faults.labels(provider, reason).inc()

    def breaker_changed(self, provider: str, state: BreakerState) -> None:
        """See serving.hosted.client.FrontierObserver."""
        self.breaker_open.labels(provider).set(state is not BreakerState.CLOSED)

    def admitted(self) -> None:
        """See serving.access.admission.AdmissionObserver."""
        self.in_flight.inc()

    def ended(self) -> None:
        """See serving.access.admission.AdmissionObserver."""
        self.in_flight.dec()

    def refused_full(self) -> None:
        """See serving.access.admission.AdmissionObserver."""
        self.refused.inc()

    def budget_limit(self, scope: Scope, action: Action) -> None:
        """See serving.access.budgets.BudgetObserver."""
        self.budgets.labels(scope, action).inc()

    def budget_unchecked(self) -> None:
        """See serving.access.budgets.BudgetObserver."""
        self.budget_unreserved.inc()

    def load(self, tier: Tier, stats: EngineStats) -> None:
        """Show what a replica of our own says of itself."""
        for name, value in asdict(stats).items():
            if name != "replica_id":
                self.engine.labels(tier, name).set(value)

    def watch(self, tracker: ReplicaTracker) -> None:
        """Show what the choice of a replica goes by. tracker: of a tier with several replicas."""
        self.trackers.append(tracker)
        self.registry.register(ReplicaCollector(tracker))

    @property
    def in_flight_now(self) -> int:
        """Requests being answered by this process."""
        return int(self.registry.get_sample_value("tierwise_in_flight_requests") or 0)

    def render(self, replica: str | None = None) -> bytes:
        """The text exposition. replica: a label for every series, where several processes share one address."""
        text = generate_latest(self.registry)
        return text if replica is None else with_replica(text, replica)


def with_replica(text: bytes, replica: str) -> bytes:
    """The exposition with one more label. Without it the counters of several processes would replace each other."""
    label = b'replica="' + replica.encode() + b'"'
    return SERIES.sub(lambda m: m[1] + b"{" + label + (b"," + m[2][1:] if m[2] else b"}") + b" ", text)


class LedgerCollector(Collector):
    """Reads the counters of the ledger when scraped."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One gauge per counter of the ledger."""
        for name, value in self._ledger.counters().items():
            yield GaugeMetricFamily(f"tierwise_ledger_{name}", f"Ledger: {name.replace('_', ' ')}", value=value)


class ReplicaCollector(Collector):
    """Reads what a tracker knows and has done when scraped. Replicas are counted by mode, never named."""

    def __init__(self, tracker: ReplicaTracker) -> None:
        self._tracker = tracker

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Metrics of modes, decisions and their time, expected tokens, and events."""
        counts, modes = self._tracker.counts, self._tracker.modes()
        replicas = GaugeMetricFamily("tierwise_replicas", "Replicas by what is known of their caches", labels=["mode"])
        decisions = CounterMetricFamily("tierwise_replica_decisions", "Choices of a replica", labels=["mode"])
        for mode in ReplicaMode:
            replicas.add_metric([mode], modes[mode])
            decisions.add_metric([mode], counts.decisions[mode])
        yield replicas
        yield decisions
        yield CounterMetricFamily(
            "tierwise_replica_decision_seconds", "Time spent choosing replicas", value=counts.decision_s
        )
        tokens = CounterMetricFamily("tierwise_replica_tokens", "Prompt tokens of requests routed", labels=["kind"])
        tokens.add_metric(["input"], counts.input_tokens)
        tokens.add_metric(["expected_cached"], counts.expected_cached_tokens)
        yield tokens
        events = CounterMetricFamily("tierwise_kv_events", "What followers of KV events met", labels=["event"])
        for name, value in asdict(counts.events).items():
            events.add_metric([name], value)
        yield events
        yield GaugeMetricFamily("tierwise_kv_index_blocks", "Distinct KV blocks known", value=len(self._tracker.index))
        yield GaugeMetricFamily("tierwise_kv_index_bytes", "Bytes of their index", value=self._tracker.index.nbytes)
        yield GaugeMetricFamily("tierwise_replica_open_requests", "Requests booked", value=self._tracker.open_requests)
        others = self._tracker.news.others
        yield GaugeMetricFamily("tierwise_gateways_heard", "Other gateway processes that share load", value=others)
