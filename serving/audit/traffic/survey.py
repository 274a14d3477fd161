"""One pass over the calls of a log: everything that is added up, and how long each part of it took."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from serving.audit.formats.call import Call
from serving.audit.traffic.accounts import Accounts, Sum
from serving.audit.traffic.arrivals import Arrivals
from serving.audit.traffic.prefix_reuse import PrefixReuse
from serving.audit.traffic.sample import Reservoir

BATCH_CALLS = 512


@dataclass(slots=True)
class Survey:
    """The results of one pass. *_s: seconds of one core. Accounting is reading, parsing and adding up."""

    accounts: Accounts
    reuse: PrefixReuse | None
    arrivals: Arrivals = field(default_factory=Arrivals)
    sample: Reservoir = field(default_factory=Reservoir)
    at_frontier: Sum = field(default_factory=Sum)  # requests whose cost there the log states (ledgers)
    calls: int = 0
    requests: int = 0
    failed: int = 0
    accounting_s: float = 0.0
    sampling_s: float = 0.0
    reuse_s: float = 0.0

    def read(self, calls: Iterable[Call]) -> None:
        """Add up every call, in their order."""
        stream = iter(calls)
        clock = time.process_time
        while True:
            begun = clock()
            batch = list(islice(stream, BATCH_CALLS))
            if not batch:
                self.accounting_s += clock() - begun
                return
            add, arrive = self.accounts.add, self.arrivals.add
            for call in batch:
                add(call)
                if call.is_request:
                    arrive(call)
                    self.failed += call.failed
                    if call.frontier_usd is not None:
                        self._at_frontier(call, call.frontier_usd)
            self.calls += len(batch)
            counted = clock()
            requests = [call for call in batch if call.is_request]
            self.requests += len(requests)
            self._sample(requests)
            sampled = clock()
            if self.reuse is not None:
                for call in requests:
                    self.reuse.add(call)
            self.accounting_s += counted - begun
            self.sampling_s += sampled - counted
            self.reuse_s += clock() - sampled

    def _at_frontier(self, call: Call, usd: float) -> None:
        booked = self.at_frontier
        booked.requests += 1
        booked.input_tokens += call.input_tokens
        booked.output_tokens += call.output_tokens
        booked.usd = (booked.usd or 0.0) + usd

    def _sample(self, requests: list[Call]) -> None:
        """Offer the calls to judge by their text: those that name no category and did not fail."""
        sample = self.sample
        for call in requests:
            if call.failed:
                continue
            if sample.wants_next():
                sample.add(call, self.accounts.usd(call))
            else:
                sample.skip()
