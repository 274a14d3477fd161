"""The error of a candidate that is not promoted. It stands here because models/errors.py imports nothing heavy."""

from models.errors import ModelsError
from routing.learning.promotion import Refusal, RefusalReason


class Refused(ModelsError):
    """Not promoted. `refusals`: every reason; the first names the error."""

    def __init__(self, reason: RefusalReason, detail: str, *more: Refusal) -> None:
        self.refusals = (Refusal(reason=reason, detail=detail), *more)
        super().__init__("refused: " + "; ".join(f"{r.reason}: {r.detail}" for r in self.refusals))

    @property
    def reasons(self) -> tuple[RefusalReason, ...]:
        """Their names."""
        return tuple(refusal.reason for refusal in self.refusals)
