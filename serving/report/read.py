"""Reads a range of the ledger into a savings report, in one pass over its requests."""

from collections.abc import Mapping

from tqdm import tqdm

from routing.cost.savings import Grade, SavingsBook, SavingsConfig, SavingsReport
from serving.ledger.reader import Instant, LedgerReader


def savings_report(
    reader: LedgerReader,
    config: SavingsConfig,
    since: Instant | None = None,
    until: Instant | None = None,
    tenant: str | None = None,
    grades: Mapping[str, Grade] | None = None,
    *,
    show_progress: bool = False,
) -> SavingsReport:
    """The report of since <= at < until, in memory that does not grow with the number of requests.

    grades: by request id. None takes those of the ledger's samples.
    Raises ConfigInvalid when there is no ledger, or for what is no instant.
    """
    grades = reader.grades(since, until) if grades is None else grades
    book = SavingsBook(reader.prefill(since, until, tenant), config)
    rows = reader.requests(since, until, tenant)
    if show_progress:
        rows = iter(tqdm(rows, total=reader.count(since, until, tenant), unit="request", leave=False, delay=1))
    for record in rows:
        book.add(record, grades.get(record.request_id))
    return book.report(str(since) if since else None, str(until) if until else None)
