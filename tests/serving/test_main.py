"""The commands: readable help, one line for an error, and what they print is what the stack did."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from routing.records import RequestRecord
from serving.__main__ import COMMANDS, main, parser
from serving.access.keys import KeyRing
from serving.commands.ask import describe_path, dollars
from serving.ledger.config import LedgerConfig
from serving.ledger.writer import Ledger
from tests.journey.gateway import Gateway, gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import ScriptedUpstream, ok
from tests.serving.ledger.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]


def commands(of: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command line that runs something, without its arguments."""
    below = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path
    for action in below:
        for name, sub in action.choices.items():
            yield from commands(sub, (*path, name))


# Help


def test_help_lists_every_command_with_what_it_is_for(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for name in ("serve", "validate", "ask", "ledger", "new-key"):
        assert f"\n    {name} " in told


@pytest.mark.parametrize(
    "command", [line for name in COMMANDS for line in commands(parser(name)) if line[0] == name], ids=" ".join
)
def test_every_argument_is_explained(command: tuple[str, ...], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert f"python -m serving {' '.join(command)}" in told
    assert max(len(line) for line in told.splitlines()) <= 120


def test_every_option_has_a_help_text() -> None:
    def check(of: argparse.ArgumentParser) -> None:
        for action in of._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    check(sub)
            else:
                assert action.help, (of.prog, action.dest)

    for name in COMMANDS:
        check(parser(name))


@pytest.mark.parametrize("argv", [[], ["ledger"], ["srve"], ["validate"], ["ask"]])
def test_wrong_command_line_says_two(argv: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "usage: python -m serving" in capsys.readouterr().err


def test_named_error_is_one_line_and_two(capsys: Captured) -> None:
    assert main(["serve", "no/such/profile.yaml"]) == 2
    told = capsys.readouterr().err
    assert told == "error: cannot read the configuration no/such/profile.yaml: No such file or directory\n"


# Keys


@pytest.mark.parametrize("admin", [False, True], ids=["tenant", "admin"])
def test_new_key_prints_an_entry_that_the_gateway_takes(admin: bool, capsys: Captured, tmp_path: Path) -> None:
    assert main(["new-key", "blue", *(["--admin"] if admin else [])]) == 0
    told = capsys.readouterr()
    plain = told.err.split()[-1]
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n" + told.out, encoding="utf-8")
    principal = KeyRing.load(keys).authenticate(f"Bearer {plain}")
    assert (principal.tenant, principal.admin) == ("blue", admin)


def test_new_key_is_in_no_file_that_standard_output_goes_to(capsys: Captured) -> None:
    main(["new-key", "blue"])
    told = capsys.readouterr()
    assert told.err.split()[-1] not in told.out
    (entry,) = yaml.safe_load(told.out)
    assert entry["tenant"] == "blue"


# Asking


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Gateway, None]:
    async with ScriptedUpstream() as upstream, gateway(tmp_path, upstream) as g:
        yield g


async def ask(g: Gateway, *options: str) -> int:
    return await asyncio.to_thread(main, ["ask", "Name three colours.", "--url", g.url, *options])


async def test_ask_prints_the_answer_and_below_it_the_path(running: Gateway, capsys: Captured) -> None:
    running.tier1.script(Draft(text="red green blue"))
    assert await ask(running) == 0
    told = capsys.readouterr()
    assert told.out == "red green blue\n"
    assert "answered by tier1 (scripted-tier1); category chat" in told.err
    assert "decision: score_high, p(tier 1 will do) 0.90 of 0.50" in told.err
    assert "draft accepted" in told.err
    assert "  router   used" in told.err
    assert "  draft    served" in told.err
    assert "at the frontier $" in told.err


async def test_ask_shows_why_a_draft_was_replaced(running: Gateway, capsys: Captured) -> None:
    running.tier1.script(Draft(text=""))
    running.upstream.script(ok("violet"))
    assert await ask(running) == 0
    told = capsys.readouterr()
    assert told.out == "violet\n"
    assert "draft rejected: empty" in told.err
    assert "  draft    rejected" in told.err
    assert "  frontier served" in told.err


async def test_ask_sends_what_it_was_told(running: Gateway) -> None:
    running.upstream.script(ok("violet"))
    assert await ask(running, "--model", "frontier", "--max-tokens", "7") == 0
    (exchange,) = running.upstream.exchanges
    assert exchange.body["messages"][-1]["content"] == "Name three colours."
    assert 7 in (exchange.body.get("max_tokens"), exchange.body.get("max_completion_tokens"))


async def test_ask_tells_the_stacks_own_words_when_it_is_refused(running: Gateway, capsys: Captured) -> None:
    assert await ask(running, "--model", "gpt-4") == 1
    assert "error 404: The model does not exist here" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "http://[bad", "ftp://127.0.0.1"])
def test_ask_at_a_wrong_address_is_one_line(url: str, capsys: Captured) -> None:
    assert main(["ask", "hello", "--url", url]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert url in told
    assert told.count("\n") == 1


async def test_ask_where_nobody_listens_says_how_to_start(running: Gateway, capsys: Captured) -> None:
    assert main(["ask", "hello", "--url", "http://127.0.0.1:1"]) == 1
    assert "make serve" in capsys.readouterr().err


async def test_ask_where_something_else_listens_is_one_line(capsys: Captured) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(main, ["ask", "hello", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "error: no stack answers" in capsys.readouterr().err


def test_unknown_money_is_not_zero() -> None:
    assert dollars(None) == "unknown"
    assert dollars(0.0) == "$0.000000"


def test_path_of_an_answer_that_nobody_scored_or_judged() -> None:
    facts: dict[str, Any] = {
        "p_tier1_ok": None, "threshold": None, "decision": "requested", "verdict": None, "tier": "frontier",
        "category": "code", "attempts": [], "cost_usd": None, "baseline_cost_usd": 0.25,
    }  # fmt: skip
    assert describe_path({"model": "big", "tierwise": facts}).splitlines() == [
        "answered by frontier (big); category code; decision: requested",
        "cost unknown, at the frontier $0.250000",
    ]


# The ledger


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile whose ledger holds the examples."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    with Ledger(LedgerConfig(url=url)) as ledger:
        for row in EXAMPLES:
            ledger.record(row)
        assert ledger.flush()
    provider = {"name": "up", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "none", "model": "big"}
    tree = {
        "tier1": {"model": "small"},
        "frontier": {"providers": [{**provider, "max_context_tokens": 16384}]},
        "ledger": {"url": url},
    }
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_tail_prints_the_latest_requests_one_line_each(profile: Path, capsys: Captured) -> None:
    assert main(["ledger", "tail", "-n", "2", "--config", str(profile)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "request" in head
    assert [line.split()[2] for line in lines] == [row.request_id for row in EXAMPLES[-2:]]


def test_export_is_json_lines_that_are_the_rows(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["ledger", "export", "--out", str(out), "--config", str(profile)]) == 0
    rows = [RequestRecord.model_validate_json(line) for line in out.read_text("utf-8").splitlines()]
    assert rows == list(EXAMPLES)


def test_export_of_a_range(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    span = ["--since", EXAMPLES[1].at, "--until", EXAMPLES[2].at]
    assert main(["ledger", "export", "--out", str(out), *span, "--config", str(profile)]) == 0
    (line,) = out.read_text("utf-8").splitlines()
    assert json.loads(line)["request_id"] == EXAMPLES[1].request_id


async def test_rows_of_a_journey_are_tailed_and_exported(
    running: Gateway, profile: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The gateway and the profile have one ledger here."""
    running.tier1.script(Draft(text="red"))
    await ask(running)
    row = await running.row()
    assert running.stack.ledger.flush()
    capsys.readouterr()
    assert main(["ledger", "tail", "--config", str(profile)]) == 0
    assert row.request_id in capsys.readouterr().out
    out = tmp_path / "rows.jsonl"
    assert main(["ledger", "export", "--out", str(out), "--config", str(profile)]) == 0
    assert row.request_id in out.read_text("utf-8")


def test_report_prints_what_was_saved_as_text_or_json(profile: Path, capsys: Captured) -> None:
    assert main(["report", "--config", str(profile)]) == 0
    assert capsys.readouterr().out.startswith("3 requests, 2026-03-01T12:00:00")
    assert main(["report", "--json", "--tenant", "green", "--config", str(profile)]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["requests"] == 1
    assert main(["report", "--kernel-speedup", "0.5", "--config", str(profile)]) == 2
    assert "--kernel-speedup is 0.5" in capsys.readouterr().err


def test_reconcile_says_what_differs_and_with_its_status_whether_anything_does(
    profile: Path, tmp_path: Path, capsys: Captured
) -> None:
    tree = yaml.safe_load(profile.read_text())
    tree["frontier"]["providers"][0]["name"] = "acme"
    profile.write_text(yaml.safe_dump(tree))
    usage = tmp_path / "usage.csv"
    argv = ["reconcile", "--usage", str(usage), "--fields", "openai", "--config", str(profile)]
    head = "start_time,num_model_requests,model,input_tokens,output_tokens,input_cached_tokens\n"
    usage.write_text(head + "1772323200,1,large,171,60,0\n")
    assert main([*argv, "--provider", "acme"]) == 0
    assert "1 of 1 days and models are equal" in capsys.readouterr().out
    usage.write_text(head + "1772323200,2,large,342,60,0\n")
    assert main([*argv, "--provider", "acme"]) == 1
    assert "input_tokens 171 of 342" in capsys.readouterr().out
    assert main([*argv, "--provider", "nobody"]) == 2
    assert "no provider 'nobody'" in capsys.readouterr().err


def test_budget_is_set_listed_and_removed(profile: Path, capsys: Captured) -> None:
    where = ["--config", str(profile)]
    assert main(["budget", "set", "blue", "--hard", "5", "--soft", "4", *where]) == 0
    assert main(["budget", "list", *where]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:3] == ["tenant", "blue", "month"]
    assert line.split()[-2:] == ["4.000000", "5.000000"]
    assert main(["budget", "remove", "blue", *where]) == 0
    assert main(["budget", "remove", "blue", *where]) == 2
    assert main(["budget", "set", "blue", *where]) == 2
    told = capsys.readouterr().err
    assert "the tenant 'blue' has no budget for the month" in told
    assert "needs hard_usd, soft_usd or both" in told


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["export", "--since", "yesterday"], "no moment in ISO 8601"),
        (["export", "--out", "no/such/folder/rows.jsonl"], "cannot write no/such/folder/rows.jsonl"),
    ],
)
def test_wrong_wish_is_one_line(profile: Path, argv: list[str], says: str, capsys: Captured) -> None:
    assert main(["ledger", *argv, "--config", str(profile)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_ledger_that_was_never_written_is_named(
    profile: Path, tmp_path: Path, capsys: Captured, monkeypatch: Any
) -> None:
    monkeypatch.setenv("STACK_LEDGER__URL", f"sqlite:///{tmp_path}/none.sqlite3")
    assert main(["ledger", "tail", "--config", str(profile)]) == 2
    assert "no ledger at" in capsys.readouterr().err
    assert not (tmp_path / "none.sqlite3").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [("ledger", "export", "--config"), ("validate", "--show")], ids=" ".join)
def test_reader_that_has_seen_enough_ends_a_command_quietly(profile: Path, command: tuple[str, ...]) -> None:
    """As `head` does."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "serving", *command, str(profile)]
    done = subprocess.run(argv, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False, timeout=200)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
