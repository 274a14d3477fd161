"""What a model returns: one step of an answer, or one score."""

from dataclasses import dataclass

from routing.records import ReplicaChoice, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of an answer, in the client's own wire format plus what the gate needs to see.

    data: JSON text of an OpenAI chunk (stream) or of the whole response (not stream). None: evidence only, nothing to
        send. Never contains the SSE framing, never `[DONE]`. A usage-only chunk (choices == []) carries usage.
    choice: index of the choice that text and logprobs belong to.
    text: newly generated visible text, "" when none.
    logprobs: natural-log probability of each new token, shape (new tokens,). Empty when the source reports none.
    n_tokens: number of newly generated tokens in this frame. 0 for providers that do not report it.
    finish_reason: set on the frame that finishes `choice`.
    tool_calls: complete tool calls of `choice`, on the frame that finishes it.
    usage, engine_s, replica_id, model: set at the latest on the last frame.
    replica_choice: on the first frame of a tier 1 that chose among several replicas.
    """

    data: str | None = None
    choice: int = 0
    text: str = ""
    logprobs: tuple[float, ...] = ()
    n_tokens: int = 0
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    engine_s: float | None = None
    replica_id: str | None = None
    model: str | None = None
    replica_choice: ReplicaChoice | None = None


@dataclass(frozen=True, slots=True)
class RouterScore:
    """The router model's answer to one score or judge prompt.

    p_yes: probability of the positive label among both labels, 0..1 (high = tier 1 will do / the draft is good).
    """

    p_yes: float
    usage: Usage
    engine_s: float | None = None
    replica_id: str | None = None
    model: str = "router"
