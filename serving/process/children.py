"""Keeps an engine's processes on a leash: when the process that holds it is gone, however it went, they are killed.

vLLM's engine process does not notice the death of its front end and would keep its memory for ever.
`python -m serving.process.children MARK` is the watcher; it waits for the end of its standard input.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

VARIABLE = "TIERWISE_CHILD_GUARD"
AGAIN_S = 0.2


class ChildGuard:
    """Everything this process starts from now on is marked in its environment and ends with this process."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}
        self._watcher = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
            [sys.executable, "-m", "serving.process.children", mark],
            stdin=subprocess.PIPE,  # held open by nobody but us; the kernel closes it when we die
            env=unmarked,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )
        os.environ[VARIABLE] = mark

    def let_go(self) -> None:
        """Kill what is still marked, now."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()


def marked(mark: str) -> list[int]:
    """The living processes that inherited a mark (Linux: /proc/PID/environ; elsewhere none are found)."""
    line = f"{VARIABLE}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if line in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def main() -> None:
    """Wait for the holder's end, then kill until nobody with its mark is left."""
    sys.stdin.buffer.read()
    while pids := marked(sys.argv[1]):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    main()


STOP_GRACE_S = 15.0


def end_group(pgid: int, wait: Callable[[float], object]) -> None:
    """Ask a process group to end, and after STOP_GRACE_S make it; `wait(seconds)` waits for its leader."""
    signal_group(pgid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        wait(STOP_GRACE_S)
    signal_group(pgid, signal.SIGKILL)  # the leader may have left others behind
    wait(STOP_GRACE_S)


def signal_group(pgid: int, number: signal.Signals) -> None:
    """Signal a group that may be gone already."""
    with suppress(ProcessLookupError):
        os.killpg(pgid, number)


def end_with_parent(pipe: BinaryIO) -> None:
    """Wait for the end of the pipe, which is the end of the parent, and take this whole process group along."""
    pipe.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_GRACE_S)
    os.killpg(0, signal.SIGKILL)
