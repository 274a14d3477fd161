"""A load file says what is sent, to the last word, on every machine."""

import asyncio
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.load.client import Sample
from benchmarks.load.workload import Arrival, Workload, bodies, load_workload, play, play_open, workloads


@pytest.mark.parametrize("name", workloads())
def test_every_file_is_a_load_of_its_name(name: str) -> None:
    load = load_workload(workloads()[name])
    assert load.name == name
    assert load.question(0, 0) == load.question(0, 0)
    assert load.question(0, 0) != load.question(1, 0)
    assert load.arrival is not None


def test_sessions_of_a_group_share_their_opening_and_nothing_else() -> None:
    load = Workload(name="w", sessions=40, groups=3, system_words=20, user_words=5, output_tokens=1)
    openings = {load.opening(session)[0]["content"] for session in range(40)}
    assert len(openings) == 3
    assert len({load.question(session, 0)["content"] for session in range(40)}) == 40


def test_without_groups_nothing_is_shared() -> None:
    load = Workload(name="w", sessions=5, user_words=50, output_tokens=1)
    assert [body["messages"] for body in bodies(load)] == [[load.question(session, 0)] for session in range(5)]


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="user_word"):
        Workload.model_validate({"name": "w", "sessions": 1, "user_words": 1, "output_tokens": 1, "user_word": 2})


async def test_every_turn_sends_all_that_was_said_before() -> None:
    load = Workload(name="w", sessions=3, turns=3, user_words=2, output_tokens=1, concurrency=2)
    seen: dict[str, list[list[str]]] = {}
    at_once = most_at_once = 0

    async def send(messages: list[dict[str, str]], session: str) -> Sample:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        await asyncio.sleep(0)  # lets the other sessions in
        at_once -= 1
        turns = seen.setdefault(session, [])
        turns.append([message["content"] for message in messages])
        return Sample(started_s=0.0, text=f"answer {len(turns)}")

    samples, _ = await play(load, send)
    assert (len(samples), load.requests, most_at_once) == (9, 9, 2)
    for turns in seen.values():
        assert [len(turn) for turn in turns] == [1, 3, 5]
        assert turns[2][: len(turns[1])] == turns[1]
        assert (turns[2][1], turns[2][3]) == ("answer 1", "answer 2")


def test_questions_about_one_document_begin_alike_and_end_on_their_own() -> None:
    load = Workload(name="w", sessions=30, documents=2, document_words=20, user_words=5, output_tokens=1, turns=2)
    first = [load.question(session, 0)["content"].split("\n\n") for session in range(30)]
    assert len({document for document, _ in first}) == 2
    assert len({own for _, own in first}) == 30
    assert "\n\n" not in load.question(0, 1)["content"]


@given(st.floats(0.1, 100), st.floats(0.1, 20), st.integers(0, 5), st.integers(1, 50))
def test_arrivals_are_ascending_and_the_same_for_a_seed(
    rate_rps: float, burstiness: float, seed: int, count: int
) -> None:
    arrival = Arrival(rate_rps=rate_rps, burstiness=burstiness)
    times = arrival.times(count, seed)
    assert times == arrival.times(count, seed) == sorted(times)
    assert len(times) == count
    assert times[0] >= 0


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gaps_have_the_stated_mean_and_unevenness(burstiness: float, variation: float) -> None:
    """A gamma distribution of shape k varies by 1 / sqrt(k); 20,000 gaps show it within a tenth."""
    times = Arrival(rate_rps=5.0, burstiness=burstiness).times(20_000, 0)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.1)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(variation, rel=0.1)


async def test_conversations_begin_at_their_time_whatever_the_server_does() -> None:
    load = Workload(name="w", sessions=6, turns=2, user_words=2, output_tokens=1, arrival=Arrival(rate_rps=200.0))
    everyone_is_here = asyncio.Event()
    begun: set[str] = set()

    async def send(_: list[dict[str, str]], session: str) -> Sample:
        begun.add(session)
        if len(begun) == load.sessions:
            everyone_is_here.set()
        await everyone_is_here.wait()  # nobody is answered before the last one has begun
        return Sample(started_s=0.0)

    async with asyncio.timeout(30):
        samples, _ = await play_open(load, send)
    assert len(samples) == load.requests


async def test_load_without_arrivals_cannot_be_played_open() -> None:
    async def send(*_: object) -> Sample:
        return Sample(started_s=0.0)

    with pytest.raises(ValueError, match="arrival"):
        await play_open(Workload(name="w", sessions=1, user_words=1, output_tokens=1), send)


def test_answers_that_are_data_are_asked_for_in_every_body() -> None:
    load = load_workload(workloads()["json_extraction"])
    assert all(body["response_format"]["type"] == "json_schema" for body in bodies(load))
