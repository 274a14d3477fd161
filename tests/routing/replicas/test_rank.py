"""routing/replicas/rank.py: the replica where the prompt starts earliest, priced for what the choice leaves behind."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from routing.replicas.rank import NoReplicaAvailable, Prompt, RankedReplica, ReplicaConfig, ReplicaState, rank_replicas

CONFIG = ReplicaConfig()
PROMPT = Prompt(input_tokens=4000)


def replica(name: str, **fields: object) -> ReplicaState:
    return ReplicaState(replica_id=name, **{"prefill_tokens_per_s": 10_000.0, **fields})  # type: ignore[arg-type]


def best(*replicas: ReplicaState, prompt: Prompt = PROMPT, **more: float) -> str:
    return rank_replicas(prompt, replicas, CONFIG, **more)[0].replica_id


STATES = st.builds(
    ReplicaState,
    replica_id=st.uuids().map(str),
    wait_s=st.none() | st.floats(0, 60),
    prefill_tokens_per_s=st.none() | st.floats(10, 1e6),
    cached_tokens=st.integers(0, 8000),
    host_tokens=st.integers(0, 8000),
    host_load_tokens_per_s=st.none() | st.floats(1e4, 1e7),
    utilization=st.floats(0, 1),
    recent_tokens=st.floats(0, 1e7),
    recent_requests=st.floats(0, 1e4),
    resident_blocks=st.integers(0, 10**6),
    healthy=st.booleans(),
)
FLEETS = st.lists(STATES, min_size=1, max_size=8, unique_by=lambda state: state.replica_id).filter(
    lambda states: any(state.healthy for state in states)
)
PROMPTS = st.builds(
    Prompt, input_tokens=st.integers(1, 8000), session_replica_id=st.none(), seed=st.integers(0, 2**64 - 1)
)
SITUATIONS = {"unseen_work_s": st.floats(0, 10), "followed_ratio": st.floats(0, 1)}


# --- which replica


@pytest.mark.parametrize(
    ("left", "right", "winner"),
    [
        ({"wait_s": 0.5}, {"wait_s": 0.4}, "right"),
        ({"cached_tokens": 2000}, {"cached_tokens": 1000}, "left"),
        # 2,000 cached tokens save 0.2 s of prefill and 0.6 s of copy price: worth a wait of 0.8 s, not of more.
        ({"wait_s": 0.79, "cached_tokens": 2000}, {}, "left"),
        ({"wait_s": 0.81, "cached_tokens": 2000}, {}, "right"),
        # What lies in host memory is loaded at 200k tokens/s: 0.01 s instead of 0.8 s.
        ({"wait_s": 0.78, "host_tokens": 2000}, {}, "left"),
        ({"wait_s": 0.80, "host_tokens": 2000}, {}, "right"),
        ({"prefill_tokens_per_s": 20_000.0}, {}, "left"),
        # A second of work delays more followers on a busy replica.
        ({"utilization": 0.5}, {"utilization": 0.4}, "right"),
        ({"wait_s": None}, {"wait_s": 0.1}, "tie"),
    ],
)
def test_lowest_cost_wins(left: dict[str, float], right: dict[str, float], winner: str) -> None:
    ranked = rank_replicas(PROMPT, [replica("left", **left), replica("right", **right)], CONFIG)
    if winner == "tie":
        assert ranked[0].cost_s == pytest.approx(ranked[1].cost_s)
    else:
        assert ranked[0].replica_id == winner


def test_cold_prompt_goes_to_the_replica_with_the_fewest_cached_blocks() -> None:
    assert best(replica("full", resident_blocks=500), replica("empty", resident_blocks=499)) == "empty"


def test_session_breaks_a_tie_before_the_cached_blocks_do() -> None:
    prompt = Prompt(4000, session_replica_id="full")
    assert best(replica("full", resident_blocks=500), replica("empty"), prompt=prompt) == "full"


def test_session_never_outweighs_a_cost() -> None:
    prompt = Prompt(4000, session_replica_id="slow")
    assert best(replica("slow", wait_s=0.01), replica("free"), prompt=prompt) == "free"


def test_last_ties_are_spread_by_seed() -> None:
    winners = {best(replica("a"), replica("b"), replica("c"), prompt=Prompt(4000, seed=seed)) for seed in range(40)}
    assert winners == {"a", "b", "c"}


def test_no_healthy_replica_is_an_error_with_a_name() -> None:
    """Nobody to route to is told apart from a failed request."""
    with pytest.raises(NoReplicaAvailable, match="none of 2"):
        rank_replicas(PROMPT, [replica("a", healthy=False), replica("b", healthy=False)], CONFIG)
    with pytest.raises(NoReplicaAvailable, match="none of 0"):
        rank_replicas(PROMPT, [], CONFIG)


def test_unhealthy_replica_is_never_ranked() -> None:
    ranked = rank_replicas(PROMPT, [replica("ill", cached_tokens=3999, healthy=False), replica("well")], CONFIG)
    assert [entry.replica_id for entry in ranked] == ["well"]


def test_replica_without_a_measured_rate_counts_as_fast_as_the_others() -> None:
    states = [replica("old", prefill_tokens_per_s=50_000.0), replica("new", prefill_tokens_per_s=None)]
    assert {entry.prefill_s for entry in rank_replicas(PROMPT, states, CONFIG)} == {4000 / 50_000}


def test_last_token_is_always_computed() -> None:
    (entry,) = rank_replicas(PROMPT, [replica("a", cached_tokens=4000, host_tokens=16)], CONFIG)
    assert (entry.cached_tokens, entry.host_tokens, entry.uncached_tokens) == (3999, 0, 1)


def test_hot_replica_gives_a_copy_of_its_prefix_away() -> None:
    """A prefix everyone shares spreads: all on one replica costs more than a second copy."""
    hot = replica("hot", cached_tokens=3900, recent_tokens=400_000.0, recent_requests=100.0)
    cold = [replica(name) for name in ("b", "c", "d")]
    assert best(hot, *cold) != "hot"
    even = [replica(name, recent_tokens=100_000.0, recent_requests=25.0) for name in ("b", "c", "d")]
    assert best(hot._replace(recent_tokens=100_000.0, recent_requests=25.0), *even) == "hot"


def test_little_evidence_moves_no_session() -> None:
    """One request alone is no hot spot: its next turn goes back to its prefix."""
    assert best(replica("a", cached_tokens=3900, recent_tokens=4000.0, recent_requests=1.0), replica("b")) == "a"


def test_faster_replica_may_take_more() -> None:
    fast = replica("fast", prefill_tokens_per_s=30_000.0, recent_tokens=300_000.0, recent_requests=75.0)
    slow = replica("slow", recent_tokens=100_000.0, recent_requests=25.0)
    assert [entry.balance_s for entry in rank_replicas(PROMPT, [fast, slow], CONFIG)] == [0.0, 0.0]


def test_burst_leaves_the_shortest_queue_to_whoever_follows() -> None:
    idle, busy = replica("idle"), replica("busy", wait_s=0.3)
    assert best(idle, busy) == "idle"
    assert best(idle, busy, followed_ratio=1.0) == "busy"


def test_processes_that_see_the_same_idle_replica_do_not_all_choose_it() -> None:
    states = [replica("idle"), *(replica(name, wait_s=0.2) for name in ("b", "c", "d"))]

    def chosen(unseen_work_s: float) -> set[str]:
        return {best(*states, prompt=Prompt(4000, seed=seed), unseen_work_s=unseen_work_s) for seed in range(60)}

    assert chosen(0.0) == {"idle"}
    assert chosen(4.0) == {"idle", "b", "c", "d"}


# --- invariants


@given(FLEETS, PROMPTS, st.fixed_dictionaries(SITUATIONS), st.randoms(use_true_random=False))
def test_order_of_the_replicas_does_not_matter(fleet, prompt, situation, rng) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(fleet)
    rng.shuffle(shuffled)
    ours, theirs = (rank_replicas(prompt, states, CONFIG, **situation) for states in (fleet, shuffled))
    assert [entry.replica_id for entry in ours] == [entry.replica_id for entry in theirs]


@given(FLEETS, PROMPTS, st.fixed_dictionaries(SITUATIONS))
def test_cost_is_the_sum_of_its_parts_and_orders_the_list(fleet, prompt, situation) -> None:  # type: ignore[no-untyped-def]
    ranked = rank_replicas(prompt, fleet, CONFIG, **situation)
    assert {entry.replica_id for entry in ranked} == {state.replica_id for state in fleet if state.healthy}
    for entry in ranked:
        parts = entry.wait_s + entry.prefill_s + entry.load_s + entry.copy_s + entry.balance_s + entry.crowd_s
        assert entry.cost_s == pytest.approx(parts)
        assert entry.cached_tokens + entry.host_tokens + entry.uncached_tokens == prompt.input_tokens
        assert min(entry.wait_s, entry.load_s, entry.copy_s, entry.crowd_s, entry.cached_tokens) >= 0
        assert entry.uncached_tokens >= 1
    steps = [round(entry.cost_s / CONFIG.tie_s) for entry in ranked]
    assert steps == sorted(steps)


@given(FLEETS, PROMPTS, st.fixed_dictionaries(SITUATIONS), st.integers(1, 8000))
def test_more_cached_never_ranks_worse(fleet, prompt, situation, more) -> None:  # type: ignore[no-untyped-def]
    target = next(state for state in fleet if state.healthy)
    # Loading from host memory can be slower than computing. Only cached tokens are free.
    before = [state._replace(host_tokens=0) for state in fleet]
    after = [
        state._replace(cached_tokens=state.cached_tokens + more) if state.replica_id == target.replica_id else state
        for state in before
    ]
    assert _rank(before, prompt, situation, target) >= _rank(after, prompt, situation, target)


@given(FLEETS, PROMPTS, st.fixed_dictionaries(SITUATIONS))
def test_a_replica_that_is_worse_in_every_part_never_wins(fleet, prompt, situation) -> None:  # type: ignore[no-untyped-def]
    ranked = rank_replicas(prompt, fleet, CONFIG, **situation)
    winner = ranked[0]
    for other in ranked[1:]:
        assert not all(_parts(other)[n] < _parts(winner)[n] - CONFIG.tie_s for n in range(6))


@given(STATES, PROMPTS, st.fixed_dictionaries(SITUATIONS), st.floats(0.01, 10), st.integers(1, 1000))
def test_a_twin_with_a_longer_queue_and_less_cached_comes_second(state, prompt, situation, wait_s, tokens) -> None:  # type: ignore[no-untyped-def]
    state = state._replace(healthy=True, host_tokens=0, wait_s=state.wait_s or 0.0)
    assume(state.cached_tokens >= tokens)
    # Unseen work is poured at random on purpose. Everything else must agree.
    situation = {**situation, "unseen_work_s": 0.0, "followed_ratio": min(0.6, situation["followed_ratio"])}
    worse = state._replace(replica_id="worse", wait_s=state.wait_s + wait_s, cached_tokens=state.cached_tokens - tokens)
    assert rank_replicas(prompt, [worse, state], CONFIG, **situation)[0].replica_id == state.replica_id


def _rank(fleet: list[ReplicaState], prompt: Prompt, situation: dict[str, float], target: ReplicaState) -> int:
    order = [entry.replica_id for entry in rank_replicas(prompt, fleet, CONFIG, **situation)]
    return order.index(target.replica_id)


def _parts(entry: RankedReplica) -> tuple[float, ...]:
    return entry.wait_s, entry.prefill_s, entry.load_s, entry.copy_s, entry.balance_s, entry.crowd_s
