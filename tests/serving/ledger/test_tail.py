"""One request is one line, and an unknown value is told apart from none."""

from pathlib import Path

from hypothesis import given

from routing.records import RequestRecord
from serving.ledger import tail as render
from tests.golden import assert_golden
from tests.serving.ledger.examples import ACCEPTED, EXAMPLES
from tests.serving.ledger.records import anything


def test_golden_lines() -> None:
    lines = [render.HEADER, *map(render.line, EXAMPLES)]
    assert_golden(Path(__file__).parent / "golden" / "tail.txt", "\n".join(lines) + "\n")


@given(record=anything)
def test_any_record_is_one_line(record: RequestRecord) -> None:
    assert len(render.line(record).splitlines()) == 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in render.line(ACCEPTED.model_copy(update={"error": "\x1b[2J"}))


def test_unknown_cost_is_a_question_mark_and_free_is_zero() -> None:
    unknown = ACCEPTED.model_copy(update={"cost_usd": None, "baseline_cost_usd": 0.0})
    assert render.line(unknown).split()[7:9] == ["?", "0.000000"]
