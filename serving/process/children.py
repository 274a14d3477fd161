"""Kills an engine's child processes when the process that started them ends, even after kill -9.

vLLM's engine process does not notice the death of its front end and would keep its memory for ever.
`python -m serving.process.children MARK` is the watcher. It waits for the end of its standard input, then kills.
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
STOP_GRACE_S = 15.0


class ChildGuard:
    """Marks in the environment all that this process starts from now on. All of it ends with this process."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}
        self._watcher = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
            [sys.executable, "-m", "serving.process.children", mark],
            stdin=subprocess.PIPE,  # only we hold it open, and the kernel closes it when we die
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
    """Ids of the living processes that inherited a mark. Reads /proc/PID/environ, so only Linux finds any."""
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
    """Wait until the guarded process ends, then kill until no process with its mark is left."""
    sys.stdin.buffer.read()
    while pids := marked(sys.argv[1]):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(AGAIN_S)


def end_group(pgid: int, wait: Callable[[float], object]) -> None:
    """Ask a process group to end, and kill it after STOP_GRACE_S. `wait(seconds)` waits for its leader."""
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
    """Wait for the end of the pipe, which is the end of the parent. Then end this whole process group."""
    pipe.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
