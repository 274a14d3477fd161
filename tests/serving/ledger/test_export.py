"""An export can be read by anyone, moved anywhere and imported again."""

from io import BytesIO
from pathlib import Path

import pytest

from serving.ledger.config import LedgerConfig
from serving.ledger.export import export_jsonl, import_jsonl, read_jsonl
from serving.ledger.reader import LedgerReader
from tests.golden import assert_golden
from tests.serving.ledger.examples import EXAMPLES, example


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.sqlite3", batch_size=100)


def lines(*records: object) -> list[bytes]:
    return [record.model_dump_json().encode() + b"\n" for record in records]  # type: ignore[attr-defined]


def test_export_imported_elsewhere_is_the_same_ledger(config: LedgerConfig, tmp_path: Path) -> None:
    records = [example(number) for number in range(1100)]
    assert import_jsonl(config, lines(*records)) == 1100
    out = BytesIO()
    assert export_jsonl(LedgerReader(config), out) == 1100
    elsewhere = LedgerConfig(url=f"sqlite:///{tmp_path}/elsewhere/ledger.sqlite3")
    assert import_jsonl(elsewhere, out.getvalue().splitlines(keepends=True)) == 1100
    assert list(LedgerReader(elsewhere).requests()) == records


def test_importing_twice_adds_nothing(config: LedgerConfig) -> None:
    import_jsonl(config, lines(*EXAMPLES))
    import_jsonl(config, lines(*EXAMPLES))
    assert list(LedgerReader(config).requests()) == list(EXAMPLES)


def test_export_of_a_range_and_tenant(config: LedgerConfig) -> None:
    import_jsonl(config, lines(*EXAMPLES))
    out = BytesIO()
    assert export_jsonl(LedgerReader(config), out, tenant="green") == 1
    assert [record.request_id for record in read_jsonl(out.getvalue().splitlines())] == ["req-failed"]


def test_line_that_is_no_row_is_named(config: LedgerConfig) -> None:
    with pytest.raises(ValueError, match="line 2 is not a ledger row"):
        import_jsonl(config, [*lines(EXAMPLES[0]), b'{"request_id": 1}\n'])


def test_golden_export(config: LedgerConfig) -> None:
    import_jsonl(config, lines(*EXAMPLES))
    out = BytesIO()
    export_jsonl(LedgerReader(config), out)
    assert_golden(Path(__file__).parent / "golden" / "export.jsonl", out.getvalue().decode())
