import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.gate.config import GateConfig
from routing.text.loops import LoopWatch, looped

GATE = GateConfig()
MIN_UNITS, MAX_RATIO = GATE.loop_min_tokens, GATE.max_repeat_ratio

PROSE = (
    "The bridge was closed in spring because two of its cables had rusted through. Engineers from the city looked at "
    "every anchor and found that the drains above them had been blocked for years. "
)

CHORUS = "Row, row, row your boat, gently down the stream,\nmerrily, merrily, merrily, life is but a dream.\n"
VERSES = (
    "The river bends below the mill and carries leaves along,\nthe miller's daughter at her sill is humming us a song.",
    "The herons stand among the reeds and wait for fish to pass,\nthe farmer sows his winter seeds beyond the grass.",
    "The evening comes, the lamps are lit, the ferry bell is still,\nthe children sit and look across the hill.",
)

LOOPS = {
    "one word": PROSE + "the " * 200,
    "a phrase": PROSE + "I like this song. " * 20,
    "a sentence": PROSE + "We can use the second premise to conclude that it is true. " * 12,
    "a line": PROSE + "\n- Check the cables every spring" * 20,
    "a paragraph": PROSE * 5,
    "one character": PROSE + "!" * 300,
    "letters": PROSE + "a" * 300,
    "line breaks in JSON mode": '{"city": "Paris",' + "\n" * 300,
    "mixed white space in JSON mode": '{"city": "Paris",' + "\n \t" * 100,
    "Chinese": "大桥在春天关闭了。" + "我们需要检查每一根缆绳。" * 12,
    "Japanese": "橋は春に閉鎖されました。" + "ケーブルを確認します。" * 12,
    "an equation": "E + 5 = " + "2(E + 5) = " * 40,
    "a list item in JSON": "[" + '{"name": "Anna", "role": "admin"}, ' * 20,
    "digits": PROSE + "0, " * 400,
    "words run together": PROSE + "lalala" * 500,
    "a paragraph with a counter": "\n".join(
        f"Step {i}: open the valve, wait until the pressure has fallen below the mark, close the valve again, note the "
        "time and the pressure in the book, sign the entry, tell the next shift about it and go on to the next step."
        for i in range(12)
    ),
}

NO_LOOPS = {
    "prose": PROSE,
    "an empty text": "",
    "a long paragraph said twice": (PROSE + " ".join(f"word{i}" for i in range(60)) + ". ") * 2,
    "a table with a ruler": "| Name | Age | City |\n|"
    + "-" * 120
    + "|\n"
    + "\n".join(
        f"| {name} | {age} | {city} |"
        for name, age, city in zip(
            ["Anna", "Ben", "Cora", "Dan"] * 4,
            range(20, 36),
            ["Paris", "Rome", "Oslo", "Bern", "Kiel"] * 4,
            strict=False,
        )
    ),
    "a table of yes and no": "\n".join(
        f"| {feature} | yes | no | yes | yes | no |"
        for feature in [
            "Search",
            "Export",
            "Import",
            "Roles",
            "Audit log",
            "SSO",
            "Webhooks",
            "Alerts",
            "Themes",
            "API",
        ]
    ),
    "a list of alike objects": json.dumps(
        [{"id": i, "name": f"user{i}", "role": "admin", "ok": True} for i in range(40)]
    ),
    "indented JSON": json.dumps([{"id": i, "tags": ["a", "b"], "ok": False} for i in range(30)], indent=8),
    "a board in code": "board = [\n" + "    [False, False, False, False, False, False, False, False],\n" * 8 + "]",
    "a matrix of zeros": "[\n" + "  [0, 0, 0, 0, 0, 0, 0, 0],\n" * 8 + "]",
    "tests in code": "\n".join(
        f"def test_add_{i}() -> None:\n    assert add({i}, {i + 1}) == {2 * i + 1}\n" for i in range(40)
    ),
    "SQL": "\n".join(
        f"INSERT INTO users (id, name, email) VALUES ({i}, 'name{i}', 'name{i}@example.org');" for i in range(40)
    ),
    "HTML": "\n".join(f'<li class="nav-item"><a class="nav-link" href="#p{i}">Part {i}</a></li>' for i in range(40)),
    "a keypad in HTML": "\n".join(
        f'<button type="button" class="btn btn-primary btn-lg">{key}</button>' for key in "7894561230+-*/=C"
    ),
    "YAML": "\n".join(f"- name: web-{i}\n  image: nginx:1.{i}\n  ports:\n    - containerPort: 80" for i in range(25)),
    "counting": ", ".join(str(i) for i in range(1, 400)),
    "counting in words": "\n".join(f"{i} sheep jumped over the fence." for i in range(1, 80)),
    "a song with its chorus": "\n".join(f"{verse}\n{CHORUS}{CHORUS}" for verse in VERSES),
    "a refrain": "\n".join(
        f"Verse {n}: a line that nobody sang before in {n}\nHallelujah, hallelujah" for n in range(20)
    ),
    "laughing": "Ha ha ha ha ha ha ha ha ha ha! " + PROSE,
    "labels for a list": "\n".join(random.Random(7).choices(["positive", "negative", "neutral"], k=150)),
    "answers for a list": "\n".join(random.Random(7).choices(["yes", "no"], k=150)),
    "a log": "\n".join(
        f"2026-11-21T10:{i:02}:00Z INFO gateway request finished status=200 ms={i * 37 % 101}" for i in range(60)
    ),
    "a multiplication table": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 13) for b in range(1, 13)),
    "hexadecimal": random.Random(1).randbytes(1500).hex(),
    "a heading ruled with equals signs": "Report\n" + "=" * 120 + "\n" + PROSE,
    "a Chinese text": "大桥在春天关闭，因为两根缆绳生锈。工程师检查了每一个锚点，发现上面的排水沟多年来一直被堵塞。",
}


def cut(text: str, sizes: list[int]) -> list[str]:
    """The text in pieces of the given sizes, over and over."""
    pieces, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            return pieces
        pieces.append(text[at : at + size])
        at += size
    return pieces


def looped_in_pieces(pieces: list[str]) -> bool:
    watch = LoopWatch(MIN_UNITS, MAX_RATIO)
    for piece in pieces:
        watch.feed(piece)
    return watch.end()


@pytest.mark.parametrize("name", LOOPS)
def test_a_text_that_goes_round_in_circles_is_a_loop(name: str) -> None:
    """A repeated loop is seen."""
    assert looped(LOOPS[name], MIN_UNITS, MAX_RATIO)


@pytest.mark.parametrize("name", NO_LOOPS)
def test_rightful_repetition_is_no_loop(name: str) -> None:
    assert not looped(NO_LOOPS[name], MIN_UNITS, MAX_RATIO)


@given(name=st.sampled_from([*LOOPS, *NO_LOOPS]), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_cutting_a_text_never_changes_what_is_found(name: str, sizes: list[int]) -> None:
    text = {**LOOPS, **NO_LOOPS}[name]
    assert looped_in_pieces(cut(text, sizes)) == (name in LOOPS)


@given(
    text=st.text(alphabet="ab1 .,-_\n大é", max_size=400),
    repeats=st.integers(1, 60),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
)
def test_cutting_any_text_never_changes_what_is_found(text: str, repeats: int, sizes: list[int]) -> None:
    whole = (text * repeats)[:6000]
    assert looped_in_pieces(cut(whole, sizes)) == looped(whole, MIN_UNITS, MAX_RATIO)


@given(phrase=st.lists(st.sampled_from(["red", "green", "blue", "sky", "sea", "sun", "one"]), min_size=1, max_size=40))
def test_any_phrase_of_words_repeated_for_long_is_a_loop(phrase: list[str]) -> None:
    assert looped(" ".join(phrase * (600 // len(phrase))), MIN_UNITS, MAX_RATIO)


@given(words=st.lists(st.text(alphabet="abcdef", min_size=1, max_size=5), max_size=400, unique=True))
def test_words_that_never_come_back_are_no_loop(words: list[str]) -> None:
    assert not looped(" ".join(words), MIN_UNITS, MAX_RATIO)


def test_no_loop_is_called_before_the_minimum() -> None:
    phrase = "red green blue sky "  # four units
    assert not looped(phrase * (MIN_UNITS // 4), MIN_UNITS, MAX_RATIO)
    assert looped(phrase * (MIN_UNITS // 4 + 2), MIN_UNITS, MAX_RATIO)


def test_a_loop_once_seen_stays_seen() -> None:
    watch = LoopWatch(MIN_UNITS, MAX_RATIO)
    assert watch.feed("I like this song. " * 30)
    assert watch.feed(PROSE)
    assert watch.end()


def test_memory_does_not_grow_with_the_text() -> None:
    watch = LoopWatch(MIN_UNITS, MAX_RATIO)
    for i in range(20_000):
        assert not watch.feed(f"w{i} ")
    assert len(watch._units) + len(watch._last_at) + len(watch._grams) + len(watch._gram_counts) < 5_000
