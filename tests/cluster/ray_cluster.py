"""A Ray cluster over several hosts: `ray start` on each as in deploy/ray/, and Serve's REST API to deploy and look."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.cluster.hosts import Host

ROOT = Path(__file__).parents[2]
GCS_PORT = 6379
DASHBOARD_PORT = 8265
PATIENCE_S = 150.0
BIN = Path(sys.executable).parent


def machine_environment() -> dict[str, str]:
    """What deploy/ray/ sets on every machine, without the path of the token: a token has no file here."""
    lines = (ROOT / "deploy" / "ray" / "env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    del values["RAY_AUTH_TOKEN_PATH"]
    return values


@dataclass
class RayCluster:
    """Nodes by host name; the head runs the control plane and no engine."""

    hosts: dict[str, Host]
    folder: Path
    token: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        """Where the control plane is."""
        return self.hosts["head"]

    def environment(self, **more: str) -> dict[str, str]:
        """Of every process of the cluster."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **{name: value for name, value in machine_environment().items() if name.startswith("RAY_")},
            "RAY_AUTH_TOKEN": self.token,
            "RAY_gcs_storage_path": str(self.folder / "gcs"),
            "RAY_raylet_start_wait_time_s": "120",
            "TIERWISE_CACHE": str(ROOT / ".cache" / "tierwise"),
            **more,
        }

    def start_node(self, name: str, cpus: int) -> None:
        """`ray start` on one host; the node is usable once the head lists it."""
        host = self.hosts[name]
        place = (
            ["--head", f"--port={GCS_PORT}", "--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD_PORT}",
             f"--temp-dir={self.folder}/ray"]
            if name == "head"
            else [f"--address={self.head.address}:{GCS_PORT}"]
        )  # fmt: skip
        start = [str(BIN / "ray"), "start", *place, f"--node-ip-address={host.address}", f"--num-cpus={cpus}",
                 "--object-store-memory=100000000", "--block", "--disable-usage-stats"]  # fmt: skip
        # A disk of its own: Ray's folder has the same path on every host, and its sockets would meet there.
        disk, seen_as = self.folder / f"disk-{name}", self.folder / "ray"
        for folder in (disk, seen_as):
            folder.mkdir(exist_ok=True)
        # As after a reboot: with its old address Ray would take the other hosts' processes, which it sees, for its own.
        (disk / "ray_current_cluster").unlink(missing_ok=True)
        mounted = f"mount --bind {disk} {seen_as} && exec {shlex.join(start)}"
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                host.command("sh", "-c", mounted), env=self.environment(), cwd=self.folder, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call of the dashboard's API, from the head itself: it listens nowhere else."""
        return self.head.call(
            lambda: httpx.request(
                method,
                f"http://127.0.0.1:{DASHBOARD_PORT}{path}",
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=30,
                **options,
            )
        )

    def deploy(self, profile: dict[str, Any], archive: str) -> None:
        """`python -m serving build` and `serve deploy`, as an operator on the head does."""
        path = self.folder / "profile.yaml"
        path.write_text(yaml.safe_dump(profile))
        built = self.folder / "serve.yaml"
        self.command(sys.executable, "-m", "serving", "build", str(path), "--out", str(built), "--package", archive)
        self.command(str(BIN / "serve"), "deploy", str(built), "-a", f"http://127.0.0.1:{DASHBOARD_PORT}")

    def command(self, *words: str) -> str:
        """Run a command on the head; its output. The words of a failure are in the assertion."""
        done = subprocess.run(
            self.head.command(*words), env=self.environment(), cwd=ROOT, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def application(self) -> dict[str, Any]:
        """Serve's own account of the application; empty while there is none or nobody answers."""
        try:
            reply = self.api("GET", "/api/serve/applications/")
        except httpx.TransportError:
            return {}
        if reply.status_code != 200:
            return {}
        found: dict[str, Any] = reply.json()["applications"].get("tierwise", {})
        return found

    def replicas(self, deployment: str, state: str = "RUNNING") -> list[dict[str, Any]]:
        """Serve's replicas of a deployment in a state: replica_id, node_ip, pid, …"""
        listed = self.application().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return [replica for replica in listed if replica["state"] == state]

    def is_running(self) -> bool:
        """Whether every deployment is as it was asked for."""
        application = self.application()
        return application.get("status") == "RUNNING" and all(
            deployment["status"] == "HEALTHY" for deployment in application["deployments"].values()
        )

    def nodes_alive(self) -> set[str]:
        """Addresses of the nodes that the control plane thinks are alive."""
        try:
            reply = self.api("GET", "/api/v0/nodes")
            nodes = reply.json()["data"]["result"]["result"]
        except (httpx.TransportError, KeyError, TypeError, ValueError):
            return set()
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def until(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S, every_s: float = 0.25) -> float:
    """Wait for a condition; the seconds it took."""
    began = time.perf_counter()
    while not condition():
        waited = time.perf_counter() - began
        assert waited < within_s, f"{what}: not within {within_s:.0f} s"
        time.sleep(every_s)
    return time.perf_counter() - began
