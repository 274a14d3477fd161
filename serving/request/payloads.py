"""What the cascade sends to a replica of our own engines."""

from dataclasses import dataclass
from typing import Any

from routing.records import Api
from serving.request.call import Adapter


@dataclass(frozen=True, slots=True)
class DraftPayload:
    """The parts of a call that a replica and the choice of a replica need."""

    api: Api
    body: dict[str, Any]
    request_id: str
    prompt_token_ids: list[int]
    cache_salt: str
    stream: bool
    session_id: str | None = None
    adapter: Adapter | None = None

    @property
    def messages(self) -> Any:
        """The prompt as the client wrote it, under the name that request routers of others read."""
        return self.body.get("messages", self.body.get("prompt"))


@dataclass(frozen=True, slots=True)
class ScorePayload:
    """One question to the router model. `draft` is None for a score."""

    request_id: str
    prompt_token_ids: list[int]
    cache_salt: str
    draft: str | None = None
