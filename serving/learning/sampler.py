"""Keeps redacted texts of sampled requests, and sends shadow requests to the frontier.

A shadow request asks the frontier what tier 1 has answered already, after the user has the answer.
A bounded queue stands between the request and this work. What does not fit is dropped and counted.
Shadows are booked on their request as attempts of kind SHADOW, so the day's spend is read from the ledger.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from routing.cost.attempt import CostConfig
from routing.learning.pairwise import Choice, grade, judge_messages, read_choice
from routing.learning.samples import Grader, Sample, SampleSource
from routing.records import (
    Api,
    Attempt,
    AttemptKind,
    AttemptOutcome,
    DecisionReason,
    RequestedModel,
    RequestFeatures,
    RequestOutcome,
    RequestRecord,
    Tier,
)
from routing.text.redaction import redact
from routing.text.request_body import messages_of
from serving.errors import StackError
from serving.learning.config import LearningConfig
from serving.ledger.samples import SampleStore
from serving.ledger.store import StorageDown
from serving.ledger.writer import Ledger
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import FrontierModel
from serving.request.trace import RequestTrace

log = logging.getLogger(__name__)

PRUNE_EVERY_S: Final = 3600.0
FLUSH_TIMEOUT_S: Final = 5.0
JUDGE_OUTPUT_TOKENS: Final = 16
# Only where routing chose tier 1. A pin or the client's choice may mean that a text must not go to the frontier.
CHOSEN_BY_ROUTING: Final = frozenset({DecisionReason.SCORE_HIGH, DecisionReason.NO_SCORE})


class SampleEvent(StrEnum):
    """What became of a sample. A closed set, used as a metric label."""

    KEPT = "kept"
    SHADOWED = "shadowed"
    GRADED = "graded"
    DROPPED = "dropped"  # the queue was full
    CAPPED = "capped"  # the tenant has had its share of the day
    OVER_BUDGET = "over_budget"  # the day's dollars are spent, or a price is unknown
    FAILED = "failed"


class SamplerObserver(Protocol):
    """Hears what happened, so that it can be counted."""

    def sample(self, event: SampleEvent) -> None:
        """One sample had this result."""
        ...

    def observe_attempt(self, attempt: Attempt) -> None:
        """One shadow attempt was settled."""
        ...


@dataclass(slots=True)
class Watched:
    """One request whose answer is collected while it is sent."""

    call: Call
    sampler: "Sampler"
    seen: list[str] = field(default_factory=list)
    record: RequestRecord | None = None

    def settling(self, settle: Callable[[RequestRecord], None]) -> Callable[[RequestRecord], None]:
        """`settle`, with the record remembered."""

        def both(record: RequestRecord) -> None:
            self.record = record
            settle(record)

        return both

    async def frames(self, frames: AsyncGenerator[Frame, None], trace: RequestTrace) -> AsyncGenerator[Frame, None]:
        """The same frames. After the last one the sampler is offered what was seen."""
        async with aclosing(frames):
            async for frame in frames:
                if self.call.stream:
                    self.seen.append(frame.text)
                elif frame.data is not None:
                    self.seen = [text_of_body(frame.data)]
                yield frame
        if self.record is not None:
            self.sampler.offer(self.call, self.record, "".join(self.seen), trace)


@dataclass(frozen=True, slots=True)
class Job:
    """One sample in the queue. Its outputs are not redacted yet."""

    call: Call
    record: RequestRecord
    started: float
    sample: Sample
    shadow: bool


class Sampler:
    """Samples requests of one gateway process.

    `offer` only puts into a queue. `start` and `aclose` own the tasks that read it.
    """

    def __init__(
        self,
        config: LearningConfig,
        *,
        samples: SampleStore,
        ledger: Ledger,
        frontier: FrontierModel,
        cost: CostConfig,
        count_tokens: Callable[[str], int],
        observer: SamplerObserver,
    ) -> None:
        self._config, self._store, self._ledger = config, samples, ledger
        self._frontier, self._cost, self._count_tokens = frontier, cost, count_tokens
        self._observer = observer
        self._queue: asyncio.Queue[Job] = asyncio.Queue(config.shadow.queue_size)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the tasks. Needs the event loop of the process."""
        workers = [self._work() for _ in range(self._config.shadow.concurrency)]
        self._tasks = [asyncio.create_task(task) for task in (*workers, self._prune_for_ever())]

    async def aclose(self) -> None:
        """Stop. A running shadow request is cancelled, and what it cost so far is booked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, call: Call) -> Watched | None:
        """Collects this request's answer if it may become a sample. None for nearly all."""
        config = self._config
        wanted = config.keep_escalations or self._keeps(call) or self._shadows(call)
        plain = call.features.n_choices == 1 and call.features.n_tools == 0 and messages_in(call) is not None
        if not wanted or not plain or call.tenant in config.opted_out:
            return None
        return Watched(call, self)

    def offer(self, call: Call, record: RequestRecord, text: str, trace: RequestTrace) -> None:
        """Queue one settled request if it is a sample. Never waits."""
        if record.outcome is not RequestOutcome.OK or record.degraded or not text:
            return
        escalated = record.served_tier is Tier.FRONTIER and trace.rejected_text is not None
        shadow = (
            record.served_tier is Tier.TIER1
            and record.decision is not None
            and record.decision.reason in CHOSEN_BY_ROUTING
            and self._shadows(call)
        )
        if shadow:
            source = SampleSource.SHADOW
        elif escalated and (self._config.keep_escalations or self._keeps(call)):
            source = SampleSource.ESCALATION
        elif self._keeps(call):
            source = SampleSource.KEPT
        else:
            return
        messages = messages_in(call) or ()
        tier1 = text if record.served_tier is Tier.TIER1 else trace.rejected_text
        frontier = text if record.served_tier is Tier.FRONTIER else None
        if max(map(len, [*(m["content"] for m in messages), tier1 or "", text])) > self._config.max_text_chars:
            return
        wanted = call.body.get("response_format")
        sample = Sample(
            request_id=record.request_id,
            at=record.at,
            tenant=record.tenant,
            category=call.features.category,
            session_id=record.session_id,
            source=source,
            messages=messages,
            response_format=dict(wanted) if isinstance(wanted, dict) else None,
            tier1_output=tier1,
            frontier_output=frontier,
            tier1_model=model_of(record.attempts, AttemptKind.DRAFT),
            frontier_model=model_of(record.attempts, AttemptKind.FRONTIER),
            config_hash=record.config_hash,
        )
        try:
            self._queue.put_nowait(Job(call, record, trace.started, sample, shadow))
        except asyncio.QueueFull:
            self._observer.sample(SampleEvent.DROPPED)

    def _keeps(self, call: Call) -> bool:
        return draw(call.request_id, 0) < self._config.keep_texts_rate

    def _shadows(self, call: Call) -> bool:
        return draw(call.request_id, 1) < self._config.shadow_rate(call.features.category)

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            try:
                await self._learn(job)
            except StorageDown as error:
                log.warning("a sample was lost: %s", error, extra={"request_id": job.record.request_id})
                self._observer.sample(SampleEvent.FAILED)
            except Exception:  # one bad sample must not end the sampling
                log.exception("sampler", extra={"request_id": job.record.request_id})
                self._observer.sample(SampleEvent.FAILED)

    async def _learn(self, job: Job) -> None:
        """Send the shadow request if there is one, let the judge compare, and keep the sample."""
        since = midnight(datetime.now(UTC))
        kept_today = await asyncio.to_thread(self._store.count_samples, job.record.tenant, since)
        if kept_today >= self._config.samples_per_tenant_per_day:
            self._observer.sample(SampleEvent.CAPPED)
            return
        sample = await asyncio.to_thread(redacted, job.sample)
        if job.shadow:
            if not await self._within_budget(since):
                self._observer.sample(SampleEvent.OVER_BUDGET)
                return
            shadowed = await self._shadow(job, sample)
            if shadowed is None:
                self._observer.sample(SampleEvent.FAILED)
                return
            sample = shadowed
            self._observer.sample(SampleEvent.SHADOWED)
            if sample.grader is not None:
                self._observer.sample(SampleEvent.GRADED)
        await asyncio.to_thread(self._store.put_samples, [sample])
        self._observer.sample(SampleEvent.KEPT)

    async def _within_budget(self, since: datetime) -> bool:
        """Whether the day's budget has dollars left. With an unknown price it counts as spent."""
        await asyncio.to_thread(self._ledger.flush, FLUSH_TIMEOUT_S)
        spent = await asyncio.to_thread(self._store.shadow_spend, since)
        return spent.n_unpriced == 0 and spent.usd < self._config.shadow.daily_budget_usd

    async def _shadow(self, job: Job, sample: Sample) -> Sample | None:
        """The sample with the frontier's answer, and with both grades if a judge may. None when there is no answer."""
        call = replace(
            job.call,
            request_id=f"{job.call.request_id}-shadow",
            model=RequestedModel.FRONTIER,
            stream=False,
            include_usage=False,
            deadline=time.perf_counter() + self._config.shadow.deadline_s,
        )
        trace = RequestTrace(call, job.record.config_hash, self._cost, started=job.started)
        try:
            text = await self._ask(call, trace)
            if not text:
                return None
            answered = sample.model_copy(
                update={"frontier_output": redact(text), "frontier_model": trace.bookings[-1].model}
            )
            return await self._judged(job.call, answered, trace) if self._config.shadow.judge else answered
        finally:
            self._book(job.record, trace)

    async def _judged(self, call: Call, sample: Sample, trace: RequestTrace) -> Sample:
        tier1, frontier = sample.tier1_output or "", sample.frontier_output or ""
        first = await self._compare(call, trace, sample.prompt, tier1, frontier)
        second = await self._compare(call, trace, sample.prompt, frontier, tier1)
        grades = grade(first, second)
        if grades is None:
            return sample
        return sample.model_copy(
            update={"tier1_quality": grades[0], "frontier_quality": grades[1], "grader": Grader.PAIRWISE}
        )

    async def _compare(self, call: Call, trace: RequestTrace, prompt: str, first: str, second: str) -> Choice | None:
        messages = judge_messages(prompt, first, second)
        n_tokens = self._count_tokens("\n".join(m["content"] for m in messages))
        judging = replace(
            call,
            request_id=f"{call.request_id}-judge",
            api=Api.CHAT,
            model=RequestedModel.FRONTIER,
            body={"messages": messages, "temperature": 0, "max_completion_tokens": JUDGE_OUTPUT_TOKENS},
            features=RequestFeatures(
                category="other", input_tokens=n_tokens, max_output_tokens=JUDGE_OUTPUT_TOKENS, n_messages=2
            ),
            stream=False,
            include_usage=False,
            session_id=None,
            deadline=time.perf_counter() + self._config.shadow.deadline_s,
        )
        return read_choice(await self._ask(judging, trace) or "")

    async def _ask(self, call: Call, trace: RequestTrace) -> str | None:
        """The frontier's text. None when it has none."""
        try:
            async with aclosing(self._frontier.complete(call, trace)) as frames:
                return "".join([frame.text async for frame in frames])
        except StackError as error:
            log.info("shadow call failed: %s", error.code, extra={"request_id": call.request_id})
            return None

    def _book(self, record: RequestRecord, trace: RequestTrace) -> None:
        """Add the shadow's attempts to its request. The ledger leaves the rows that it has already as they are."""
        attempts = tuple(as_shadow(attempt) for attempt in trace.record().attempts)
        for attempt in attempts:
            self._observer.observe_attempt(attempt)
        if attempts:
            self._ledger.record(record.model_copy(update={"attempts": (*record.attempts, *attempts)}))

    async def _prune_for_ever(self) -> None:
        while True:
            before = datetime.now(UTC) - timedelta(days=self._config.retention_days)
            with contextlib.suppress(StorageDown):  # the next round tries again
                await asyncio.to_thread(self._store.prune, before)
            await asyncio.sleep(PRUNE_EVERY_S)


def draw(request_id: str, which: int) -> float:
    """A number in 0..1 that follows from a request's random id. `which` tells independent draws apart."""
    return int(request_id[8 * which : 8 * which + 8], 16) / 2**32


def midnight(now: datetime) -> datetime:
    """When this UTC day began."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def messages_in(call: Call) -> tuple[dict[str, str], ...] | None:
    """The conversation as texts. None when it holds anything else, such as token ids or tool calls."""
    if call.api is Api.COMPLETIONS:
        prompt = call.body.get("prompt")
        return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else None
    messages: Sequence[Any] = messages_of(call.body)
    if any(not isinstance(m.get("content"), str) or m.get("tool_calls") for m in messages):
        return None
    return tuple({"role": str(m["role"]), "content": m["content"]} for m in messages)


def text_of_body(data: str) -> str:
    """The text of a whole response's only choice. "" when it is something else."""
    choice = json.loads(data)["choices"][0]
    text = choice["message"].get("content") if "message" in choice else choice.get("text")
    return text if isinstance(text, str) else ""


def redacted(sample: Sample) -> Sample:
    """The sample without secrets and identifiers in any of its texts."""
    return sample.model_copy(
        update={
            "messages": tuple({"role": m["role"], "content": redact(m["content"])} for m in sample.messages),
            "tier1_output": None if sample.tier1_output is None else redact(sample.tier1_output),
            "frontier_output": None if sample.frontier_output is None else redact(sample.frontier_output),
        }
    )


def model_of(attempts: Sequence[Attempt], kind: AttemptKind) -> str | None:
    """The model of the last attempt of a kind."""
    return next((attempt.model for attempt in reversed(attempts) if attempt.kind is kind), None)


def as_shadow(attempt: Attempt) -> Attempt:
    """A frontier attempt as one that no user saw."""
    outcome = AttemptOutcome.USED if attempt.outcome is AttemptOutcome.SERVED else attempt.outcome
    return attempt.model_copy(update={"kind": AttemptKind.SHADOW, "outcome": outcome})
