"""What a tracker does with what it is told: which replica is first, what is booked, and that nothing stays booked."""

import asyncio
import threading
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.records import Api, ReplicaMode
from routing.replicas.kv_blocks import MAX_REPLICAS, ExactBlocks, MirrorBlocks, block_keys, root_key
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.kv_events import KvFollower, KvSource
from serving.replicas.load_news import LoadNews
from serving.replicas.routed_prompt import RoutedPrompt, routed_prompt
from serving.replicas.tracker import ReplicaTracker, shared_tracker
from serving.request.call import Adapter
from serving.request.payloads import DraftPayload

SIZE = 16
FACTS = {"block_size_tokens": SIZE, "kv_blocks": 100}
THREE = ["a", "b", "c"]


def prompt(
    request_id: str, tokens: int = 100, first: int = 0, salt: str = "s", session: str | None = None
) -> RoutedPrompt:
    """A prompt of `tokens`; prompts with the same `first` share every token they both have."""
    return RoutedPrompt(request_id, [first, *range(1, tokens)], salt, session)


async def new_tracker(facts: dict[str, Any] | None = None, **config: Any) -> ReplicaTracker:
    tracker = ReplicaTracker(ReplicaRoutingConfig(**config))
    tracker.set_replicas(dict.fromkeys(THREE, FACTS if facts is None else facts))
    return tracker


async def serve(tracker: ReplicaTracker, asked: RoutedPrompt) -> str:
    """One request from its ranking to its end; the replica that had it."""
    tracker.expect(asked)
    chosen = tracker.rank(asked, THREE)[0]
    tracker.routed(asked.request_id, chosen)
    await asyncio.sleep(0)  # the model of the cache learns of it after the request has left
    tracker.prefilled(asked.request_id)
    tracker.release(asked.request_id)
    return chosen


async def test_replica_that_holds_the_prefix_is_asked_first() -> None:
    tracker = await new_tracker()
    holder = await serve(tracker, prompt("1"))
    tracker.expect(prompt("2"))
    assert tracker.rank(prompt("2"), THREE)[0] == holder
    choice = tracker.choice("2")
    assert choice is not None
    assert (choice.mode, choice.expected_cached_tokens) == (ReplicaMode.MIRROR, 96)


async def test_block_of_the_last_token_is_not_expected_to_be_reused() -> None:
    """The engine computes the last token again, and with it the whole block it is in."""
    tracker = await new_tracker()
    await serve(tracker, prompt("1", tokens=SIZE * 4))
    tracker.rank(prompt("2", tokens=SIZE * 4), THREE)
    choice = tracker.choice("2")
    assert choice is not None
    assert choice.expected_cached_tokens == SIZE * 3


async def test_prefix_of_another_tenant_is_none() -> None:
    """The salt is part of every key."""
    tracker = await new_tracker()
    await serve(tracker, prompt("1", salt="one"))
    tracker.rank(prompt("2", salt="two"), THREE)
    choice = tracker.choice("2")
    assert choice is not None
    assert choice.expected_cached_tokens == 0


async def test_prefix_under_another_adapter_is_none_and_under_the_same_it_is_found() -> None:
    """The engine's blocks carry the adapter's name, and so do the keys."""

    def drafted(request_id: str, name: str | None) -> RoutedPrompt:
        adapter = None if name is None else Adapter(name, "/adapters", "0" * 64)
        return routed_prompt(
            DraftPayload(Api.CHAT, {}, request_id, list(range(100)), "s", stream=False, adapter=adapter)
        )

    tracker = await new_tracker()
    await serve(tracker, drafted("1", "tiny:terse@1"))
    for request_id, name, cached in (("2", None, 0), ("3", "tiny:terse@2", 0), ("4", "tiny:terse@1", 96)):
        tracker.rank(drafted(request_id, name), THREE)
        choice = tracker.choice(request_id)
        assert choice is not None
        assert choice.expected_cached_tokens == cached


async def test_replicas_that_say_nothing_of_their_cache_are_left_to_two_choices() -> None:
    tracker = await new_tracker(facts={})
    assert tracker.rank(prompt("1"), THREE) == []
    choice = tracker.choice("1")
    assert choice is not None
    assert (choice.mode, choice.expected_cached_tokens) == (ReplicaMode.FALLBACK, None)
    tracker.routed("1", "b")
    assert tracker.replicas["b"].load.outstanding == 1
    assert tracker.modes() == {ReplicaMode.FALLBACK: 3}


async def test_several_engines_in_one_replica_are_modelled() -> None:
    source = {"endpoint": "tcp://127.0.0.1:1", "replay_endpoint": "tcp://127.0.0.1:2"}
    tracker = await new_tracker(facts={**FACTS, "kv_events": [source, source]})
    assert tracker.modes() == {ReplicaMode.MIRROR: 3}


async def test_ranking_twice_books_once() -> None:
    tracker = await new_tracker()
    first = tracker.rank(prompt("1"), THREE)[0]
    assert tracker.rank(prompt("1"), [first])[0] == first
    assert tracker.replicas[first].load.outstanding == 1
    assert tracker.counts.decisions == {ReplicaMode.MIRROR: 1}


async def test_booking_moves_to_the_replica_that_took_the_request() -> None:
    tracker = await new_tracker()
    first, second, _ = tracker.rank(prompt("1"), THREE)
    tracker.routed("1", second)
    assert [tracker.replicas[r].load.outstanding for r in (first, second)] == [0, 1]


async def test_refused_request_is_ranked_and_booked_again() -> None:
    tracker = await new_tracker()
    tracker.expect(prompt("1"))
    first, *others = tracker.rank(prompt("1"), THREE)
    tracker.call_ended("1")
    assert tracker.replicas[first].load.outstanding == 0
    second = tracker.rank(prompt("1"), others)[0]
    assert tracker.replicas[second].load.outstanding == 1


async def test_request_nobody_expected_ends_with_its_call() -> None:
    tracker = await new_tracker()
    tracker.rank(prompt("1"), THREE)
    tracker.call_ended("1")
    assert tracker.open_requests == 0


async def follow_up(n: int, session: str | None) -> bool:
    """Whether a second short prompt goes where the first one of its session went; no cache has a say."""
    tracker = await new_tracker(cost={"tie_s": 10})  # whatever the clock says of so short a prompt is a tie
    first = await serve(tracker, prompt(f"{n}", tokens=SIZE - 1, session=session))
    return await serve(tracker, prompt(f"{n} again", tokens=SIZE - 1, session=session)) == first


async def test_session_breaks_a_tie_and_no_more() -> None:
    assert all([await follow_up(n, "chat") for n in range(8)])
    assert not all([await follow_up(n, None) for n in range(8)])
    tracker = await new_tracker()
    busy = await serve(tracker, prompt("busy", session="long"))
    tracker.replicas[busy].load.book("work", 10**12, 10**12, time.perf_counter())
    assert tracker.rank(prompt("next", first=99, session="long"), THREE)[0] != busy


async def test_session_of_one_tenant_says_nothing_of_anothers() -> None:
    tracker = await new_tracker(max_sessions=2)
    await serve(tracker, prompt("1", salt="one", session="same"))
    assert ("two", "same") not in tracker._sessions
    for n in range(5):
        await serve(tracker, prompt(f"x{n}", session=f"{n}"))
    assert len(tracker._sessions) == 2


async def test_lost_replica_leaves_no_block_and_no_booking() -> None:
    tracker = await new_tracker()
    holder = await serve(tracker, prompt("1"))
    tracker.rank(prompt("2"), THREE)
    tracker.remove_replica(holder)
    assert holder not in tracker.index.replica_ids
    left = [r for r in THREE if r != holder]
    assert tracker.rank(prompt("2"), left)[0] in left
    tracker.release("2")
    assert [tracker.replicas[r].load.outstanding for r in left] == [0, 0]
    assert tracker.open_requests == 0


async def test_replica_that_is_back_starts_empty() -> None:
    tracker = await new_tracker()
    holder = await serve(tracker, prompt("1"))
    tracker.set_replicas(dict.fromkeys([r for r in THREE if r != holder], FACTS))
    tracker.set_replicas(dict.fromkeys(THREE, FACTS))
    assert tracker.index.match(block_keys(prompt("1").prompt_token_ids, SIZE, root_key("s")))[holder] == 0


async def test_replica_without_a_measured_speed_counts_as_fast_as_its_peers() -> None:
    tracker = await new_tracker()
    tracker.replicas["a"].load.speed.observe(100, 1.0)
    speeds = {tracker.replicas[r].load.speed.tokens_per_s for r in THREE}
    assert len(speeds) == 1
    assert speeds.pop() < tracker.config.cost.prefill_tokens_per_s


async def test_replica_beyond_those_an_index_can_tell_apart_is_still_used() -> None:
    tracker = ReplicaTracker(ReplicaRoutingConfig())
    many = [f"replica {n}" for n in range(MAX_REPLICAS + 1)]
    tracker.set_replicas(dict.fromkeys(many, FACTS))
    assert tracker.modes() == {ReplicaMode.MIRROR: MAX_REPLICAS, ReplicaMode.FALLBACK: 1}
    assert set(tracker.rank(prompt("1"), many)) == set(many)


# Host memory


async def test_prefix_in_host_memory_leads_to_its_replica() -> None:
    """The GPU's cache of five blocks has long forgotten the prompt; loading it costs less than computing it."""
    tracker = await new_tracker(facts={**FACTS, "kv_blocks": 5, "host_blocks": 1000})
    holder = await serve(tracker, prompt("1"))
    for n in range(60):
        await serve(tracker, prompt(f"other {n}", first=n + 1))
    for _ in range(500):  # an engine is not as fast as this test
        tracker.tier_rate.observe(1000, 0.5)
    asked = prompt("2")
    assert tracker.index.match(block_keys(asked.prompt_token_ids, SIZE, root_key("s"))) == dict.fromkeys(THREE, 0)
    tracker.expect(asked)
    assert tracker.rank(asked, THREE)[0] == holder
    choice = tracker.choice("2")
    assert choice is not None
    assert choice.expected_cached_tokens == 96
    tracker.remove_replica(holder)
    assert holder not in tracker.host_index.replica_ids


# Replicas that report what they hold


def report(tracker: ReplicaTracker, replica_id: str) -> KvFollower:
    """Give a replica a follower, as if an engine were there."""
    replica = tracker.replicas[replica_id]
    assert isinstance(replica.blocks, MirrorBlocks)
    replica.blocks.cleared()
    replica.blocks = ExactBlocks(tracker.index, replica_id, 100)
    source = KvSource("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    replica.follower = KvFollower(source, SIZE, replica.blocks, synced=True)
    replica.task = asyncio.create_task(asyncio.sleep(60))
    return replica.follower


async def test_only_what_an_engine_reports_counts_in_exact_mode() -> None:
    tracker = await new_tracker()
    follower = report(tracker, "b")
    asked = prompt("1")
    follower.blocks.stored([1, 2, 3], None, asked.prompt_token_ids[: SIZE * 3], SIZE, root_key("s"))
    assert tracker.rank(asked, THREE)[0] == "b"
    choice = tracker.choice("1")
    assert choice is not None
    assert (choice.mode, choice.expected_cached_tokens) == (ReplicaMode.EXACT, 48)
    tracker.close()


async def test_prompts_with_one_new_prefix_that_come_together_stay_together() -> None:
    """The engine reports the first one's blocks only after the second one has to be sent somewhere."""
    tracker = await new_tracker()
    for replica_id in THREE:
        report(tracker, replica_id)
    tracker.tier_rate.observe(100, 1.0)  # a second of prefill is worth waiting for
    first, second = prompt("1", tokens=100), prompt("2", tokens=120)
    chosen = tracker.rank(first, THREE)[0]
    assert tracker.rank(second, THREE)[0] == chosen
    choice = tracker.choice("2")
    assert choice is not None
    assert choice.expected_cached_tokens == 96
    tracker.release("1")
    tracker.release("2")
    tracker.rank(prompt("3"), THREE)
    choice = tracker.choice("3")
    assert choice is not None
    assert choice.expected_cached_tokens == 0  # nothing was ever reported, so nothing is believed in after the end
    tracker.close()


async def test_replica_whose_events_broke_off_is_avoided_then_modelled_then_followed_again() -> None:
    tracker = await new_tracker(unreachable_after_s=5)
    follower = report(tracker, "b")
    follower.lost_at = time.perf_counter() - 1
    assert "b" not in tracker.rank(prompt("1"), THREE)
    follower.lost_at = time.perf_counter() - 6
    assert "b" in tracker.rank(prompt("2"), THREE)
    assert tracker.modes() == {ReplicaMode.MIRROR: 3}
    follower.lost_at, follower.synced = None, True
    tracker.rank(prompt("3"), THREE)
    assert tracker.modes() == {ReplicaMode.MIRROR: 2, ReplicaMode.EXACT: 1}
    tracker.close()


async def test_request_is_not_lost_when_every_replica_seems_broken() -> None:
    tracker = await new_tracker()
    for replica_id in THREE:
        report(tracker, replica_id).lost_at = time.perf_counter()
    assert tracker.rank(prompt("1"), THREE) == []
    choice = tracker.choice("1")
    assert choice is not None
    assert choice.mode is ReplicaMode.FALLBACK
    tracker.close()


# Other processes


class Told(LoadNews):
    """Remembers what the others would hear."""

    alone = False

    def __init__(self) -> None:
        self.news: list[tuple[str, str, str]] = []

    def booked(self, request_id: str, replica_id: str, input_tokens: int, uncached_tokens: int) -> None:
        self.news.append(("booked", request_id, replica_id))

    def prefilled(self, request_id: str, replica_id: str) -> None:
        self.news.append(("prefilled", request_id, replica_id))

    def released(self, request_id: str, replica_id: str) -> None:
        self.news.append(("released", request_id, replica_id))


async def test_others_hear_of_every_booking_and_its_end() -> None:
    told = Told()
    tracker = ReplicaTracker(ReplicaRoutingConfig(), told)
    tracker.set_replicas(dict.fromkeys(THREE, FACTS))
    chosen = await serve(tracker, prompt("1"))
    assert told.news == [("booked", "1", chosen), ("prefilled", "1", chosen), ("released", "1", chosen)]


async def test_work_of_other_processes_is_counted_until_it_ends() -> None:
    tracker = await new_tracker()
    now = time.perf_counter()
    tracker.remote.booked("theirs", "a", 5000, 5000, now)
    tracker.remote.booked("theirs", "a", 5000, 5000, now)
    assert tracker.replicas["a"].load.outstanding == 1
    assert tracker.rank(prompt("1"), THREE)[0] != "a"
    tracker.remote.prefilled("theirs")
    tracker.remote.released("theirs")
    assert tracker.replicas["a"].load.outstanding == 0


async def test_tracker_may_be_told_from_another_thread() -> None:
    tracker = await new_tracker()
    chosen = tracker.rank(prompt("1"), THREE)[0]
    thread = threading.Thread(target=tracker.release, args=("1",))
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    assert (tracker.open_requests, tracker.replicas[chosen].load.outstanding) == (0, 0)


def test_handles_of_one_process_share_their_tracker() -> None:
    config = ReplicaRoutingConfig()
    assert shared_tracker("app", "tier1", config) is shared_tracker("app", "tier1", config)
    assert shared_tracker("app", "router", config) is not shared_tracker("app", "tier1", config)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["rank", "routed", "prefilled", "ended", "release", "lost", "back"]),
        st.integers(0, 4),
        st.sampled_from(THREE),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_in_whatever_order_nothing_stays_booked(steps: list[tuple[str, int, str]]) -> None:
    async def play() -> None:
        tracker = await new_tracker()
        for what, number, replica_id in steps:
            request_id = str(number)
            if what == "rank":
                tracker.expect(prompt(request_id, first=number))
                tracker.rank(prompt(request_id, first=number), list(tracker.replicas))
            elif what == "routed":
                tracker.routed(request_id, replica_id)
            elif what == "prefilled":
                tracker.prefilled(request_id)
            elif what == "ended":
                tracker.call_ended(request_id)
            elif what == "release":
                tracker.release(request_id)
            elif what == "lost":
                tracker.remove_replica(replica_id)
            else:
                tracker.set_replicas(dict.fromkeys(THREE, FACTS))
            assert sum(replica.load.outstanding for replica in tracker.replicas.values()) <= tracker.open_requests
        for number in range(5):
            tracker.release(str(number))
        assert tracker.open_requests == 0
        assert [replica.load.outstanding for replica in tracker.replicas.values()] == [0] * len(tracker.replicas)
        assert not any(replica.under_way for replica in tracker.replicas.values())

    asyncio.run(play())
