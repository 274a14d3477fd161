"""What an engine started ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.process.children import ChildGuard, marked

pytestmark = pytest.mark.slow

# A holder with a child in a session of its own, which no signal to the holder's group would reach.
HOLDER = """
import subprocess, sys, time
from serving.process.children import ChildGuard
guard = ChildGuard()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.perf_counter() + within_s
    while alive(pid) and time.perf_counter() < deadline:
        threading.Event().wait(0.02)
    return not alive(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_child_ends_with_its_holder(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert alive(child)
        os.kill(holder.pid, how)
    assert ends(child)


def test_letting_go_ends_the_children_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERWISE_CHILD_GUARD", raising=False)
    before = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    guard = ChildGuard()
    after = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        guard.let_go()
        assert after.wait(20) == -signal.SIGKILL
        assert before.poll() is None
    finally:
        before.kill()
        before.wait()
        os.environ.pop("TIERWISE_CHILD_GUARD", None)


def test_unknown_mark_is_nobodys() -> None:
    assert marked("no such mark") == []
