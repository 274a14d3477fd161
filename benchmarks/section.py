"""What a part of `python -m benchmarks run` is: a module that measures rows and prints them.

A section module has `measure(plan)`, which returns {"rows": [...], ...} of plain values for the JSON document, and
`table(found)`, which makes of that dictionary the text to print. A module may also have `plot(found, path)`. A row
has a `row` that names it within its section, and `rounds`; see benchmarks/spread.py for its figures.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from benchmarks.lab import Labs

# In the order in which they are measured: those that share a stack stand together.
SECTIONS = {
    "engine": "benchmarks.through",
    "peers": "benchmarks.peers",
    "client": "benchmarks.other_client",
    "workloads": "benchmarks.open_loads",
    "floor": "benchmarks.over_floor",
    "scale": "benchmarks.scale",
    "layers": "benchmarks.layers.section",
    "switches": "benchmarks.switches",
}
# What is measured when nothing else is said. The layers restart three engines four times and take as long as all of
# this (`make bench-layers`); switches start an engine each.
FULL = ("engine", "peers", "client", "workloads", "floor", "scale")
QUICK = ("engine", "workloads", "scale")
# They measure in the labs of the plan; all others need the machine for stacks of their own.
IN_LABS = ("engine", "peers", "client", "workloads")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures with; every section takes from it what concerns it.

    quick: minutes instead of a quarter of an hour, with fewer rounds and a small model of random weights.
    url: a running stack to measure; None: sections start what they need and stop it again.
    direct: URL and model name of the running stack's engine called directly. peers: folder with the peers' commands.
    scratch: an empty folder for this run's files. profile: the one that a stack is started on. labs: started stacks.
    """

    scratch: Path
    quick: bool = False
    rounds: int = 3
    seed: int = 0
    url: str | None = None
    direct: str | None = None
    direct_model: str | None = None
    peers: Path | None = None
    profile: Path = Path("deploy/profiles/cpu.yaml")
    gpu: bool = False
    labs: "Labs | None" = None


class Section(Protocol):
    """A section's module."""

    def measure(self, plan: Plan) -> dict[str, Any]:
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
