"""`python -m models drift`: live signals of the ledger against those that thresholds were calibrated on.

Exit status 1 and the shifted signals by name when there is an alarm, so that a scheduler can page somebody.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import numpy as np

from models.errors import ModelsError
from models.flywheel.export import instant
from routing.learning.drift import Drift, DriftConfig, drift
from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader

# What a decision read, by its name in the ledger.
SIGNALS: Mapping[str, Callable[[RequestRecord], float | None]] = {
    "p_tier1_ok": lambda r: None if r.decision is None else r.decision.p_tier1_ok,
    "p_accept": lambda r: None if r.verdict is None else r.verdict.p_accept,
    "mean_logprob": lambda r: None if r.verdict is None else r.verdict.mean_logprob,
    "worst_window_logprob": lambda r: None if r.verdict is None else r.verdict.worst_window_logprob,
    "worst_token_logprob": lambda r: None if r.verdict is None else r.verdict.worst_token_logprob,
    "p_judge_ok": lambda r: None if r.verdict is None else r.verdict.p_judge_ok,
    "input_tokens": lambda r: None if r.features is None else math.log1p(r.features.input_tokens),
}


class Drifted(ModelsError):
    """Signals have left what they were calibrated on; thresholds no longer keep their promise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the ledger and the two stretches of time."""
    parser.add_argument("--ledger", required=True, metavar="URL", help="as ledger.url of the profile")
    parser.add_argument("--spool", default=None, metavar="DIR", help="as ledger.spool_dir; needed with Postgres")
    parser.add_argument("--calibrated-since", type=instant, required=True, help="first moment of the labels, ISO 8601")
    parser.add_argument("--calibrated-until", type=instant, required=True, help="first moment after them")
    parser.add_argument("--live-since", type=instant, help="none: everything after the labels")


def run(args: argparse.Namespace) -> str:
    """The table as JSON. Raises Drifted with the alarms."""
    reader = LedgerReader(LedgerConfig(url=args.ledger, spool_dir=args.spool))
    try:
        before = read(reader, args.calibrated_since, args.calibrated_until)
        live = read(reader, args.live_since or args.calibrated_until, None)
    finally:
        reader.close()
    found = drifts(before, live, DriftConfig())
    table = json.dumps([one.model_dump() for one in found], indent=1)
    if alarms := [one for one in found if one.alarm]:
        names = ", ".join(f"{one.category}/{one.signal} (PSI {one.psi:.2f}, p {one.p_same:.4f})" for one in alarms)
        raise Drifted(f"calibrate again, these have shifted: {names}\n{table}")
    return table


Columns = dict[tuple[str, str], list[float]]


def read(reader: LedgerReader, since: datetime, until: datetime | None) -> Columns:
    """Values of every signal by (category, signal), in bounded memory per row."""
    return columns(reader.requests(since=since, until=until))


def columns(records: Iterable[RequestRecord]) -> Columns:
    """The values that some rows hold; what is None or not finite is left out."""
    found: Columns = defaultdict(list)
    for record in records:
        category = record.features.category if record.features is not None else "none"
        for name, value_of in SIGNALS.items():
            value = value_of(record)
            if value is not None and math.isfinite(value):
                found[(category, name)].append(value)
    return found


def drifts(before: Columns, live: Columns, config: DriftConfig) -> list[Drift]:
    """Every signal of every category that both stretches have, alarms first."""
    found = [
        drift(category, name, np.array(before[category, name]), np.array(live[category, name]), config)
        for category, name in sorted(set(before) & set(live))
    ]
    return sorted(found, key=lambda one: not one.alarm)
