"""A load file says what is sent, to the last word, on every machine."""

import asyncio

import pytest
from pydantic import ValidationError

from benchmarks.client import Sample
from benchmarks.workload import Workload, bodies, load_workload, play, workloads


@pytest.mark.parametrize("name", workloads())
def test_every_file_is_a_load_of_its_name(name: str) -> None:
    load = load_workload(workloads()[name])
    assert load.name == name
    assert load.question(0, 0) == load.question(0, 0)
    assert load.question(0, 0) != load.question(1, 0)


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
        await asyncio.sleep(0)
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
