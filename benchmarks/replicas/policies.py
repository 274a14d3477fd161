"""The routing policies that the replay compares: ours through `rank_replicas`, the published ones by their own rules.

Every policy gets the same view: who holds what, who is how busy, and (with several gateway processes) the same news
from the others at the same delay.
"""

import random
from collections import Counter
from collections.abc import Callable

import xxhash

from benchmarks.replicas.trace import TraceRequest
from routing.replicas.kv_blocks import BlockIndex, MirrorBlocks
from routing.replicas.load import Arrivals, PrefillRate, ReplicaLoad, UnseenWork
from routing.replicas.rank import Prompt, ReplicaConfig, rank_replicas


class RouterView:
    """What one gateway process knows of the replicas: its own bookings at once, the others' when they arrive."""

    def __init__(
        self,
        replicas: int,
        capacity_blocks: int,
        block_size_tokens: int,
        alone: bool,
        seed: int,
        host_blocks: int = 0,
    ) -> None:
        """host_blocks: KV blocks that one replica keeps in host memory besides. 0: it has no such tier."""
        self.replica_ids = [f"replica-{n}" for n in range(replicas)]
        self.capacity_tokens = capacity_blocks * block_size_tokens
        self.block_size_tokens = block_size_tokens
        self.alone = alone
        self.random = random.Random(seed)
        self.index = BlockIndex()
        self.mirrors = [MirrorBlocks(self.index, replica_id, capacity_blocks) for replica_id in self.replica_ids]
        self.host_index = BlockIndex()
        self.host_mirrors = [
            MirrorBlocks(self.host_index, replica_id, host_blocks) for replica_id in self.replica_ids if host_blocks
        ]
        rate = PrefillRate()
        self.loads = [ReplicaLoad(rate) for _ in self.replica_ids]
        self.unseen = UnseenWork()
        self.arrivals = Arrivals()
        self.active_tokens = [0] * replicas
        self.session_replica: dict[int, int] = {}

    def cached_tokens(self, request: TraceRequest) -> list[int]:
        """Prefix of the prompt that each replica holds. The last token never counts, it is always computed."""
        held = self.index.match(request.keys)
        longest = request.input_tokens - 1
        return [min(held[replica_id] * self.block_size_tokens, longest) for replica_id in self.replica_ids]

    def host_tokens(self, request: TraceRequest, cached: list[int]) -> list[int]:
        """What follows the cached prefix in each replica's host memory."""
        if not self.host_mirrors:
            return [0] * len(cached)
        held = self.host_index.match(request.keys)
        longest = request.input_tokens - 1
        depths = [min(held[replica_id] * self.block_size_tokens, longest) for replica_id in self.replica_ids]
        return [max(0, depth - tokens) for depth, tokens in zip(depths, cached, strict=True)]

    def booked(
        self, number: int, request: TraceRequest, replica: int, uncached_tokens: int, decided_at: float, now: float
    ) -> float:
        """A request goes to a replica, decided here or elsewhere. Returns its expected seconds of prefill."""
        self.mirrors[replica].used(request.keys)
        if self.host_mirrors:
            self.host_mirrors[replica].used(request.keys)
        self.active_tokens[replica] += request.input_tokens
        self.session_replica[request.session] = replica
        work_s = self.loads[replica].book(str(number), request.input_tokens, uncached_tokens, now)
        self.arrivals.observe(decided_at, work_s)
        return work_s

    def prefilled(self, number: int, replica: int, now: float) -> None:
        """Its first token came."""
        self.loads[replica].prefilled(str(number), now)

    def finished(self, number: int, request: TraceRequest, replica: int, now: float) -> None:
        """Its last token came."""
        self.active_tokens[replica] -= request.input_tokens
        self.loads[replica].release(str(number), now)


class Policy:
    """Chooses a replica. The hooks are for those that keep books of their own."""

    def __init__(self, view: RouterView) -> None:
        self.view = view

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """The replica for this request. number: its place in the trace."""
        raise TypeError("a policy chooses")

    def booked(self, number: int, request: TraceRequest, replica: int, uncached_tokens: int) -> None:
        """The view has just booked a request, decided here or elsewhere."""

    def prefilled(self, number: int, replica: int) -> None:
        """Its first token came."""

    def finished(self, number: int, request: TraceRequest, replica: int) -> None:
        """Its last token came."""

    def fewest(self, candidates: list[int], load: Callable[[int], float]) -> int:
        """The candidate of least load. Ties are decided by lot."""
        least = min(map(load, candidates))
        return self.view.random.choice([replica for replica in candidates if load(replica) == least])

    @property
    def everyone(self) -> list[int]:
        """All replicas."""
        return list(range(len(self.view.loads)))


class KvAware(Policy):
    """This project's."""

    config = ReplicaConfig()

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Gather the states, ask `rank_replicas`."""
        view = self.view
        cached = view.cached_tokens(request)
        states = [
            load.state(replica_id, now, cached_tokens=tokens, resident_blocks=len(mirror), host_tokens=host)
            for replica_id, load, mirror, tokens, host in zip(
                view.replica_ids, view.loads, view.mirrors, cached, view.host_tokens(request, cached), strict=True
            )
        ]
        last = view.session_replica.get(request.session)
        prompt = Prompt(request.input_tokens, None if last is None else view.replica_ids[last], seed=number)
        unseen_work_s = 0.0 if view.alone else view.unseen.work_s
        ranked = rank_replicas(prompt, states, self.config, unseen_work_s, view.arrivals.followed_ratio)
        return view.replica_ids.index(ranked[0].replica_id)


class RoundRobin(Policy):
    """One after the other. Several gateway processes start at different replicas."""

    def __init__(self, view: RouterView) -> None:
        super().__init__(view)
        self._next = 0 if view.alone else view.random.randrange(len(view.loads))

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """The next one."""
        chosen, self._next = self._next, (self._next + 1) % len(self.view.loads)
        return chosen


class LeastRequests(Policy):
    """Fewest requests in flight."""

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Queued and decoding count alike."""
        return self.fewest(self.everyone, lambda replica: self.view.loads[replica].outstanding)


class SessionHash(Policy):
    """The session's hash decides."""

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Sticky whatever the load."""
        return xxhash.xxh3_64_intdigest(request.session.to_bytes(8, "little")) % len(self.view.loads)


class CacheAware(Policy):
    """SGLang's and vLLM router's cache_aware: longest match above 30 % of the prompt, else the smallest cache.

    When the fullest queue is more than 64 requests and 1.5 times above the emptiest, the shortest queue.
    """

    def __init__(self, view: RouterView) -> None:
        super().__init__(view)
        self._inserted = [0] * len(view.loads)

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Balance first, then match, then room."""
        queues = [load.outstanding for load in self.view.loads]
        if max(queues) - min(queues) > 64 and max(queues) > 1.5 * min(queues):
            return self.fewest(self.everyone, lambda replica: queues[replica])
        cached = self.view.cached_tokens(request)
        if max(cached) > 0.3 * request.input_tokens:
            return cached.index(max(cached))
        return self.fewest(self.everyone, lambda replica: self._inserted[replica])

    def booked(self, number: int, request: TraceRequest, replica: int, uncached_tokens: int) -> None:
        """A tree grows by what it did not know."""
        self._inserted[replica] += uncached_tokens


class RayPrefix(Policy):
    """Ray's PrefixCacheAffinityRouter with an ideal tree: longest match above 10 %, else the smallest tree.

    Among equals, power of two choices by queue length.
    """

    def __init__(self, view: RouterView) -> None:
        super().__init__(view)
        self._inserted = [0] * len(view.loads)

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Match, then room, then queue."""
        cached = self.view.cached_tokens(request)
        if max(cached) >= 0.1 * request.input_tokens:
            best = [replica for replica in self.everyone if cached[replica] == max(cached)]
        else:
            best = [self.fewest(self.everyone, lambda replica: self._inserted[replica])]
        pair = self.view.random.sample(best, min(2, len(best)))
        return self.fewest(pair, lambda replica: self.view.loads[replica].outstanding)

    def booked(self, number: int, request: TraceRequest, replica: int, uncached_tokens: int) -> None:
        """A tree grows by what it did not know."""
        self._inserted[replica] += uncached_tokens


class LlmD(Policy):
    """llm-d's default scorers: 2 * share of the prompt cached + free KV cache + emptiness of the queue."""

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Highest sum. The queue's score is relative to the longest and the shortest."""
        view = self.view
        cached = view.cached_tokens(request)
        queues = [load.waiting for load in view.loads]
        span = max(queues) - min(queues)

        def score(replica: int) -> float:
            prefix = cached[replica] / request.input_tokens
            free = 1 - min(1.0, view.active_tokens[replica] / view.capacity_tokens)
            queue = (max(queues) - queues[replica]) / span if span else 1.0
            return 2 * prefix + free + queue

        return self.fewest(self.everyone, lambda replica: -score(replica))


class Dynamo(Policy):
    """Dynamo's KV router at its defaults: blocks still to prefill + distinct blocks in use, both with this request."""

    def __init__(self, view: RouterView) -> None:
        super().__init__(view)
        self._prefill_tokens = [0] * len(view.loads)
        self._in_use: list[Counter[int]] = [Counter() for _ in view.loads]
        self._uncached: dict[int, int] = {}

    def choose(self, number: int, request: TraceRequest, now: float) -> int:
        """Lowest sum."""
        view = self.view
        cached = view.cached_tokens(request)
        blocks = self._blocks(number, request)

        def load(replica: int) -> float:
            prefill = self._prefill_tokens[replica] + request.input_tokens - cached[replica]
            in_use = self._in_use[replica]
            return prefill / view.block_size_tokens + len(in_use) + sum(block not in in_use for block in blocks)

        return self.fewest(self.everyone, load)

    def booked(self, number: int, request: TraceRequest, replica: int, uncached_tokens: int) -> None:
        """Its prefill and its blocks count until the first and the last token."""
        self._uncached[number] = uncached_tokens
        self._prefill_tokens[replica] += uncached_tokens
        self._in_use[replica].update(self._blocks(number, request))

    def prefilled(self, number: int, replica: int) -> None:
        """The prefill is done."""
        self._prefill_tokens[replica] -= self._uncached.pop(number)

    def finished(self, number: int, request: TraceRequest, replica: int) -> None:
        """Its blocks are free unless others use them."""
        in_use = self._in_use[replica]
        for block in self._blocks(number, request):
            in_use[block] -= 1
            if not in_use[block]:
                del in_use[block]

    def _blocks(self, number: int, request: TraceRequest) -> tuple[int, ...]:
        # The partial last block is nobody else's; the negative number cannot meet a key.
        partial = request.input_tokens % self.view.block_size_tokens
        return (*request.keys, -1 - number) if partial else request.keys


POLICIES: dict[str, type[Policy]] = {
    "kv_aware": KvAware,
    "round_robin": RoundRobin,
    "least_requests": LeastRequests,
    "session_hash": SessionHash,
    "cache_aware": CacheAware,
    "ray_prefix": RayPrefix,
    "llm_d": LlmD,
    "dynamo": Dynamo,
}
