"""`budget list`, `budget set` and `budget remove`: limit what a tenant or a key may spend in a day or month."""

import argparse
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import ValidationError

from routing.cost.budget import Budget, Period, Scope
from serving.access.budget_store import BudgetStore
from serving.commands.options import add_config
from serving.config import load_config
from serving.errors import ConfigInvalid
from serving.ledger.store import StorageDown, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All three actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("list", help="print every budget and what is used of it")
    add_config(action)
    action.set_defaults(action=show)
    for name, what, do in (("set", "set or change one", put), ("remove", "lift one", remove)):
        action = actions.add_parser(name, help=what)
        action.add_argument("subject", help="the tenant, or with --key the id of a key")
        action.add_argument("--key", action="store_true", help="the subject is a key's id")
        action.add_argument("--period", choices=("day", "month"), default="month", help="in UTC (month)")
        add_config(action)
        action.set_defaults(action=do)
        if name == "set":
            action.add_argument("--hard", type=float, help="dollars, above which budget.at_hard applies")
            action.add_argument("--soft", type=float, help="dollars, above which budget.at_soft applies")


def run(args: argparse.Namespace) -> int:
    """Do the action that was named."""
    return int(args.action(args))


@contextlib.contextmanager
def budget_store(args: argparse.Namespace) -> Iterator[BudgetStore]:
    """The budgets of a profile's ledger. Makes its tables if needed. Raises ConfigInvalid when the database is away."""
    config = load_config(args.config)
    store = Store(config.ledger)
    try:
        store.migrate()
        yield BudgetStore(config.ledger, config.budget)
    except StorageDown as error:
        raise ConfigInvalid(f"the ledger at {config.ledger.url} takes nothing now: {error}") from error
    finally:
        store.dispose()


def show(args: argparse.Namespace) -> int:
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


def put(args: argparse.Namespace) -> int:
    """Set a limit. A running gateway sees a tenant's first one within budget.refresh_s."""
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


def remove(args: argparse.Namespace) -> int:
    """Lift a limit."""
    scope = Scope.KEY if args.key else Scope.TENANT
    with budget_store(args) as store:
        found = store.remove(scope, args.subject, Period(args.period))
    if not found:
        raise ConfigInvalid(f"the {scope} {args.subject!r} has no budget for the {args.period}")
    return 0
