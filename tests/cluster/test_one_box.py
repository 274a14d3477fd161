"""From another machine only the gateway's port of a one-machine stack answers, and that one asks for a key."""

import errno
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.load.tiny_model import write_model
from serving.access.keys import new_key
from tests.cluster.conftest import SMALL
from tests.cluster.hosts import Host, listeners, switched_hosts
from tests.cluster.ray_cluster import ROOT, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORT = 8000
STANDIN_PORT = 8001
UP_WITHIN_S = 300.0
STOPPED_WITHIN_S = 90


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host, str]]:
    """(the box, another host, an admin key): gateway, two engines that publish their caches, a stand-in frontier."""
    models = ROOT / ".cache" / "tierwise" / "models"
    if not (models / SMALL / "tokenizer.json").exists():
        pytest.skip("the gateway needs tier 1's tokenizer: fetch the models first")
    folder = tmp_path_factory.mktemp("box")
    key, entry = new_key("team", admin=True)
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json")]}))
    with switched_hosts("box", "outside") as hosts:
        profile = folder / "profile.yaml"
        profile.write_text(
            yaml.safe_dump(profile_of(folder, hosts["box"], write_model(folder / "tiny", models / SMALL)))
        )
        with (folder / "serve.log").open("wb") as log:
            stack = subprocess.Popen(
                hosts["box"].command(sys.executable, "-u", "-m", "serving", "serve", str(profile)),
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:

            def up() -> bool:
                text = (folder / "serve.log").read_text(errors="replace")
                assert stack.poll() is None, text[-3000:]
                return "Ctrl-C stops everything" in text

            until(up, "the stack", UP_WITHIN_S)
            yield hosts["box"], hosts["outside"], key
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(STOPPED_WITHIN_S)


def profile_of(folder: Path, box: Host, weights: Path) -> dict[str, Any]:
    """A stack on the box's own address, everything in it that could listen."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "profiles" / "noop.yaml").read_text())
    engine = {
        "model": SMALL, "model_path": str(weights), "max_context_tokens": 2048, "max_concurrent_requests": 8,
        "kv_cache_gib": 0.02, "block_size_tokens": 32, "step_tokens": 512, "cpu_threads": 1, "enforce_eager": True,
    }  # fmt: skip
    tree["frontier"]["providers"][0] |= {"base_url": f"http://127.0.0.1:{STANDIN_PORT}/v1", "model": SMALL}
    return tree | {
        "gateway": {
            "host": box.address, "port": PORT, "keys_file": str(folder / "keys.yaml"),
            "secret_file": str(folder / "secret"),
        },
        "router": tree["router"],
        "tier1": engine | {"replicas": 2},
        "standin": engine | {"port": STANDIN_PORT},
        "ledger": {"url": f"sqlite:///{folder}/ledger.sqlite3"},
    }  # fmt: skip


def answers(address: str, port: int) -> bool:
    """Whether a connection is taken. The switch has no firewall: a closed port refuses at once."""
    with socket.socket() as probe:
        probe.settimeout(5)
        refused = probe.connect_ex((address, port))
    assert refused in (0, errno.ECONNREFUSED), f"port {port}: {errno.errorcode[refused]}"
    return refused == 0


def test_only_the_gateways_port_answers_another_host(box: tuple[Host, Host, str]) -> None:
    """Every port is tried. Engines, KV events, the stand-in, Ray and its dashboard are for the box alone."""
    inside, outside, _ = box
    assert len({port for _, port in listeners(inside)} - {PORT}) > 5, "nothing else listens: the stack is not up"
    reached = outside.call(lambda: [port for port in range(1, 65536) if answers(inside.address, port)])
    assert reached == [PORT]


def test_everything_else_listens_on_loopback(box: tuple[Host, Host, str]) -> None:
    inside, _, _ = box
    gateway = socket.inet_aton(inside.address)[::-1].hex().upper()
    elsewhere = {(address, port) for address, port in listeners(inside) if not is_loopback(address)}
    assert elsewhere == {(gateway, PORT)}


def is_loopback(address: str) -> bool:
    """As /proc/net/tcp and tcp6 write addresses: four bytes at a time, lowest first."""
    return address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000" or address.endswith("7F")


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/v1/budgets"])
def test_gateway_tells_another_host_nothing_without_a_key(box: tuple[Host, Host, str], path: str) -> None:
    """And no page of another origin may read what it says."""
    inside, outside, key = box

    def ask(**headers: str) -> httpx.Response:
        sent = {"origin": "https://elsewhere.example"} | headers
        return outside.call(lambda: httpx.get(f"http://{inside.address}:{PORT}{path}", headers=sent, timeout=30))

    assert ask().status_code == 401
    known = ask(authorization=f"Bearer {key}")
    assert known.status_code == 200
    assert "access-control-allow-origin" not in known.headers


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/api/serve/applications/", "/-/routes", "/-/healthz"])
def test_rays_own_paths_are_not_behind_the_gateways_port(box: tuple[Host, Host, str], path: str) -> None:
    """The job API runs code. Serve's own two paths tell no more than that it runs."""
    inside, outside, _ = box
    reply = outside.call(lambda: httpx.get(f"http://{inside.address}:{PORT}{path}", timeout=30))
    if path.startswith("/-/"):
        assert reply.text in ("success", '{"/":"tierwise"}')
    else:
        assert reply.status_code == 404
