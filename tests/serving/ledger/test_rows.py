"""What goes into the tables comes out equal, whatever it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given

from routing.records import RequestRecord
from serving.ledger.lines import from_line, to_line
from serving.ledger.rows import attempt_rows, record_from_rows, request_row
from serving.ledger.tables import attempts, requests
from tests.golden import assert_golden
from tests.serving.ledger.examples import EXAMPLES, ROUTER
from tests.serving.ledger.records import anything


@given(record=anything)
def test_record_survives_rows_and_lines(record: RequestRecord) -> None:
    assert record_from_rows(request_row(record), attempt_rows(record)) == record
    assert from_line(to_line(record)) == record


def test_rows_have_exactly_the_columns_of_the_tables() -> None:
    assert set(request_row(EXAMPLES[0])) == set(requests.columns.keys())
    assert all(set(row) == set(attempts.columns.keys()) for row in attempt_rows(EXAMPLES[0]))


def test_numbers_are_stored_as_numbers_and_what_was_not_measured_as_null() -> None:
    row = attempt_rows(EXAMPLES[1])[2]
    assert (row["input_tokens"], row["usage_estimated"], row["engine_s"]) == (171, True, None)
    assert request_row(EXAMPLES[2])["cost_usd"] is None


def test_golden_rows_of_the_tables() -> None:
    rows = [{"requests": request_row(record), "attempts": attempt_rows(record)} for record in EXAMPLES]
    assert_golden(Path(__file__).parent / "golden" / "rows.json", json.dumps(rows, indent=1) + "\n")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_is_not_unicode_makes_a_line_not_an_error(text: str) -> None:
    record = EXAMPLES[0].model_copy(update={"attempts": (ROUTER.model_copy(update={"model": text}),)})
    assert json.loads(to_line(record))["attempts"][0]["model"] == text
