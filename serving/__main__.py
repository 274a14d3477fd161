"""Commands: serve, check and plan a stack, ask one question, read the ledger, report, make an API key."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Ray reads these when it is imported: no usage reports, the handle path without its extra thread hop, and engines that
# are not at a lower priority than everything else on the machine (Ray's default niceness is 15). The oddly named one
# lets a Ray that will never be a cluster keep 127.0.0.1 as its address (see serving/loopback.py).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")  # what the line above turns on: a second port a gateway
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own default since 2.60; its ports carry pickles
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # a machine that is busy starting engines is slow

import yaml

from routing.learning.release import RELEASE_FILE
from serving.errors import ConfigInvalid, StackError

if TYPE_CHECKING:
    from serving.ledger.budget_store import BudgetStore

DEFAULT_PROFILE = "deploy/profiles/cpu.yaml"
DEFAULT_URL = "http://127.0.0.1:8000"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. A named error is one line, not a traceback."""
    args = parser().parse_args(argv)
    try:
        status = int(args.run(args))
        sys.stdout.flush()  # here, where a reader that left is no error
        return status
    except StackError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
        return 0
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Every command with its options and a line on what it is for."""
    top = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="start the whole stack and serve until Ctrl-C")
    command.add_argument("config", nargs="?", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_serve)

    command = commands.add_parser("validate", help="check a profile; exit status 2 and every wrong key when it is bad")
    command.add_argument("config", type=Path, help="the profile to check")
    command.add_argument("--show", action="store_true", help="print the resolved tree, secrets masked")
    command.set_defaults(run=run_validate)

    command = commands.add_parser("plan", help="the memory of every engine; exit status 2 when they do not fit")
    command.add_argument("config", type=Path, help="the profile to work out")
    command.add_argument(
        "--lengths",
        type=token_counts,
        default=(1024, 4096, 16384),
        metavar="N,N",
        help="request lengths, prompt and answer together, to count concurrency for (1024,4096,16384)",
    )
    command.set_defaults(run=run_plan)

    command = commands.add_parser("build", help="the document for `serve deploy` on a Ray cluster")
    command.add_argument("config", type=Path, help="the profile to deploy")
    command.add_argument("--out", type=Path, help="file to write (standard output)")
    command.add_argument("--package", type=Path, metavar="DIR", help="zip the code into this folder, named by its hash")
    command.add_argument(
        "--package-uri",
        metavar="PREFIX",
        help="where the nodes find the zip: s3://bucket/path, https://…, gs://… (file://DIR, for one machine)",
    )
    command.set_defaults(run=run_build)

    command = commands.add_parser("grafana", help="the Grafana dashboard of every metric, as JSON")
    command.set_defaults(run=run_grafana)

    command = commands.add_parser("ask", help="ask a running stack one question; print the answer and its path")
    command.add_argument("question", help="the user message")
    command.add_argument("--model", default="auto", help="auto, auto:cheap, auto:quality, tier1 or frontier")
    command.add_argument("--url", default=DEFAULT_URL, help=f"where the stack listens ({DEFAULT_URL})")
    command.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens (256)")
    command.set_defaults(run=run_ask)

    ledger = commands.add_parser("ledger", help="read the ledger").add_subparsers(required=True, metavar="ACTION")
    command = ledger.add_parser("tail", help="the latest requests, one line each")
    command.add_argument("-n", type=int, default=20, help="how many (20)")
    command.add_argument("-f", "--follow", action="store_true", help="keep printing new ones until Ctrl-C")
    command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_ledger_tail)
    command = ledger.add_parser("export", help="every request with its attempts as JSON lines")
    command.add_argument("--out", type=Path, help="file to write (standard output)")
    command.add_argument("--since", help="first moment, ISO 8601 UTC")
    command.add_argument("--until", help="first moment no longer exported, ISO 8601 UTC")
    command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_ledger_export)

    budget = commands.add_parser("budget", help="see and set budgets").add_subparsers(required=True, metavar="ACTION")
    command = budget.add_parser("list", help="every budget with what is used of it")
    command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_budget_list)
    for action, what in (("set", "set or change one"), ("remove", "lift one")):
        command = budget.add_parser(action, help=what)
        command.add_argument("subject", help="the tenant, or with --key the id of a key")
        command.add_argument("--key", action="store_true", help="the subject is a key's id")
        command.add_argument("--period", choices=("day", "month"), default="month", help="in UTC (month)")
        command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
        command.set_defaults(run=run_budget_set if action == "set" else run_budget_remove)
        if action == "set":
            command.add_argument("--hard", type=float, help="dollars; then what budget.at_hard says")
            command.add_argument("--soft", type=float, help="dollars; then what budget.at_soft says")

    command = commands.add_parser("report", help="what the stack saved against the frontier alone, from the ledger")
    command.add_argument("--since", help="first moment, ISO 8601 UTC (the first request)")
    command.add_argument("--until", help="first moment no longer counted, ISO 8601 UTC")
    command.add_argument("--tenant", help="only this tenant")
    command.add_argument("--kernel-speedup", type=float, help="engine seconds without / with kernel options, measured")
    command.add_argument("--json", action="store_true", help="print the report as one JSON document")
    command.add_argument("--html", type=Path, help="also write it as one page that needs nothing else")
    command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_report)

    command = commands.add_parser(
        "reconcile", help="compare the ledger with a provider's usage export, by day and model"
    )
    command.add_argument("--usage", required=True, type=Path, help="the provider's export, CSV or JSON")
    command.add_argument("--provider", required=True, help="the provider's name in the profile")
    command.add_argument("--fields", required=True, help="openai, anthropic, or a YAML file that maps the fields")
    command.add_argument("--since", help="first moment of the ledger, ISO 8601 UTC")
    command.add_argument("--until", help="first moment no longer counted, ISO 8601 UTC")
    command.add_argument("--json", action="store_true", help="print it as one JSON document")
    command.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")
    command.set_defaults(run=run_reconcile)

    command = commands.add_parser(
        "new-key", help="make an API key: the key once, and its hashed entry for the keys file"
    )
    command.add_argument("tenant", help="who the key belongs to")
    command.add_argument("--admin", action="store_true", help="may read /metrics")
    command.set_defaults(run=run_new_key)
    return top


def run_serve(args: argparse.Namespace) -> int:
    """Start everything, print how to use it, wait for Ctrl-C, stop everything."""
    from serving.config import load_config
    from serving.learned import read_learned
    from serving.supervisor import serve_until_stopped

    config = load_config(args.config)
    read_learned(config.policy, config.gate)  # here too: a refusal should not wait for the engines
    return serve_until_stopped(config)


def run_validate(args: argparse.Namespace) -> int:
    """Read the profile exactly as `serve` would, trained heads included."""
    from serving.config import load_config
    from serving.learned import read_learned

    config = load_config(args.config)
    read_learned(config.policy, config.gate)
    if args.show:
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    print(f"{args.config} is valid; config hash {config.hash}")
    if config.promotion.registry is not None and (path := config.promotion.registry / RELEASE_FILE).exists():
        from serving.app import running
        from serving.releases import load

        release = load(path, partial(running, config)).release
        print(f"{path} is valid; stable version {release.stable.version}")
    return 0


def token_counts(text: str) -> tuple[int, ...]:
    """The value of --lengths."""
    lengths = tuple(int(part) for part in text.split(","))
    if min(lengths) < 1:
        raise ValueError("a length is at least 1")
    return lengths


def run_plan(args: argparse.Namespace) -> int:
    """Print the memory budget; DoesNotFit ends the command."""
    from serving.config import load_config
    from serving.plan import plan, plan_lines

    print(plan_lines(plan(load_config(args.config)), args.lengths), end="")
    return 0


def run_build(args: argparse.Namespace) -> int:
    """Write the document; with --package also the code it refers to."""
    from serving.build import document, package, serve_config

    try:
        archive = package(args.package) if args.package else None
        prefix = args.package_uri or (f"file://{archive.parent.resolve()}" if archive else "")
        uri = f"{prefix.rstrip('/')}/{archive.name}" if archive else None
        text = document(serve_config(args.config, dict(os.environ), uri), args.config)
        if args.out:
            args.out.write_text(text, encoding="utf-8")
        else:
            print(text, end="")
    except OSError as error:
        raise ConfigInvalid(f"cannot write {error.filename}: {error.strerror}") from error
    if archive:
        print(f"code: {archive} -> {uri}", file=sys.stderr)
    return 0


def run_grafana(args: argparse.Namespace) -> int:
    """Print it; deploy/grafana/tierwise.json is a copy."""
    from serving.grafana import dashboard_json

    print(dashboard_json(), end="")
    return 0


def run_ask(args: argparse.Namespace) -> int:
    """One chat completion over HTTP."""
    import httpx

    body = {
        "model": args.model,
        "max_tokens": args.max_tokens,
        "messages": [{"role": "user", "content": args.question}],
    }
    headers = {"authorization": f"Bearer {key}"} if (key := os.environ.get("TIERWISE_API_KEY")) else {}
    try:
        reply = httpx.post(f"{args.url}/v1/chat/completions", json=body, headers=headers, timeout=600)
        answer = reply.json()
    except httpx.ConnectError:
        print(f"error: nothing listens at {args.url}; start the stack with: make serve", file=sys.stderr)
        return 1
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        print(f"error: no stack answers at {args.url}: {error}", file=sys.stderr)
        return 1
    if reply.is_error:
        print(f"error {reply.status_code}: {answer['error']['message']}", file=sys.stderr)
        return 1
    print(answer["choices"][0]["message"]["content"])
    print(f"\n{describe_path(answer)}", file=sys.stderr)
    return 0


def describe_path(answer: dict[str, object]) -> str:
    """The path a request took, in lines: decision, verdict, attempts, money."""
    facts = json.loads(json.dumps(answer["tierwise"]))
    p = facts["p_tier1_ok"]
    decision = f"{facts['decision']}" + (
        "" if p is None else f", p(tier 1 will do) {p:.2f} of {facts['threshold']:.2f}"
    )
    verdict = facts["verdict"]
    lines = [f"answered by {facts['tier']} ({answer['model']}); category {facts['category']}; decision: {decision}"]
    if verdict is not None:
        lines.append(f"draft {'accepted' if verdict['accepted'] else 'rejected: ' + ', '.join(verdict['reasons'])}")
    for attempt in facts["attempts"]:
        lines.append(
            f"  {attempt['kind']:<9}{attempt['outcome']:<10}{dollars(attempt['cost_usd']):>12}  {attempt['model']}"
        )
    lines.append(f"cost {dollars(facts['cost_usd'])}, at the frontier {dollars(facts['baseline_cost_usd'])}")
    return "\n".join(lines)


def dollars(value: float | None) -> str:
    """An amount, or that it is not known."""
    return "unknown" if value is None else f"${value:.6f}"


def run_ledger_tail(args: argparse.Namespace) -> int:
    """Print the latest rows."""
    from serving.config import load_config
    from serving.ledger.reader import LedgerReader

    for line in LedgerReader(load_config(args.config).ledger).tail(args.n, follow=args.follow):
        print(line, flush=True)
    return 0


def run_ledger_export(args: argparse.Namespace) -> int:
    """Write the rows as JSON lines."""
    from serving.config import load_config
    from serving.ledger.export import export_jsonl
    from serving.ledger.reader import LedgerReader

    try:
        with args.out.open("wb") if args.out else contextlib.nullcontext(sys.stdout.buffer) as out:
            export_jsonl(LedgerReader(load_config(args.config).ledger), out, args.since, args.until)
    except BrokenPipeError:
        raise  # the reader of standard output left; see main
    except OSError as error:
        raise ConfigInvalid(f"cannot write {args.out}: {error.strerror}") from error
    return 0


@contextlib.contextmanager
def budget_store(args: argparse.Namespace) -> Iterator["BudgetStore"]:
    """The budgets of a profile's ledger, its tables made if need be; a database that is away is one line."""
    from serving.config import load_config
    from serving.ledger.budget_store import BudgetStore
    from serving.ledger.store import StorageDown, Store

    config = load_config(args.config)
    store = Store(config.ledger)
    try:
        store.migrate()
        yield BudgetStore(config.ledger, config.budget)
    except StorageDown as error:
        raise ConfigInvalid(f"the ledger at {config.ledger.url} takes nothing now: {error}") from error
    finally:
        store.dispose()


def run_budget_list(args: argparse.Namespace) -> int:
    """Print one line per budget."""
    with budget_store(args) as store:
        states = store.states(datetime.now(UTC))
    head = "".join(f"{name:>13}" for name in ("spent $", "reserved $", "soft $", "hard $"))
    print(f"{'scope':<8}{'subject':<32}{'period':<8}{'from':<12}{head}")
    for state in states:
        budget = state.budget
        limits = "".join(f"{'-' if usd is None else f'{usd:.6f}':>13}" for usd in (budget.soft_usd, budget.hard_usd))
        used = f"{state.spent_usd:>13.6f}{state.reserved_usd:>13.6f}"
        print(f"{budget.scope:<8}{budget.subject:<32}{budget.period:<8}{state.starts.isoformat():<12}{used}{limits}")
    return 0


def run_budget_set(args: argparse.Namespace) -> int:
    """Set a limit; a running gateway sees a tenant's first one within budget.refresh_s."""
    from pydantic import ValidationError

    from routing.cost.budget import Budget, Period, Scope

    try:
        budget = Budget(
            scope=Scope.KEY if args.key else Scope.TENANT,
            subject=args.subject,
            period=Period(args.period),
            hard_usd=args.hard,
            soft_usd=args.soft,
        )
    except ValidationError as error:
        raise ConfigInvalid("; ".join(str(e["msg"]) for e in error.errors())) from None
    with budget_store(args) as store:
        store.put(budget, datetime.now(UTC))
    return 0


def run_budget_remove(args: argparse.Namespace) -> int:
    """Lift a limit."""
    from routing.cost.budget import Period, Scope

    scope = Scope.KEY if args.key else Scope.TENANT
    with budget_store(args) as store:
        found = store.remove(scope, args.subject, Period(args.period))
    if not found:
        raise ConfigInvalid(f"the {scope} {args.subject!r} has no budget for the {args.period}")
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Compute the savings of a range and print them."""
    from routing.cost.savings import SavingsConfig
    from serving.config import load_config
    from serving.ledger.reader import LedgerReader
    from serving.report.read import savings_report
    from serving.report.table import render

    speedup = args.kernel_speedup
    if speedup is not None and speedup < 1:
        raise ConfigInvalid(f"--kernel-speedup is {speedup:g}: seconds without / with the options, so 1 or more")
    report = savings_report(
        LedgerReader(load_config(args.config).ledger),
        SavingsConfig(kernel_speedup=speedup),
        args.since,
        args.until,
        args.tenant,
        show_progress=sys.stderr.isatty(),
    )
    if args.html:
        from serving.report.html import render as page

        try:
            args.html.write_text(page(report), encoding="utf-8")
        except OSError as error:
            raise ConfigInvalid(f"cannot write {args.html}: {error.strerror}") from error
    print(report.model_dump_json(indent=2) if args.json else render(report), end="\n" if args.json else "")
    return 0


def run_reconcile(args: argparse.Namespace) -> int:
    """Print what differs; exit status 1 when anything does."""
    from routing.cost.reconcile import reconcile
    from serving.config import load_config
    from serving.ledger.reader import LedgerReader
    from serving.report.reconciled import render
    from serving.usage_export import fields_named, ledger_usage, read_export

    config = load_config(args.config)
    names = [provider.name for provider in config.frontier.providers]
    if args.provider not in names:
        raise ConfigInvalid(f"the profile has no provider {args.provider!r}; it has: {', '.join(names)}")
    rows = LedgerReader(config.ledger).requests(args.since, args.until)
    found = reconcile(ledger_usage(rows, args.provider), read_export(args.usage, fields_named(args.fields)))
    print(found.model_dump_json(indent=2) if args.json else render(found), end="\n" if args.json else "")
    return 0 if found.agrees else 1


def run_new_key(args: argparse.Namespace) -> int:
    """Print the plain key to standard error's reader once and the entry to standard output."""
    from serving.keys import new_key

    plain, entry = new_key(args.tenant, admin=args.admin)
    print(f"the key, shown only now: {plain}", file=sys.stderr)
    print(yaml.safe_dump([entry.model_dump(mode="json")], sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
