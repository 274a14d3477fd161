"""Prints every table of benchmarks/: aligned columns, and figures as text with '-' where nothing was measured."""

from collections.abc import Sequence
from typing import Any


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, all others to the right, each as wide as its widest cell."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = []
    for row in (head, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]).rstrip())
    return "\n".join(lines)


def number(value: float | None, digits: int = 2, unit: float = 1.0) -> str:
    """Format a figure in multiples of `unit`. '-' means not measured."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def spread(row: dict[str, Any], name: str, digits: int = 2, unit: float = 1.0) -> str:
    """Format a figure with its smallest and largest round: 'median (smallest-largest)'."""
    shown = number(row.get(name), digits, unit)
    ends = row.get(f"{name}_spread")
    return shown if ends is None else f"{shown} ({number(ends[0], digits, unit)}-{number(ends[1], digits, unit)})"


def ms(seconds: float | None) -> str:
    """Format seconds as milliseconds. '-' means not measured."""
    return "-" if seconds is None else f"{seconds * 1000:.2f}"


def decimals(value: object) -> str:
    """Format a float with three decimals and anything else as it is. '-' means not measured."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
