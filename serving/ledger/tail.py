"""Renders one request as one line of text: `python -m serving ledger tail`."""

from routing.records import RequestRecord

HEADER = (
    f"{'time':<19}  {'request':<36}  {'served by':<9}  {'decision':<14}  {'verdict':<18}  "
    f"{'tokens in/out':>13}  {'cost $':>10}  {'frontier $':>10}  {'ms':>7}  outcome"
)
_UNKNOWN = "?"
_NONE = "-"


def line(record: RequestRecord) -> str:
    """Time, id, serving tier, decision, verdict, tokens, dollars, dollars at the frontier, milliseconds, outcome.

    `-` means that there was none, `?` that it is not known. Control characters never reach the terminal.
    """
    decision, verdict = record.decision, record.verdict
    served = next((a.usage for a in reversed(record.attempts) if a.outcome.value in {"served", "broken"}), None)
    reason = decision.reason.value if decision else _NONE
    if verdict is None:
        ruling = _NONE
    elif verdict.accepted:
        ruling = "accepted"
    else:
        ruling = "+".join(verdict.reasons)
    tokens = f"{served.input_tokens}/{served.output_tokens}" if served else _NONE
    outcome = record.outcome.value if record.error is None else f"{record.outcome.value} {record.error}"
    text = (
        f"{record.at[:19].replace('T', ' ')}  {record.request_id:<36}  {record.served_tier or _NONE:<9}  {reason:<14}  "
        f"{ruling:<18}  {tokens:>13}  {_usd(record.cost_usd):>10}  {_usd(record.baseline_cost_usd):>10}  "
        f"{record.duration_s * 1000:>7.0f}  {outcome}{' degraded' if record.degraded else ''}"
    )
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _usd(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.6f}"
