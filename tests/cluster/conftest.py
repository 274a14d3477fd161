"""One cluster for the tests of this folder: a head, two nodes and a client, each a host of its own on one switch."""

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from routing.records import AttemptKind, RequestRecord
from serving.access.keys import new_key
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from tests.cluster.frontier import frontier
from tests.cluster.hosts import Host, switched_hosts
from tests.cluster.load import Load
from tests.cluster.ray_cluster import ROOT, RayCluster, until
from tests.serving.ledger.postgres import PostgresServer, binaries, postgres_server

NODE_CPUS = 4
SMALL = "qwen2.5-coder-0.5b-instruct"


@dataclass
class Site:
    """Everything of the cluster that a test looks at."""

    cluster: RayCluster
    client: Host
    profile: dict[str, Any]
    key: str
    ledger: LedgerConfig
    folder: Path

    def url(self, node: str) -> str:
        """The gateway's address on a node."""
        return f"http://{self.cluster.hosts[node].address}:8000"

    def load(self, *nodes: str, clients: int, max_tokens: int = 20) -> Load:
        """Clients on the client host that use the gateways of these nodes."""
        return Load(self.client, [self.url(node) for node in nodes], self.key, clients, max_tokens)

    def deploy(self, **sections: dict[str, Any]) -> None:
        """Change the profile and deploy it, as an operator does."""
        for section, values in sections.items():
            self.profile[section] = {**self.profile[section], **values}
        self.cluster.deploy(self.profile, str(self.folder / "packages"))

    def answers(self, node: str) -> bool:
        """Whether a client reaches the gateway through a node."""

        def healthy() -> bool:
            try:
                return httpx.get(f"{self.url(node)}/healthz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        return self.client.call(healthy)

    def wait_ready(self, *nodes: str) -> None:
        """Until every deployment is as it was asked for and each of these nodes leads to a gateway."""
        until(self.cluster.is_running, "the application")
        until(lambda: all(self.answers(node) for node in nodes), "an answer through every node")

    def booked(self) -> set[str]:
        """Request ids in the ledger."""
        return {row.request_id for row in self.read(LedgerReader.requests)}

    def busiest(self) -> dict[str, Any]:
        """The replica of tier 1 that drafted most of the latest answers."""
        latest = self.read(lambda reader: reader.latest(20))
        drafts = Counter(a.replica_id for row in latest for a in row.attempts if a.kind is AttemptKind.DRAFT)
        running = {replica["replica_id"]: replica for replica in self.cluster.replicas("tier1")}
        return running[max(running, key=lambda replica_id: drafts[replica_id])]

    def read(self, question: Callable[[LedgerReader], Iterable[RequestRecord]]) -> list[RequestRecord]:
        """Ask the ledger from the client host, which reaches the database as the nodes do."""

        def ask() -> list[RequestRecord]:
            reader = LedgerReader(self.ledger)
            try:
                return list(question(reader))
            finally:
                reader.close()

        return self.client.call(ask)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A running cluster with the noop engine: what is tested is Serve, the gateway and the ledger."""
    if not (ROOT / ".cache" / "tierwise" / "models" / SMALL / "tokenizer.json").exists():
        pytest.skip("the gateway needs tier 1's tokenizer: fetch the models first")
    folder = Path(tempfile.mkdtemp(prefix="tw-"))  # short: Ray's sockets lie in it
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        hosts = cleanup.enter_context(switched_hosts("head", "a", "b", "client"))
        cluster = RayCluster(hosts, folder, secrets.token_hex(32))
        cluster.start_node("head", 0)
        database = ledger_of(folder, hosts["client"], cleanup)
        cleanup.enter_context(frontier(hosts["client"]))
        until(lambda: cluster.nodes_alive() == {hosts["head"].address}, "the head")
        for node in ("a", "b"):
            cluster.start_node(node, NODE_CPUS)
        until(lambda: len(cluster.nodes_alive()) == 3, "three nodes")
        plain, entry = new_key("team", admin=True)
        keys = folder / "keys.yaml"
        keys.write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json")]}))
        site = Site(cluster, hosts["client"], profile(folder, keys, hosts["client"], database), plain, database, folder)
        site.deploy()
        site.wait_ready("head", "a", "b")
        yield site


def ledger_of(folder: Path, host: Host, cleanup: ExitStack) -> LedgerConfig:
    """A Postgres of the cluster on a host that no test kills; SQLite where there is no Postgres."""
    if binaries() is None:
        return LedgerConfig(url=f"sqlite:///{folder}/ledger.sqlite3", busy_timeout_s=10)
    server: PostgresServer = cleanup.enter_context(postgres_server(host.address, host.command()))
    return LedgerConfig(url=server.new_database(), spool_dir=str(folder / "spool"))


def profile(folder: Path, keys: Path, client: Host, ledger: LedgerConfig) -> dict[str, Any]:
    """A cluster in small: an ingress process a node, replicas that take 50 ms a token, a frontier on the client."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "profiles" / "noop.yaml").read_text())
    del tree["router"]
    return tree | {
        "gateway": {
            "host": "0.0.0.0", "port": 8000, "replicas": 2, "num_cpus": 1, "max_replicas_per_node": 1,
            "keys_file": str(keys), "secret_file": str(folder / "secret"), "drain_s": 60,
        },
        "tier1": {
            "model": SMALL, "engine": "noop", "noop_token_s": 0.05, "num_cpus": 1, "max_replicas_per_node": 2,
            "autoscaling": {
                "min_replicas": 2, "max_replicas": 3, "target_ongoing_requests": 6, "upscale_delay_s": 0,
                "downscale_delay_s": 2, "look_back_period_s": 11,
            },
            "drain_s": 60, "max_concurrent_requests": 64, "max_queued_requests": 64,
        },
        # Every draft is shown as it comes, so that what happens to a released stream can be seen.
        "policy": {"no_score_tier": "tier1", "default_hold": "off"},
        "frontier": {
            "providers": [
                {"name": "none", "kind": "openai", "base_url": f"http://{client.address}:8101/v1", "api_key": "none",
                 "model": "none", "max_context_tokens": 131072}
            ]
        },
        "ledger": ledger.model_dump(mode="json"),
    }  # fmt: skip
