"""Hosts of a small network on this machine: network namespaces on a switch, with Linux's own tools.

Each host has its loopback, one address on the switch, and nothing else; two hosts meet on the switch alone.
"""

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
SUBNET = "10.213.77"  # of the switch; exists in the namespaces only


class Host:
    """One network namespace with its address."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"

    def command(self, *words: str) -> list[str]:
        """A command line that runs in this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def pids(self) -> list[int]:
        """Every process of this host."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def call(self, function: Callable[[], T]) -> T:
        """The function's result, run by a thread whose sockets are this host's."""
        answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        def body() -> None:
            try:
                self.enter()
                answers.put((True, function()))
            except BaseException as error:
                answers.put((False, error))

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        fine, value = answers.get()
        if not fine:
            raise value
        answer: T = value
        return answer

    def enter(self) -> None:
        """Move the calling thread into this host, for good."""
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def unplug(self) -> None:
        """Take the host off the switch: what others wait for from it never comes, and nobody is told."""
        run("ip", "-n", self.name, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        """Put it back."""
        run("ip", "-n", self.name, "link", "set", "eth0", "up")

    def kill(self) -> None:
        """SIGKILL to every process of the host, until none is left."""
        deadline = time.perf_counter() + 20
        while pids := self.pids():
            assert time.perf_counter() < deadline, f"{self.name} still runs {pids}"
            for pid in pids:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)


def run(*words: str) -> str:
    """Run a tool; its output."""
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def switched_hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts by name on one switch, numbered from 1; everything in them is killed and removed at the end.

    Skips the test where namespaces cannot be made.
    """
    tag = f"tw{os.getpid() % 100000}"
    switch = f"{tag}-switch"
    hosts = {name: Host(f"{tag}-{name}", number) for number, name in enumerate(names, start=1)}
    made: list[str] = []
    try:
        try:
            run("ip", "netns", "add", switch)
            made.append(switch)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here (iproute2 and CAP_SYS_ADMIN are needed): {error}")
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, host in enumerate(hosts.values(), start=1):
            run("ip", "netns", "add", host.name)
            made.append(host.name)
            run("ip", "-n", host.name, "link", "set", "lo", "up")
            run("ip", "-n", switch, "link", "add", f"port{number}", "type", "veth",
                "peer", "name", "eth0", "netns", host.name)  # fmt: skip
            run("ip", "-n", switch, "link", "set", f"port{number}", "master", "br0", "up")
            run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
        yield hosts
    finally:
        for host in hosts.values():
            if host.name in made:
                host.kill()
        for name in reversed(made):
            run("ip", "netns", "del", name)


def listeners(host: Host) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that listens in the host."""
    found = set()
    for path in ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"):
        for line in host.call(lambda path=path: Path(path).read_text()).splitlines()[1:]:  # type: ignore[misc]
            local, _, state = line.split()[1:4]
            if state == "0A":
                address, port = local.split(":")
                found.add((address, int(port, 16)))
    return found
