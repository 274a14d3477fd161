"""Reads a range of the ledger into a savings report: one pass for the engines' speed, one for the money."""

from collections.abc import Iterable, Iterator, Mapping

from tqdm import tqdm

from routing.prefill import PrefillFit
from routing.savings import Grade, SavingsBook, SavingsConfig, SavingsReport
from routing.schema import RequestRecord
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

    grades: by request id; None: those of the ledger's samples. Raises ConfigInvalid when there is no
    ledger, or for what is no instant.
    """
    grades = reader.grades(since, until) if grades is None else grades
    bar = tqdm(
        total=2 * reader.count(since, until, tenant), unit="request", disable=not show_progress, leave=False, delay=1
    )
    with bar:

        def requests() -> Iterator[RequestRecord]:
            for record in reader.requests(since, until, tenant):
                bar.update()
                yield record

        speeds = fit_prefill(requests()).speeds()
        book = SavingsBook(speeds, config)
        for record in requests():
            book.add(record, grades.get(record.request_id))
    return book.report(str(since) if since else None, str(until) if until else None)


def fit_prefill(records: Iterable[RequestRecord]) -> PrefillFit:
    """The engines' speeds over these requests."""
    fit = PrefillFit()
    for record in records:
        fit.add(record)
    return fit
