"""Logs for the audit's tests: lines of every format, and the command run on a file of them."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.audit.report import Report
from serving.commands.audit import add_arguments, audit


def write(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """One line a row. Text is written as it is."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def chat(number: int = 0, model: str = "acme/large", user: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A logged chat request with its response: 100 + 20 tokens, one every ten seconds."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20} | fields.pop("usage", {})
    return {
        "timestamp": 1_772_366_400 + 10 * number,
        "request": {"model": model, "messages": [{"role": "user", "content": user}]},
        "response": {"model": model, "usage": usage},
    } | fields


def report(log: Path, *options: str | Path) -> Report:
    """The audit of a file, quietly."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return audit(parser.parse_args(["--log", str(log), "--quiet", "--as-of", "2026-11-22", *map(str, options)]))


def own_prices(folder: Path) -> Path:
    """A price file for acme/large: 3 dollars in, 15 out, .30 cached, 3.75 written, per million."""
    prices = folder / "prices.yaml"
    prices.write_text(
        "acme/large: {input_usd: 3, output_usd: 15, cached_input_usd: 0.3, cache_write_usd: 3.75,"
        " source: list, as_of: '2026-01-31'}\n"
    )
    return prices
