"""One request while the cascade answers it."""

from collections.abc import Callable
from dataclasses import dataclass

from routing.records import RequestRecord
from serving.cascade.sections import Sections
from serving.request.call import Call
from serving.request.tiers import Tiers
from serving.request.trace import RequestTrace


@dataclass(slots=True)
class Exchange:
    """One request while the cascade answers it: what is known of it, who may answer it, and what decides.

    settle: takes the request's record when it has ended. Called once, also for a failed or cancelled request.
    """

    trace: RequestTrace
    tiers: Tiers
    sections: Sections
    settle: Callable[[RequestRecord], None]

    @property
    def call(self) -> Call:
        """The request as it stands: a budget may have capped its model."""
        return self.trace.call
