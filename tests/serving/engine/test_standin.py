"""The stand-in's child process: started without secrets in sight, never left behind."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.engine.standin import Standin, StandinConfig, StandinFailed
from serving.process.children import end_group

pytestmark = pytest.mark.slow

# A leader that ignores polite signals and has a child of its own; prints the child's pid.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
WATCHED = """
import sys, threading
from serving.engine import standin
standin.STOP_GRACE_S = 0.2
threading.Thread(target=standin.end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


def gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.perf_counter() + within_s
    while time.perf_counter() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if stat == "Z":
            return True
        threading.Event().wait(0.02)
    return False


def test_group_is_ended_with_its_children_even_when_the_leader_will_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.process.children.STOP_GRACE_S", 0.5)
    leader = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    end_group(leader.pid, leader.wait)
    assert leader.returncode == -signal.SIGKILL
    assert gone(child)


def test_ending_a_group_that_is_gone_is_no_error() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    done.wait()
    end_group(done.pid, done.wait)


def test_child_ends_when_its_parent_does() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[3],
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    assert child.poll() is None
    child.stdin.close()  # what the kernel does when the parent dies
    child.wait(20)
    assert child.returncode == -signal.SIGTERM


def test_api_key_is_neither_in_the_command_line_nor_in_the_settings() -> None:
    config = StandinConfig(model="m", model_path="/w", api_key="hush")
    assert "hush" not in config.model_dump_json()
    assert "hush" not in repr(config)
    assert "hush" not in str(config.server_flags())


def test_server_is_on_loopback_only() -> None:
    assert StandinConfig(model="m", model_path="/w").server_flags()["host"] == "127.0.0.1"


def test_dead_child_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    config = StandinConfig(model="m", model_path=str(tmp_path), port=1, engine_args={"no_such_flag": 1})
    with Standin(config, tmp_path / "log") as standin, pytest.raises(StandinFailed, match="no-such-flag"):
        standin.wait_ready(timeout_s=120)


def test_standin_that_was_not_started_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(StandinFailed, match="not started"):
        Standin(StandinConfig(model="m", model_path="/w"), tmp_path / "log").is_ready()
