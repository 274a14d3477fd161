"""A process of its own that books requests, to be killed, crowded or starved of disk by a test.

python -m tests.serving.ledger.child '{"config": {…}, "first": 0, "count": 100, "file_limit_bytes": null}'

It prints `up` when it runs, books on the first line of standard input, and prints its counts once all rows are settled.
On a further line it lifts the limit on file sizes, writes the backlog, and prints its counts again.
"""

import json
import resource
import sys

from serving.ledger.config import LedgerConfig
from serving.ledger.writer import Ledger
from tests.serving.ledger.examples import example


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    order = json.loads(sys.argv[1])
    with Ledger(LedgerConfig.model_validate(order["config"])) as ledger:
        say(up=ledger.wait_up(0 if order.get("database_away") else 30))
        sys.stdin.readline()
        if order.get("file_limit_bytes"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit_bytes"], resource.RLIM_INFINITY))
        for number in range(order["first"], order["first"] + order["count"]):
            ledger.record(example(number))
        say(settled=ledger.flush(30), counts=ledger.counters())
        sys.stdin.readline()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        say(up=ledger.wait_up(30))
    say(counts=ledger.counters())


if __name__ == "__main__":
    main()
