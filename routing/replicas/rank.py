"""Choose the replica where a prompt starts earliest, counting what a copy of its prefix elsewhere would cost."""

from collections.abc import Sequence
from typing import NamedTuple

import xxhash
from pydantic import Field

from routing.records import Record

# Decaying sums below this are rounding errors of a tier that has been idle for long, not evidence.
FORGOTTEN_REQUESTS = 1e-6


class NoReplicaAvailable(Exception):
    """No healthy replica to choose from. The caller falls back or fails the request."""


class ReplicaConfig(Record):
    """The prices in a replica's cost. The figures were chosen on perturbed replays: benchmarks/LOG.md, 2026-11-21."""

    copy_price: float = Field(
        3.0, ge=0, description="seconds charged per second of prefill for the copy it leaves behind, on an idle replica"
    )
    copy_price_slope: float = Field(
        6.0, ge=0, description="added per u/(1-u) at utilization u: a second of work delays that many more when busy"
    )
    max_copy_price: float = Field(16.0, ge=0)
    balance: float = Field(
        1.5, ge=0, description="price of an uneven share. At >= 1 a prefix everyone shares spreads to every replica"
    )
    crowd_price: float = Field(
        1.5,
        ge=0,
        description="charged per second by which the shortest queue grows, when every request is followed at once",
    )
    balance_prior_prompts: float = Field(
        4.0, gt=0, description="mean prompts of evidence before a share counts as uneven"
    )
    tie_s: float = Field(0.001, gt=0, description="costs in the same step of this size are a tie")
    prefill_tokens_per_s: float = Field(
        10_000.0, gt=0, description="assumed while a replica's own rate is not measured"
    )
    host_load_tokens_per_s: float = Field(200_000.0, gt=0, description="assumed rate of host memory -> GPU, likewise")


# Named tuples, not dataclasses: with 8 replicas 17 of them are made per request, at a third of the price.


class Prompt(NamedTuple):
    """What the choice needs to know about a request.

    session_replica_id: where the session's last request went. It only breaks ties.
    seed: any number that differs between requests. It decides last ties. With several gateway processes it also decides
        which of them avoids which replica. The same seed gives the same ranking.
    """

    input_tokens: int
    session_replica_id: str | None = None
    seed: int = 0


class ReplicaState(NamedTuple):
    """One replica as seen for one prompt. `load.py` measures it, `kv_blocks.py` matches the prefix.

    wait_s: seconds until a prefill sent now would start. None (unknown): the mean of the known ones.
    prefill_tokens_per_s: None (not measured yet): the mean of the others, or the config's figure.
    host_load_tokens_per_s: None: the config's figure.
    cached_tokens: prefix of this prompt that lies in the replica's GPU cache.
    host_tokens: what follows it in the replica's host memory, to be loaded instead of computed.
    utilization: share of recent time spent in prefill, 0..1.
    recent_tokens, recent_requests: prompts routed there lately (decaying sums), all gateway processes together.
    resident_blocks: KV blocks in its cache.
    """

    replica_id: str
    wait_s: float | None = 0.0
    prefill_tokens_per_s: float | None = None
    cached_tokens: int = 0
    host_tokens: int = 0
    host_load_tokens_per_s: float | None = None
    utilization: float = 0.0
    recent_tokens: float = 0.0
    recent_requests: float = 0.0
    resident_blocks: int = 0
    healthy: bool = True


class RankedReplica(NamedTuple):
    """A candidate with its cost in seconds and the parts that add up to it. The lowest is first.

    wait_s: the queue, as the choice saw it. prefill_s: computing what is not cached. load_s: fetching from host memory.
    copy_s: price of the copy that computing leaves in the cache. balance_s: price of an uneven share, < 0 for replicas
    that got less than theirs.
    """

    replica_id: str
    cost_s: float
    wait_s: float
    prefill_s: float
    load_s: float
    copy_s: float
    balance_s: float
    crowd_s: float
    cached_tokens: int
    host_tokens: int
    uncached_tokens: int


def rank_replicas(
    prompt: Prompt,
    replicas: Sequence[ReplicaState],
    config: ReplicaConfig,
    unseen_work_s: float = 0.0,
    followed_ratio: float = 0.0,
) -> list[RankedReplica]:
    """Order the healthy replicas from best to worst for one prompt. The order of `replicas` does not matter.

    cost = wait + prefill + load + copy + balance + crowd, see RankedReplica.

    copy = price * prefill. The price grows with the replica's utilization u as u/(1-u), the number of followers that a
    second of work delays in a busy queue. On an idle tier a copy is cheap. Near saturation every lost hit delays
    everyone. balance grows with the square of the deviation from an even share, so that noise is free and a hot spot is
    not. A replica that gets everything pays more than the copy of a mean prompt costs on one that gets nothing.
    crowd keeps a short queue open in a burst: the next request waits as long as the shortest queue
    that this choice leaves.

    followed_ratio: share of requests that another one follows at once (routing/replicas/load.py `Arrivals`), 0..1.
    unseen_work_s: work that other gateway processes have booked unseen (routing/replicas/load.py `UnseenWork`). It is
    added to the shortest queues, each time split differently. So processes that see the same idle replica do not all
    choose it.
    Ties: the session's replica, then the fewest cached blocks, then by seed.
    Raises NoReplicaAvailable when none is healthy.
    """
    candidates = [replica for replica in replicas if replica.healthy]
    if not candidates:
        raise NoReplicaAvailable(f"none of {len(replicas)} replicas is healthy")
    draws = [_draw(prompt.seed, replica.replica_id) for replica in candidates]
    waits = _waits(candidates, draws, unseen_work_s)
    # A replica that has not prefilled yet is taken to be as fast as the others, or it would never be tried.
    measured = [replica.prefill_tokens_per_s for replica in candidates if replica.prefill_tokens_per_s]
    assumed_rate = sum(measured) / len(measured) if measured else config.prefill_tokens_per_s
    rates = [replica.prefill_tokens_per_s or assumed_rate for replica in candidates]
    prices = [_copy_price(replica.utilization, config) for replica in candidates]
    excesses, mean_prompt_s = _uneven_shares(prompt, candidates, rates, config)
    balance_unit_s = config.balance * (1 + sum(prices) / len(prices)) * mean_prompt_s
    crowd_price = config.crowd_price * followed_ratio
    shortest_s, *longer_s = sorted(waits)
    next_shortest_s = longer_s[0] if longer_s else shortest_s
    ranked: list[tuple[tuple[int, bool, int, float, str], RankedReplica]] = []
    for replica, draw, wait_s, rate, price, excess in zip(
        candidates, draws, waits, rates, prices, excesses, strict=True
    ):
        # The last token is computed even when all of the prompt is cached: it yields the first logits.
        cached_tokens = min(replica.cached_tokens, prompt.input_tokens - 1)
        host_tokens = min(replica.host_tokens, prompt.input_tokens - 1 - cached_tokens)
        uncached_tokens = prompt.input_tokens - cached_tokens - host_tokens
        prefill_s = uncached_tokens / rate
        load_s = host_tokens / (replica.host_load_tokens_per_s or config.host_load_tokens_per_s)
        copy_s = price * prefill_s
        balance_s = balance_unit_s * excess * abs(excess)
        # Only whoever takes the shortest queue lengthens it, and no further than up to the next one.
        lengthened_s = min(wait_s + prefill_s + load_s, next_shortest_s) - shortest_s if wait_s == shortest_s else 0.0
        crowd_s = crowd_price * max(0.0, lengthened_s)
        cost_s = wait_s + prefill_s + load_s + copy_s + balance_s + crowd_s
        entry = RankedReplica(
            replica_id=replica.replica_id,
            cost_s=cost_s,
            wait_s=wait_s,
            prefill_s=prefill_s,
            load_s=load_s,
            copy_s=copy_s,
            balance_s=balance_s,
            crowd_s=crowd_s,
            cached_tokens=cached_tokens,
            host_tokens=host_tokens,
            uncached_tokens=uncached_tokens,
        )
        elsewhere = replica.replica_id != prompt.session_replica_id
        order = (round(cost_s / config.tie_s), elsewhere, replica.resident_blocks, draw, replica.replica_id)
        ranked.append((order, entry))
    ranked.sort(key=lambda pair: pair[0])
    return [entry for _, entry in ranked]


def _copy_price(utilization: float, config: ReplicaConfig) -> float:
    """Seconds charged per second of prefill for the copy it leaves behind."""
    busy_ratio = min(utilization, 0.99)
    return min(config.max_copy_price, config.copy_price + config.copy_price_slope * busy_ratio / (1 - busy_ratio))


def _uneven_shares(
    prompt: Prompt, candidates: Sequence[ReplicaState], rates: Sequence[float], config: ReplicaConfig
) -> tuple[list[float], float]:
    """(each replica's excess as a share of an even share, -1 at least, and the mean prompt's seconds of prefill).

    Shares are prompts in seconds of prefill at the replica's own rate, cached or not. So a faster replica may take
    more. One that gets every request is a hot spot even while each of them hits its cache.
    """
    shares_s = [replica.recent_tokens / rate for replica, rate in zip(candidates, rates, strict=True)]
    requests = sum(replica.recent_requests for replica in candidates)
    mean_prompt_s = (
        sum(shares_s) / requests if requests > FORGOTTEN_REQUESTS else prompt.input_tokens * len(rates) / sum(rates)
    )
    mean_s = sum(shares_s) / len(shares_s)
    scale_s = mean_s + config.balance_prior_prompts * mean_prompt_s
    if scale_s <= 0:
        return [0.0] * len(shares_s), mean_prompt_s
    return [(share_s - mean_s) / scale_s for share_s in shares_s], mean_prompt_s


def _waits(candidates: Sequence[ReplicaState], draws: Sequence[float], unseen_work_s: float) -> list[float]:
    """Each queue in seconds, unknown ones filled in, with the unseen work added to the shortest."""
    known = [replica.wait_s for replica in candidates if replica.wait_s is not None]
    assumed_s = sum(known) / len(known) if known else 0.0
    waits = [assumed_s if replica.wait_s is None else replica.wait_s for replica in candidates]
    if unseen_work_s <= 0:
        return waits
    level_s = _water_level(waits, unseen_work_s)
    # Other gateway processes have sent work that we have not heard of. Assume it went to the shortest queues, and split
    # it by the random draw. On average a queue below the level is filled up to it.
    return [wait_s + 2 * draw * max(0.0, level_s - wait_s) for wait_s, draw in zip(waits, draws, strict=True)]


def _water_level(waits: Sequence[float], work_s: float) -> float:
    """How high work_s fills the queues when it always goes to the shortest."""
    level_s, filled_s = 0.0, 0.0
    heights = sorted(waits)
    for n, height in enumerate(heights, start=1):
        filled_s += height
        level_s = (work_s + filled_s) / n
        if n == len(heights) or level_s <= heights[n]:
            break
    return level_s


def _draw(seed: int, replica_id: str) -> float:
    """A pseudo-random number in 0..1 that depends on the request and the replica alone."""
    return xxhash.xxh3_64_intdigest(replica_id.encode(), seed & 0xFFFF_FFFF_FFFF_FFFF) / 2**64
