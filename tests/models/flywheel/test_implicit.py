"""Regenerations and rephrasings, and what is neither."""

import pytest

from models.flywheel.implicit import ImplicitSignals, implicit_signals
from routing.learning.samples import Sample
from tests.models.flywheel.samples import sample

ASKED = {"role": "user", "content": "how do I sort a list of numbers in python"}
OTHER_WORDS = "how do I sort a list of words in python?"
ANSWER = {"role": "assistant", "content": "use sort"}


def turn(i: int, *messages: dict[str, str], session: str | None = "s", tenant: str = "blue") -> Sample:
    return sample(i, messages=messages, session_id=session, tenant=tenant)


@pytest.mark.parametrize(
    ("turns", "counts"),
    [
        ([turn(0, ASKED), turn(1, ASKED)], (1, 1, 0)),
        (
            [turn(0, ASKED), turn(1, ASKED, ANSWER, {**ASKED, "content": "how do I sort a list of words in python?"})],
            (1, 0, 1),
        ),
        ([turn(0, ASKED), turn(1, ASKED, ANSWER, {**ASKED, "content": "thanks, and what is a tuple?"})], (1, 0, 0)),
        ([turn(0, ASKED), turn(30, ASKED)], None),
        ([turn(0, ASKED), turn(1, ASKED, session="other")], None),
        ([turn(0, ASKED), turn(1, ASKED, tenant="other")], None),
        ([turn(0, ASKED, session=None), turn(1, ASKED, session=None)], None),
    ],
    ids=["again", "rephrased", "goes on", "much later", "other session", "other tenant", "no session"],
)
def test_signals(turns: list[Sample], counts: tuple[int, int, int] | None) -> None:
    expected = (
        []
        if counts is None
        else [ImplicitSignals(category="chat", n_followed=counts[0], n_regenerated=counts[1], n_rephrased=counts[2])]
    )
    assert implicit_signals(turns[::-1]) == expected
