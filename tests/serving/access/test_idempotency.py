"""A retry with the same idempotency key is one request: refused while it runs, replayed when it is done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.idempotency import (
    FRAME_OVERHEAD_BYTES,
    MAX_KEY_CHARS,
    IdempotencyConfig,
    IdempotencyStore,
    Replay,
    Token,
)
from serving.errors import Conflict, InvalidRequest
from serving.request.frame import Frame

FRAMES = [Frame(data='{"a":1}', text="a"), Frame(data='{"b":2}', finish_reason="stop")]


class Clock:
    """Monotonic seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def claim(store: IdempotencyStore, tenant: str = "a", key: str = "k", body: str = "h") -> Token:
    token = store.begin(tenant, key, body)
    assert isinstance(token, Token)
    return token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> IdempotencyStore:
    return IdempotencyStore(IdempotencyConfig(ttl_s=60, max_running_s=300), clock)


def test_retry_of_a_finished_request_is_replayed(store: IdempotencyStore) -> None:
    """One charge, the same answer."""
    claim(store).finish(FRAMES)
    assert store.begin("a", "k", "h") == Replay(tuple(FRAMES))
    assert store.begin("a", "k", "h") == Replay(tuple(FRAMES))


def test_retry_of_a_running_request_is_a_conflict(store: IdempotencyStore) -> None:
    """The second one gets 409."""
    claim(store)
    with pytest.raises(Conflict):
        store.begin("a", "k", "h")


@pytest.mark.parametrize("finished", [True, False])
def test_key_with_another_body_is_refused(store: IdempotencyStore, finished: bool) -> None:
    token = claim(store)
    if finished:
        token.finish(FRAMES)
    with pytest.raises(InvalidRequest, match="another request") as refused:
        store.begin("a", "k", "other")
    assert refused.value.param == "Idempotency-Key"


def test_failed_request_is_run_again(store: IdempotencyStore) -> None:
    claim(store).abandon()
    claim(store)


def test_tenants_do_not_share_keys(store: IdempotencyStore) -> None:
    claim(store, tenant="a").finish(FRAMES)
    claim(store, tenant="b")


def test_abandon_after_finish_keeps_the_answer(store: IdempotencyStore) -> None:
    """Callers abandon in `finally`, also after they finished."""
    token = claim(store)
    token.finish(FRAMES)
    token.abandon()
    assert isinstance(store.begin("a", "k", "h"), Replay)


def test_late_end_of_an_expired_claim_does_not_touch_its_successor(store: IdempotencyStore, clock: Clock) -> None:
    stale = claim(store)
    clock.now += 300
    claim(store)
    stale.finish(FRAMES)
    stale.abandon()
    with pytest.raises(Conflict):
        store.begin("a", "k", "h")


def test_answer_is_forgotten_after_its_time_to_live(store: IdempotencyStore, clock: Clock) -> None:
    claim(store).finish(FRAMES)
    clock.now += 59.9
    assert isinstance(store.begin("a", "k", "h"), Replay)
    clock.now += 0.1
    assert isinstance(store.begin("a", "k", "h"), Token)


def test_claim_that_nobody_ends_expires(store: IdempotencyStore, clock: Clock) -> None:
    claim(store)
    clock.now += 299.9
    with pytest.raises(Conflict):
        store.begin("a", "k", "h")
    clock.now += 0.1
    claim(store)


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_CHARS + 1)])
def test_key_of_unusable_length_is_refused(store: IdempotencyStore, key: str) -> None:
    with pytest.raises(InvalidRequest):
        store.begin("a", key, "h")


def test_answer_larger_than_the_store_is_not_kept(clock: Clock) -> None:
    store = IdempotencyStore(IdempotencyConfig(max_bytes=FRAME_OVERHEAD_BYTES + 10), clock)
    claim(store).finish([Frame(data="x" * 11)])
    claim(store).finish([Frame(data="x" * 10)])
    assert isinstance(store.begin("a", "k", "h"), Replay)


Steps = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from("klm"), st.sampled_from("xy"), st.integers(0, 3), st.floats(0, 40)
    ),
    max_size=60,
)


@given(steps=Steps)
def test_bounds_hold_and_a_claim_is_never_held_twice(steps: list[tuple[str, str, str, int, float]]) -> None:
    clock = Clock()
    config = IdempotencyConfig(ttl_s=60, max_running_s=100, max_entries=3, max_bytes=4 * FRAME_OVERHEAD_BYTES)
    store = IdempotencyStore(config, clock)
    held: dict[tuple[str, str], tuple[Token, float]] = {}
    for tenant, key, body, action, wait in steps:
        clock.now += wait
        held = {k: (t, since) for k, (t, since) in held.items() if clock.now - since < config.max_running_s}
        try:
            got = store.begin(tenant, key, body)
        except (Conflict, InvalidRequest):
            got = None
        if isinstance(got, Token):
            assert (tenant, key) not in held
            held[tenant, key] = (got, clock.now)
        if action and (tenant, key) in held:
            token, _ = held.pop((tenant, key))
            token.abandon() if action == 1 else token.finish([Frame()] * action)
        assert len(store._answers) <= 3
        assert store._bytes == sum(a.size_bytes for a in store._answers.values()) <= config.max_bytes
        assert len(store._running) == len(held)
