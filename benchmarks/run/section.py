"""What a part of `python -m benchmarks run` is: a module that measures rows and prints them.

A section module has `measure(plan, labs)`, which returns {"rows": [...], ...} of plain values for the JSON document,
and `table(found)`, which makes of that dictionary the text to print. A module may also have `plot(found, path)`. A row
has a `row` that names it within its section, and `rounds`. spread.py makes its figures, load/text_table.py prints them.
"""

import importlib
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
    """The module of a section. Raises ImportError when one of its libraries is missing."""
    return cast(Section, importlib.import_module(SECTIONS[name]))
