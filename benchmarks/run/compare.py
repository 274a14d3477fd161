"""Two kept results side by side: `python -m benchmarks compare A B` says what moved beyond the spread.

A figure moved when the rounds of one run all lie above, or all below, those of the other.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load.text_table import columns
from benchmarks.run.spread import SPREAD, apart, chance_apart


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one row in two results. by_ratio: B over A.

    chance: of being apart with nothing changed. None where the ends are not those of rounds.
    """

    section: str
    row: str
    figure: str
    before: float
    after: float
    by_ratio: float | None
    moved: bool
    chance: float | None


def changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    """Every figure with a spread that both documents have."""
    for name, section in one["sections"].items():
        others = {row["row"]: row for row in other["sections"].get(name, {}).get("rows", [])}
        for row in section.get("rows", []):
            if (match := others.get(row["row"])) is None:
                continue
            for key, ends in row.items():
                theirs = match.get(key)
                if not key.endswith(SPREAD) or ends is None or theirs is None:
                    continue
                figure = key.removesuffix(SPREAD)
                before, after = row[figure], match[figure]
                yield Change(
                    section=name,
                    row=row["row"],
                    figure=figure,
                    before=before,
                    after=after,
                    by_ratio=after / before if before else None,
                    moved=apart(ends, theirs),
                    chance=chance_apart(row["rounds"], match["rounds"]) if "rounds" in row else None,
                )


def missing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Rows of `one` that `other` does not have, as section/row."""
    there = {(name, row["row"]) for name, section in other["sections"].items() for row in section.get("rows", [])}
    here = [(name, row["row"]) for name, section in one["sections"].items() for row in section.get("rows", [])]
    return [f"{name}/{row}" for name, row in here if (name, row) not in there]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks compare`."""
    parser.add_argument("before", type=Path, help="a kept result, benchmarks/results/….json")
    parser.add_argument("after", type=Path, help="another one")


def run(args: argparse.Namespace) -> int:
    """Print what moved, what has no counterpart, and the JSON."""
    one, other = read(args.before), read(args.after)
    for label, document in (("A", one), ("B", other)):
        card = document["card"]
        print(f"{label}  commit {card['commit']}  config {card['config_hash']}  {card['at']}")
    if one["card"]["config_hash"] != other["card"]["config_hash"]:
        print("the two were measured with different settings; what moved may be those")
    every = list(changes(one, other))
    moved = [change for change in every if change.moved]
    expected = sum(change.chance or 0.0 for change in every)
    print(f"\n{len(moved)} of {len(every)} figures moved beyond the spread; by chance alone about {expected:.0f} would")
    if moved:
        print(columns(("section/row", "figure", "A", "B", "B/A"), [cells(change) for change in moved]))
    for label, rows in (("A", missing(one, other)), ("B", missing(other, one))):
        if rows:
            print(f"only in {label}: {', '.join(rows)}")
    print(json.dumps({"figures": len(every), "expected_by_chance": expected, "moved": [asdict(c) for c in moved]}))
    return 0


def cells(change: Change) -> tuple[str, ...]:
    """One line of the table."""
    ratio = "-" if change.by_ratio is None else f"{change.by_ratio:.3f}"
    return f"{change.section}/{change.row}", change.figure, f"{change.before:.4g}", f"{change.after:.4g}", ratio


def read(path: Path) -> dict[str, Any]:
    """A kept result. Ends with a sentence when it is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: not a kept result: {error}") from error
    if not isinstance(document, dict) or not {"card", "sections"} <= document.keys():
        raise SystemExit(f"{path}: not a result of `python -m benchmarks run`: it has no card or no sections")
    return document
