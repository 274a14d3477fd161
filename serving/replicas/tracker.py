"""Tracks the load and cached prefixes of each replica, and ranks replicas for a request.

A tracker knows neither Ray nor vLLM. The request router (ray_router.py) tells it which replicas run and which one took
a request. The tier (engine/client.py) tells it when a first token came. Followers (kv_events.py) tell it what each
cache holds. There is one tracker per process and deployment. Use it from one event loop.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from routing.records import ReplicaChoice, ReplicaMode
from routing.replicas.kv_blocks import BlockIndex
from routing.replicas.load import Arrivals, PrefillRate, ReplicaLoad, UnseenWork
from routing.replicas.rank import NoReplicaAvailable, Prompt, ReplicaState, rank_replicas
from serving.replicas.cached_prefix import PromptKeys, cached_prefixes
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.kv_events import EventCounts
from serving.replicas.load_news import LoadNews
from serving.replicas.remote_load import RemoteLoad
from serving.replicas.replica import TrackedReplica
from serving.replicas.routed_prompt import RoutedPrompt


@dataclass(slots=True)
class Open:
    """A request that is not over.

    expected: True when the tier announced the request and will release it. False: the end of its call releases it.
    """

    prompt: RoutedPrompt
    expected: bool
    keys: PromptKeys = field(init=False)
    uncached_tokens: dict[str, int] = field(default_factory=dict)
    choice: ReplicaChoice | None = None
    booked: str | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        self.keys = PromptKeys(self.prompt)


@dataclass(slots=True)
class TrackerCounts:
    """Totals since the start, for the metrics."""

    decisions: Counter[ReplicaMode] = field(default_factory=Counter)
    decision_s: float = 0.0
    expected_cached_tokens: int = 0
    input_tokens: int = 0
    events: EventCounts = field(default_factory=EventCounts)


class ReplicaTracker:
    """Ranks replicas for prompts, and books each request on the replica that it is sent to."""

    def __init__(self, config: ReplicaRoutingConfig, news: LoadNews | None = None) -> None:
        self.config = config
        self.counts = TrackerCounts()
        self.index = BlockIndex()
        self.host_index = BlockIndex()
        self.replicas: dict[str, TrackedReplica] = {}
        self.news = LoadNews() if news is None else news
        self.unseen = UnseenWork()
        self.arrivals = Arrivals()
        self.tier_rate = PrefillRate(config.cost.prefill_tokens_per_s)
        self._open: dict[str, Open] = {}
        self.remote = RemoteLoad(self.replicas, self._open, self.unseen, self.arrivals)
        self._sessions: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchange: asyncio.Task[None] | None = None

    def set_replicas(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the list of running replicas. Call it in the event loop.

        metadata: per replica id the `facts` of a TrackedReplica, recorded by the replica when it became ready.
        """
        self._loop = asyncio.get_running_loop()
        if self._exchange is None:
            self._exchange = asyncio.create_task(self.news.run(), name="load-exchange")
        for gone in [replica_id for replica_id in self.replicas if replica_id not in metadata]:
            self.remove_replica(gone)
        for replica_id, facts in metadata.items():
            if replica_id not in self.replicas:
                self.replicas[replica_id] = TrackedReplica(
                    replica_id,
                    facts,
                    ReplicaLoad(self.tier_rate),
                    self.index,
                    self.host_index,
                    self.counts.events,
                    follow=self.config.kv_events,
                    unreachable_after_s=self.config.unreachable_after_s,
                )

    def remove_replica(self, replica_id: str) -> None:
        """Forget a replica with all it held and had to do. Unknown ids are fine."""
        replica = self.replicas.pop(replica_id, None)
        if replica is None:
            return
        replica.close()
        for entry in self._open.values():
            if entry.booked == replica_id:
                entry.booked = None
        self.remote.remove_replica(replica_id)

    def expect(self, prompt: RoutedPrompt) -> None:
        """A request is about to be routed. It is kept until `release`."""
        self._open.setdefault(prompt.request_id, Open(prompt, expected=True))

    def rank(self, prompt: RoutedPrompt, candidates: Sequence[str]) -> list[str]:
        """The candidates from best to worst. Books the first one. Empty when nothing is known to rank by.

        Calling it again for a request that found no room ranks anew and moves the booking.
        """
        started = time.perf_counter()
        entry = self._open.get(prompt.request_id)
        if entry is None:
            entry = self._open[prompt.request_id] = Open(prompt, expected=False)
        if entry.choice is None:
            self.unseen.decided(started)
        replicas = [replica for replica_id in candidates if (replica := self.replicas.get(replica_id)) is not None]
        states = self._states(entry, replicas, started)
        last = None if prompt.session_id is None else self._sessions.get((prompt.cache_salt, prompt.session_id))
        seed = xxhash.xxh3_64_intdigest(prompt.request_id.encode())
        try:
            if all(replica.blocks is None for replica in replicas):
                raise NoReplicaAvailable(f"nothing is known of the caches of {len(candidates)} replicas")
            ranked = rank_replicas(
                Prompt(len(prompt.prompt_token_ids), last, seed),
                states,
                self.config.cost,
                0.0 if self.news.alone else self.unseen.work_s,
                self.arrivals.followed_ratio,
            )
        except NoReplicaAvailable:
            self._decided(entry, ReplicaMode.FALLBACK, None, started)
            return []
        best = ranked[0]
        entry.uncached_tokens = {r.replica_id: r.uncached_tokens for r in ranked}
        self._decided(entry, self.replicas[best.replica_id].mode, best.cached_tokens + best.host_tokens, started)
        self._book(entry, best.replica_id)
        return [replica.replica_id for replica in ranked]

    def routed(self, request_id: str, replica_id: str) -> None:
        """A replica accepted the request. Moves the booking when that is not the first choice."""
        entry = self._open.get(request_id)
        if entry is None or replica_id not in self.replicas:
            return
        replica = self.replicas[replica_id]
        if entry.booked != replica_id:
            self._book(entry, replica_id)
            if entry.choice is not None and entry.choice.mode is not ReplicaMode.FALLBACK:
                tokens = len(entry.prompt.prompt_token_ids)
                cached_tokens = tokens - entry.uncached_tokens.get(replica_id, tokens)
                choice = {"mode": replica.mode, "expected_cached_tokens": cached_tokens}
                entry.choice = entry.choice.model_copy(update=choice)
        if entry.prompt.session_id is not None:
            self._remember(entry.prompt.cache_salt, entry.prompt.session_id, replica_id)
        if replica.is_modelled and not entry.mirrored:
            entry.mirrored = True
            # Takes a millisecond per thousand blocks. The request need not wait for it.
            asyncio.get_running_loop().call_soon(self._mirror, replica, entry.keys.of(replica))

    def prefilled(self, request_id: str) -> None:
        """The first token came. Unknown or repeated ids are fine. May be called from another thread."""
        self._in_loop(self._prefilled, request_id)

    def release(self, request_id: str) -> None:
        """The request is over in any way. Unknown or repeated ids are fine. May be called from another thread."""
        self._in_loop(self._release, request_id)

    def is_at(self, request_id: str, replica_id: str) -> bool:
        """Whether a request is booked on a replica."""
        entry = self._open.get(request_id)
        return entry is not None and entry.booked == replica_id

    def call_ended(self, request_id: str) -> None:
        """The call for a request is over: answered, cancelled, refused or lost. A refused request is ranked again."""
        entry = self._open.get(request_id)
        if entry is not None:
            self._cancel_booking(entry)
            if not entry.expected:
                del self._open[request_id]

    def choice(self, request_id: str) -> ReplicaChoice | None:
        """How the replica of an open request was chosen. None when it is not open or not ranked."""
        entry = self._open.get(request_id)
        return None if entry is None else entry.choice

    @property
    def open_requests(self) -> int:
        """Requests ranked here and not released."""
        return len(self._open)

    def modes(self) -> Counter[ReplicaMode]:
        """Number of replicas by what is known of their caches."""
        return Counter(replica.mode for replica in self.replicas.values())

    def close(self) -> None:
        """Forget every replica and stop listening to other processes."""
        if self._exchange is not None:
            self._exchange.cancel()
        for replica_id in list(self.replicas):
            self.remove_replica(replica_id)

    def _states(self, entry: Open, replicas: Sequence[TrackedReplica], now: float) -> list[ReplicaState]:
        for replica in replicas:
            replica.update_mode(now)
        tokens = len(entry.prompt.prompt_token_ids)
        prefixes = cached_prefixes(entry.keys, tokens, replicas, self.index, self.host_index)
        return [
            replica.load.state(
                replica.replica_id,
                now,
                cached_tokens=prefix.cached_tokens,
                resident_blocks=0 if replica.blocks is None else len(replica.blocks),
                host_tokens=prefix.host_tokens,
                healthy=replica.healthy,
            )
            for replica, prefix in zip(replicas, prefixes, strict=True)
        ]

    def _decided(self, entry: Open, mode: ReplicaMode, cached_tokens: int | None, started: float) -> None:
        if entry.choice is None:  # a request that waits for room is ranked again and counted once
            self.counts.decisions[mode] += 1
            self.counts.expected_cached_tokens += cached_tokens or 0
            self.counts.input_tokens += len(entry.prompt.prompt_token_ids)
        entry.choice = ReplicaChoice(mode=mode, expected_cached_tokens=cached_tokens)
        self.counts.decision_s += time.perf_counter() - started

    def _book(self, entry: Open, replica_id: str) -> None:
        if entry.booked == replica_id:
            return
        self._cancel_booking(entry)
        request_id, tokens = entry.prompt.request_id, len(entry.prompt.prompt_token_ids)
        uncached = entry.uncached_tokens.get(replica_id, tokens)
        now = time.perf_counter()
        replica = self.replicas[replica_id]
        work_s = replica.load.book(request_id, tokens, uncached, now)
        if replica.block_size_tokens:
            replica.begins(entry.keys.of(replica))
        entry.booked = replica_id
        self.arrivals.observe(now, work_s)
        self.news.booked(request_id, replica_id, tokens, uncached)

    def _cancel_booking(self, entry: Open) -> None:
        if entry.booked is not None:
            replica = self.replicas[entry.booked]
            replica.load.release(entry.prompt.request_id, time.perf_counter())
            if replica.block_size_tokens:
                replica.ends(entry.keys.of(replica))
            self.news.released(entry.prompt.request_id, entry.booked)
            entry.booked = None

    def _prefilled(self, request_id: str) -> None:
        entry = self._open.get(request_id)
        if entry is not None and entry.booked is not None:
            self.replicas[entry.booked].load.prefilled(request_id, time.perf_counter())
            self.news.prefilled(request_id, entry.booked)

    def _release(self, request_id: str) -> None:
        entry = self._open.pop(request_id, None)
        if entry is not None:
            self._cancel_booking(entry)

    def _mirror(self, replica: TrackedReplica, keys: Sequence[int]) -> None:
        if self.replicas.get(replica.replica_id) is replica:
            replica.used(keys)
            self.news.mirrored(replica.replica_id, keys)

    def _remember(self, salt: str, session_id: str, replica_id: str) -> None:
        key = (salt, session_id)
        self._sessions[key] = replica_id
        self._sessions.move_to_end(key)
        if len(self._sessions) > self.config.max_sessions:
            self._sessions.popitem(last=False)

    def _in_loop(self, call: Callable[[str], None], request_id: str) -> None:
        """Ray may run its router in a loop of its own (RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP)."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if self._loop is None or here is self._loop:
            call(request_id)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, request_id)


_trackers: dict[tuple[str, str], ReplicaTracker] = {}


def shared_tracker(application: str, deployment: str, config: ReplicaRoutingConfig) -> ReplicaTracker:
    """This process's one tracker of a deployment. Every handle's router and the tier share it."""
    return _trackers.setdefault((application, deployment), ReplicaTracker(config))
