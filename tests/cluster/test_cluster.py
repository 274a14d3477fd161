"""A cluster keeps its word while it grows and shrinks, loses a replica, a node and its head, and takes an update.

The tests follow each other on one cluster; each leaves it as the next one needs it.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.load.tiny_model import write_model
from tests.cluster.conftest import NODE_CPUS, SMALL, Site
from tests.cluster.hosts import listeners
from tests.cluster.load import Load, Outcome, ask
from tests.cluster.ray_cluster import ROOT, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ALL_BOOKED_WITHIN_S = 30.0
OUT_OF_ROTATION_WITHIN_S = 10.0
FLUSHED_WITHIN_S = 1.0  # ledger.flush_interval_s is a tenth of it: what was answered earlier is in the database
EVERYWHERE = ("head", "a", "b")


def all_booked(site: Site, answered: list[Outcome]) -> None:
    """Every one of these whole answers is in the ledger."""
    ids = {outcome.request_id for outcome in answered}
    assert None not in ids
    try:
        until(lambda: ids <= site.booked(), "every row", ALL_BOOKED_WITHIN_S)
    except AssertionError:
        missing = ids - site.booked()
        lost = [outcome for outcome in answered if outcome.request_id in missing]
        raise AssertionError(f"{len(missing)} of {len(ids)} rows are missing: {lost[:5]}") from None


def whole(*loads: Load) -> list[Outcome]:
    """The requests that got all of their answer."""
    return [outcome for load in loads for outcome in load.outcomes if outcome.error is None]


def none_dropped(site: Site, *loads: Load) -> None:
    """Every request got its whole answer, and the ledger has it."""
    assert [load.failed() for load in loads] == [[] for _ in loads]
    all_booked(site, whole(*loads))


def enough(load: Load, more: int) -> Callable[[], bool]:
    """Whether so many more answers have come."""
    then = len(load.outcomes) + more
    return lambda: len(load.outcomes) >= then


def addresses(site: Site, deployment: str) -> list[str]:
    return sorted(replica["node_ip"] for replica in site.cluster.replicas(deployment))


def running(site: Site, deployment: str = "tier1") -> set[str]:
    """The replicas that Serve sends requests to."""
    return {replica["replica_id"] for replica in site.cluster.replicas(deployment)}


def ended(load: Load) -> str:
    """How a load's requests ended, for the report of a run."""
    return f"{len(whole(load))} whole, others {dict(Counter(outcome.error for outcome in load.failed()))}"


def test_ingress_and_tier_1_are_spread_over_the_nodes(site: Site) -> None:
    nodes = sorted(site.cluster.hosts[name].address for name in ("a", "b"))
    assert addresses(site, "gateway") == nodes
    assert addresses(site, "tier1") == nodes
    with site.load(*EVERYWHERE, clients=4) as load:
        until(enough(load, 12), "answers through every node")
    none_dropped(site, load)


def test_control_plane_listens_on_loopback_and_asks_for_the_token(site: Site) -> None:
    """Dashboard and job API are on the head's loopback alone, and nobody without the token is heard."""
    head = site.cluster.head
    assert {address for address, port in listeners(head) if port == 8265} == {"0100007F"}
    with pytest.raises(httpx.ConnectError):
        site.client.call(lambda: httpx.get(f"http://{head.address}:8265/api/version", timeout=5))
    refused = head.call(lambda: httpx.get("http://127.0.0.1:8265/api/serve/applications/", timeout=10))
    assert refused.status_code in (401, 403)


def test_replicas_follow_the_load_up_and_down_without_a_dropped_request(site: Site) -> None:
    with site.load(*EVERYWHERE, clients=1) as steady:
        with site.load(*EVERYWHERE, clients=20) as load:
            grown_s = until(lambda: len(running(site)) == 3, "three replicas")
        shrunk_s = until(lambda: len(running(site)) == 2, "two replicas again")
        until(enough(steady, 2), "answers afterwards")
    print(f"scaling: up {grown_s:.0f} s, down {shrunk_s:.0f} s, {len(whole(load, steady))} requests, 0 dropped")
    none_dropped(site, load, steady)


def test_killed_replica_ends_its_streams_with_an_error_and_is_replaced(site: Site) -> None:
    """Kill -9 under load. No stream stops silently, new requests succeed, nobody has to help."""
    with site.load(*EVERYWHERE, clients=6) as load:
        until(enough(load, 12), "load")
        victim = site.busiest()
        os.kill(victim["pid"], 9)
        killed_s = time.time()
        out_s = until(lambda: victim["replica_id"] not in running(site), "out of rotation", 30)
        until(lambda: len(running(site)) == 2, "a new replica")
        until(enough(load, 10), "answers afterwards")
    print(f"killed replica: out of rotation after {out_s:.1f} s; {ended(load)}")
    ends_honestly(site, load, killed_s, out_s)


def ends_honestly(site: Site, load: Load, killed_s: float, out_s: float) -> None:
    """What one dead process of tier 1 may do to a load: error frames, for what it was answering."""
    assert out_s <= OUT_OF_ROTATION_WITHIN_S
    assert all((outcome.error or "").startswith("frame") for outcome in load.failed())
    assert not [outcome for outcome in load.failed() if outcome.began_s > killed_s + OUT_OF_ROTATION_WITHIN_S]
    all_booked(site, whole(load))


def test_lost_node_takes_no_settled_row_and_no_other_nodes_requests(site: Site) -> None:
    """Off the network and dead, with its gateway process and its replica. The others serve on, the ledger has it."""
    with site.load("a", "b", clients=6) as load:
        until(enough(load, 12), "load")
        at = site.busiest()["node_ip"]
        lost, left = ("a", "b") if at == site.cluster.hosts["a"].address else ("b", "a")
        node = site.cluster.hosts[lost]
        lost_s = time.time()
        node.unplug()
        node.kill()
        load.urls.remove(site.url(lost))  # as the health check of a load balancer does
        noticed_s = until(lambda: node.address not in site.cluster.nodes_alive(), "the node's death")
        until(lambda: addresses(site, "tier1") == [site.cluster.hosts[left].address] * 2, "a replacement")
        replaced_s = time.time()
        until(enough(load, 10), "answers afterwards")
    print(f"lost node: noticed after {noticed_s:.0f} s, replaced after {replaced_s - lost_s:.0f} s; {ended(load)}")
    assert not [outcome for outcome in load.outcomes if outcome.silent]
    assert not [outcome for outcome in load.failed() if outcome.began_s > replaced_s]
    # What its ingress answered in its very last moment may not have left it; everything else has to be there.
    all_booked(site, [o for o in whole(load) if not lost_s - FLUSHED_WITHIN_S < o.ended_s < lost_s + FLUSHED_WITHIN_S])
    node.plug_in()
    site.cluster.start_node(lost, NODE_CPUS)
    site.wait_ready(*EVERYWHERE)
    assert len(set(addresses(site, "gateway"))) == 2


def test_head_restarts_with_its_state_while_the_others_serve(site: Site) -> None:
    """Ray head restart. The data plane does not need it, and the application is as it was afterwards."""
    before = running(site)
    with site.load("a", "b", clients=2) as load:
        until(enough(load, 2), "load")
        site.cluster.head.kill()
        until(enough(load, 6), "answers without a head", 60)
        site.cluster.start_node("head", 0)
        back_s = until(site.cluster.is_running, "the application")
        until(enough(load, 4), "answers afterwards")
    print(f"head restart: in charge again after {back_s:.0f} s; {ended(load)}")
    assert running(site) == before, "replicas were started anew instead of found again"
    none_dropped(site, load)
    site.wait_ready(*EVERYWHERE)
    assert site.client.call(lambda: ask(site.url("head"), site.key, 3, stream=True)).error is None


def test_rolling_update_under_load_drops_no_request(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every replica of tier 1 and of the gateway is replaced, engines that pretend by real ones."""
    weights = write_model(tmp_path_factory.mktemp("tiny"), ROOT / ".cache" / "tierwise" / "models" / SMALL)
    before = running(site) | running(site, "gateway")
    with site.load(*EVERYWHERE, clients=3) as load:
        until(enough(load, 6), "load")
        site.deploy(tier1=real_engine(weights))
        took_s = until(
            lambda: site.cluster.is_running() and not before & (running(site) | running(site, "gateway")),
            "new replicas", 300,
        )  # fmt: skip
        until(enough(load, 6), "answers afterwards")
    print(f"rolling update: {took_s:.0f} s, {len(load.outcomes)} requests, {len(load.failed())} dropped")
    none_dropped(site, load)


def real_engine(weights: Path) -> dict[str, object]:
    """vLLM on a model that is small enough for two of it."""
    return {
        "engine": "vllm", "model_path": str(weights), "autoscaling": None, "replicas": 2, "max_context_tokens": 2048,
        "max_concurrent_requests": 8, "kv_cache_gib": 0.02, "block_size_tokens": 32, "step_tokens": 512,
        "cpu_threads": 1, "enforce_eager": True,
    }  # fmt: skip


def test_killed_engine_is_out_of_rotation_within_10_s_and_back_without_a_hand(site: Site) -> None:
    """Kill -9 of vLLM's engine process. Its replica lives on without an engine until it is replaced."""
    core, node = next((pid, node) for node in ("a", "b") for pid in site.cluster.hosts[node].pids() if is_engine(pid))
    before = {replica["replica_id"]: replica["node_ip"] for replica in site.cluster.replicas("tier1")}
    with site.load(*EVERYWHERE, clients=3) as load:
        until(enough(load, 6), "load")
        os.kill(core, 9)
        killed_s = time.time()
        out_s = until(lambda: len(set(before) & running(site)) == 1, "out of rotation", 30)
        back_s = until(lambda: len(running(site)) == 2, "a new replica")
        until(enough(load, 10), "answers afterwards")
    (gone,) = set(before) - running(site)
    assert before[gone] == site.cluster.hosts[node].address
    print(f"killed engine: out after {out_s:.1f} s, another one {back_s:.0f} s later; {ended(load)}")
    ends_honestly(site, load, killed_s, out_s)


def is_engine(pid: int) -> bool:
    """Whether a process is the one in which vLLM computes."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("VLLM::EngineCore")
    except OSError:
        return False
