"""Renders a reconciliation as text: the share of the provider's count that the ledger has, and every difference."""

from routing.cost.reconcile import MEASURES, Reconciliation, Standing, UsageBucket
from serving.report.table import printable


def render(found: Reconciliation) -> str:
    """Captured shares, then one line per row that is not equal."""
    lines = [f"{'captured':<14}" + "  ".join(f"{name} {share(found.captured_ratio[name])}" for name in MEASURES)]
    equal = sum(row.standing is Standing.EQUAL for row in found.rows)
    lines.append(f"{equal} of {len(found.rows)} days and models are equal")
    for row in found.rows:
        if row.standing is not Standing.EQUAL:
            measures = row.different or MEASURES
            told = "; ".join(f"{name} {figure(row.ledger, name)} of {figure(row.provider, name)}" for name in measures)
            lines.append(f"{row.day}  {printable(row.model):<32}  {row.standing:<14}  {told}")
    return "\n".join(lines) + "\n"


def share(value: float | None) -> str:
    """A share, or that there is none."""
    return "-" if value is None else f"{value:.2%}"


def figure(bucket: UsageBucket | None, name: str) -> str:
    """The figure of one side, the ledger's or the provider's."""
    value = None if bucket is None else getattr(bucket, name)
    return "-" if value is None else (f"${value:.6f}" if name == "cost_usd" else str(value))
