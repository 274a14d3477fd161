"""What gateway processes tell each other about the requests they have sent."""

from collections.abc import Sequence


class LoadNews:
    """Tells other gateway processes what was booked here. This class tells nobody, its subclass `LoadExchange` does."""

    alone = True

    @property
    def others(self) -> int:
        """Number of other gateway processes heard of lately."""
        return 0

    async def run(self) -> None:
        """Listen to the others until cancelled."""

    def booked(self, request_id: str, replica_id: str, input_tokens: int, uncached_tokens: int) -> None:
        """A request goes to a replica."""

    def prefilled(self, request_id: str, replica_id: str) -> None:
        """Its first token came."""

    def released(self, request_id: str, replica_id: str) -> None:
        """The request is over."""

    def mirrored(self, replica_id: str, keys: Sequence[int]) -> None:
        """A replica whose cache or host memory is modelled was sent these blocks."""
