"""Makes a report in a process of its own, so that the gateway's event loop never waits for it.

It reads an order and writes a report, both as JSON:
echo '{"ledger": {"url": "sqlite:///…"}, "since": null}' | python -m serving.report
"""

import sys

from routing.cost.savings import SavingsConfig
from routing.records import Record
from serving.errors import StackError
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.report.read import savings_report


class Order(Record):
    """What to report on."""

    ledger: LedgerConfig
    savings: SavingsConfig = SavingsConfig()
    since: str | None = None


def main() -> int:
    """Read the order from standard input. Exit status 2 and one line on stderr when it cannot be filled."""
    order = Order.model_validate_json(sys.stdin.read())
    try:
        report = savings_report(LedgerReader(order.ledger), order.savings, order.since)
    except StackError as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    sys.stdout.write(report.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
