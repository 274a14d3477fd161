"""The parts of starting and stopping that need no engine: signals, progress, the port, what a newcomer is told."""

import ast
import re
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving.__main__ import parser
from serving.commands.serve import (
    STOP_SIGNALS,
    StartFailed,
    Steps,
    require_free_port,
    running_stack,
    stop_signals,
    usage_lines,
)
from serving.config import StackConfig, load_config

PROFILE = Path(__file__).resolve().parents[3] / "deploy" / "profiles" / "cpu.yaml"


@pytest.fixture
def config() -> StackConfig:
    return load_config(PROFILE, {"STACK_GATEWAY__PORT": "9123"})


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def unused_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_newcomer_is_told_the_address_and_the_configuration(config: StackConfig) -> None:
    told = usage_lines(config)
    assert "http://127.0.0.1:9123/v1" in told
    assert config.hash in told
    assert ":8000" not in told


def test_lines_to_try_are_whole_commands(config: StackConfig) -> None:
    """Copied as they stand, line ends included, a shell and Python can read them."""
    joined = usage_lines(config).replace("\\\n", "")
    (curl,) = [line for line in joined.splitlines() if line.strip().startswith("curl")]
    words = shlex.split(curl)
    body = words[words.index("-d") + 1]
    assert ast.literal_eval(body)["model"] == "auto"
    (python,) = [line for line in joined.splitlines() if "python -c" in line]
    ast.parse(shlex.split(python)[-1])
    for command in re.findall(r"-m serving ((?:ask \"[^\"]+\")|(?:\w+ \w+))", joined):
        words = shlex.split(command)
        parser(words[0]).parse_args(words)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda n: n.name)
def test_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    stopped = threading.Event()
    with stop_signals(stopped):
        signal.raise_signal(number)
        assert stopped.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_whoever_handled_the_signals_before_gets_them_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with stop_signals(threading.Event()):
        assert not {signal.getsignal(number) for number in STOP_SIGNALS} & set(before)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_steps_are_ticked_off_once_each_with_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(["Ray", "tier 1"])
    steps.done("tier 1")
    steps.done("tier 1")
    steps.done("unheard of")
    steps.refresh()
    steps.done("Ray")
    steps.close()
    told = capsys.readouterr().err
    assert re.findall(r"\d+\.\d s  (.+)", told) == ["tier 1", "Ray"]
    assert "starting Ray, tier 1" in told
    assert "ready" in told


def test_taken_port_is_named_with_the_way_out(listener: socket.socket) -> None:
    """Ray's proxies share a port: a second stack would take half of the first one's requests."""
    port = listener.getsockname()[1]
    with pytest.raises(StartFailed, match=f"127.0.0.1:{port}.*STACK_GATEWAY__PORT"):
        require_free_port("127.0.0.1", port, "STACK_GATEWAY__PORT")


def test_stack_whose_stand_in_would_meet_another_one_does_not_start(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one would answer the health check of ours, and the stack would call itself ready too early."""
    port = listener.getsockname()[1]
    monkeypatch.setattr("serving.commands.serve.model_path", lambda model: pytest.fail("went on to look for weights"))
    config = load_config(PROFILE, {"STACK_GATEWAY__PORT": str(unused_port()), "STACK_STANDIN__PORT": str(port)})
    with pytest.raises(StartFailed, match=f"127.0.0.1:{port}.*STACK_STANDIN__PORT"), running_stack(config):
        pass


def test_free_port_is_free_and_stays_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    require_free_port("127.0.0.1", port, "STACK_GATEWAY__PORT")
    require_free_port("127.0.0.1", port, "STACK_GATEWAY__PORT")
