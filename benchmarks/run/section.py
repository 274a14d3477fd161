"""What a part of `python -m benchmarks run` is: a module that measures rows and prints them.

A section module has `measure(plan, labs)`, which returns {"rows": [...], ...} of plain values for the JSON document,
and `table(found)`, which makes of that dictionary the text to print. A module may also have `plot(found, path)`. A row
has a `row` that names it within its section, and `rounds`. See spread.py for its figures.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan

# In the order in which they are measured: those that share a stack stand together.
SECTIONS = {
    "engine": "benchmarks.sections.engine",
    "peers": "benchmarks.sections.peers",
    "client": "benchmarks.sections.vllm_bench",
    "workloads": "benchmarks.sections.workloads",
    "floor": "benchmarks.sections.bare_ray",
    "scale": "benchmarks.sections.scale",
    "layers": "benchmarks.layers.section",
    "switches": "benchmarks.sections.switches",
}
# What is measured when nothing else is said. The layers restart three engines four times and take as long as all of
# this (`make bench-layers`); switches start an engine each.
FULL = ("engine", "peers", "client", "workloads", "floor", "scale")
QUICK = ("engine", "workloads", "scale")
# They measure in the labs that the run holds. All others need the machine for stacks of their own.
IN_LABS = ("engine", "peers", "client", "workloads")


class Section(Protocol):
    """A section's module."""

    def measure(self, plan: Plan, labs: Labs) -> dict[str, Any]:
        """Rows and whatever else belongs into the JSON document. Raises SystemExit when it cannot be measured."""

    def table(self, found: dict[str, Any]) -> str:
        """What `measure` found, as text."""


def load_section(name: str) -> Section:
    """The module of a section; raises ImportError when one of its libraries is missing."""
    return cast(Section, importlib.import_module(SECTIONS[name]))


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text: the first column to the left, all others to the right, as wide as their widest cell."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = []
    for row in (head, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]).rstrip())
    return "\n".join(lines)


def number(value: float | None, digits: int = 2, unit: float = 1.0) -> str:
    """A figure in multiples of `unit`; '-' when not measured."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def spread(row: dict[str, Any], name: str, digits: int = 2, unit: float = 1.0) -> str:
    """A figure with its smallest and largest round: 'median (smallest to largest)'."""
    shown = number(row.get(name), digits, unit)
    ends = row.get(f"{name}_spread")
    return shown if ends is None else f"{shown} ({number(ends[0], digits, unit)}-{number(ends[1], digits, unit)})"


def ms(seconds: float | None) -> str:
    """Seconds as milliseconds, '-' when not measured."""
    return "-" if seconds is None else f"{seconds * 1000:.2f}"
