"""`audit --log FILE`: compute what past traffic costs, and what it would cost in tiers."""

import argparse
import json
import resource
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from routing.cost.attempt import TokenPrice
from serving.audit import table
from serving.audit.forecast import prediction
from serving.audit.forecast.artefact_share import artefact_share
from serving.audit.forecast.assumptions import Assumptions, read_profile
from serving.audit.forecast.outlook import look_ahead
from serving.audit.forecast.tier1_share import Tier1Share, tier1_share
from serving.audit.formats.call import BadRows
from serving.audit.formats.log_file import DEFAULT_TRACE_BLOCK_TOKENS, FORMATS, read_calls, reader_for, sniff_format
from serving.audit.formats.mapped_log import parse_mapping
from serving.audit.report import Report, make_report
from serving.audit.traffic.accounts import Accounts
from serving.audit.traffic.prefix_reuse import PrefixReuse
from serving.audit.traffic.price_list import PriceList, read_own_prices
from serving.audit.traffic.sample import SAMPLE_SIZE, Reservoir
from serving.audit.traffic.survey import Survey
from serving.errors import AuditError

FURTHER_CACHES = (4,)  # further cache sizes to follow, in replicas


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: which log, and what to assume where it does not say."""
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="JSON lines, plain or .gz")
    parser.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="auto: by the first line's keys")
    parser.add_argument(
        "--map", action="append", default=[], metavar="FIELD=PATH", help="where a field is in other logs (repeatable)"
    )
    parser.add_argument("--model", help="model of logs that name none (traces): whose price they pay")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="take prices and tier 1 from this profile")
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="YAML of own prices, as in a profile's cost.frontier"
    )
    parser.add_argument("--as-of", type=date.fromisoformat, metavar="DATE", help="day of the list prices (today)")
    parser.add_argument("--target", type=float, help="share of the frontier's quality to keep (0.98)")
    parser.add_argument("--relative-quality", type=float, help="tier 1's quality over the frontier's on this traffic")
    parser.add_argument("--artefact", type=Path, metavar="DIR", help="trained router: ask it what tier 1 may keep")
    parser.add_argument("--pilot", type=Path, metavar="FILE", help="ledger export: take rates and shares from it")
    parser.add_argument("--gpu-usd-per-hour", type=float, help="one tier-1 replica, all its GPUs (2.00)")
    parser.add_argument("--prefill-tokens-per-s", type=float, help="of one replica (20,000)")
    parser.add_argument("--decode-tokens-per-s", type=float, help="of one replica, all its requests together (2,500)")
    parser.add_argument("--kv-capacity-tokens", type=int, help="prefix cache of one replica (1,000,000)")
    parser.add_argument("--block-size-tokens", type=int, help="of a KV block (64, of a trace's ids 512)")
    parser.add_argument("--slo-wait-s", type=float, help="longest wait for a free replica (1)")
    parser.add_argument("--slo-late-ratio", type=float, help="share of requests that may wait longer (0.01)")
    parser.add_argument("--min-replicas", type=int, help="2 survives the loss of one (1)")
    parser.add_argument("--router-usd-per-request", type=float, help="price of a score (0.0001)")
    parser.add_argument("--drafted-ratio", type=float, help="share of the escalated that tier 1 drafts first (1)")
    parser.add_argument("--shadow-ratio", type=float, help="tier-1 answers that the frontier answers too (0.01)")
    parser.add_argument("--no-reuse", action="store_true", help="skip the prefix cache, half of the time")
    parser.add_argument("--sample", type=int, default=SAMPLE_SIZE, help="requests whose text is read (4,000)")
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report as a page that stands alone")
    parser.add_argument("--bad-rows", type=Path, metavar="FILE", help="write every line that could not be read")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Print the report of a log. Raises AuditError when the log or an option cannot be used."""
    report = audit(args)
    for line in table.lines(report):
        print(line)
    if args.html is not None:
        from serving.audit.page import page  # noqa: PLC0415 - matplotlib takes a second to import

        args.html.write_text(page(report), "utf-8")
        print(f"\npage written to {args.html}")
    print(json.dumps(report.model_dump(mode="json")))
    return 0


def audit(args: argparse.Namespace) -> Report:
    """The report of one log. Raises AuditError."""
    form = _format(args)
    pilot = prediction.pilot_of(args.pilot) if args.pilot is not None else None
    stated, own = _stated(args, form)
    if pilot is not None:
        stated = {"router_usd_per_request": pilot.router_usd} | stated
        if pilot.rates is not None:
            stated.setdefault("rates", pilot.rates.model_dump())
    assumed = _assumptions(args, stated)
    try:
        mapping = parse_mapping(args.map) if form == "mapped" else {}
    except ValueError as error:
        raise AuditError(str(error)) from error
    prices = PriceList(args.as_of or datetime.now(UTC).date(), own)
    capacities = [assumed.kv_capacity_tokens * factor for factor in (1, *FURTHER_CACHES)]
    survey = Survey(
        Accounts(prices.find),
        None if args.no_reuse else PrefixReuse(capacities, assumed.block_size_tokens),
        sample=Reservoir(max(1, args.sample), args.seed),
    )
    reader = reader_for(form, mapping, args.model, assumed.block_size_tokens)
    with ExitStack() as stack:
        bad = BadRows(stack.enter_context(args.bad_rows.open("w")) if args.bad_rows is not None else None)
        survey.read(read_calls(args.log, reader, bad, quiet=args.quiet))
    share = _share(args, survey, assumed, pilot)
    outlook = look_ahead(survey, assumed, share, bad.count)
    checked = prediction.check(args.log, pilot) if form == "ledger" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return make_report(args.log.name, form, survey, bad, assumed, outlook, checked, peak)


def _format(args: argparse.Namespace) -> str:
    if args.map:
        if args.format not in ("auto", "mapped"):
            raise AuditError(f"--map describes a format of its own; leave --format {args.format} out")
        return "mapped"
    if args.format == "mapped":
        raise AuditError("--format mapped needs to know where the fields are: --map FIELD=PATH ...")
    return str(args.format) if args.format != "auto" else sniff_format(args.log)


def _stated(args: argparse.Namespace, form: str) -> tuple[dict[str, Any], dict[str, TokenPrice]]:
    """The values that the profile states, and own prices."""
    stated: dict[str, Any] = {}
    own: dict[str, TokenPrice] = {}
    if args.profile is not None:
        stated, cost = read_profile(args.profile)
        own |= cost.frontier
        # A profile names the seller as well, where a log may know only the model.
        own |= {name.partition("/")[2]: price for name, price in cost.frontier.items()}
    if args.prices is not None:
        own |= read_own_prices(args.prices)
    if form == "trace":
        stated["block_size_tokens"] = DEFAULT_TRACE_BLOCK_TOKENS
    return stated, own


def _assumptions(args: argparse.Namespace, stated: dict[str, Any]) -> Assumptions:
    """The assumptions: options first, then what the profile states, then defaults."""
    values = dict(stated)
    names = (
        "target", "relative_quality", "kv_capacity_tokens", "block_size_tokens", "slo_wait_s", "slo_late_ratio",
        "min_replicas", "router_usd_per_request", "drafted_ratio", "shadow_ratio",
    )  # fmt: skip
    values |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.gpu_usd_per_hour is not None:
        values |= {"replica_usd_per_hour": args.gpu_usd_per_hour, "replica_price_source": "--gpu-usd-per-hour"}
    rates = dict(values.get("rates") or Assumptions().rates.model_dump())
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        if getattr(args, name) is not None:
            rates |= {name: getattr(args, name), "source": "given on the command line"}
    try:
        return Assumptions.model_validate(values | {"rates": rates})
    except ValidationError as error:
        named = [(str(e["loc"][-1]).replace("replica_usd", "gpu_usd"), e["msg"]) for e in error.errors()]
        raise AuditError("; ".join(f"--{name.replace('_', '-')}: {text}" for name, text in named)) from error


def _share(
    args: argparse.Namespace, survey: Survey, assumed: Assumptions, pilot: prediction.Pilot | None
) -> Tier1Share:
    """The share that tier 1 may keep: from an artefact, from a pilot, or from public measurements."""
    if args.artefact is not None:
        return artefact_share(args.artefact, survey.sample.kept)
    if pilot is not None:
        return prediction.share_of(pilot, assumed.target)
    return tier1_share(assumed.target, assumed.relative_quality)
