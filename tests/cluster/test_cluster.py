"""A cluster keeps its word while replicas are replaced, come and go, a node dies and the head restarts.

The tests follow each other on one cluster; each leaves it as it found it. They are run by hand, not by `make test`
(`pytest -m e2e tests/cluster`), until all of them have passed: the first does not, for Serve packs the gateways.
"""

import os
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import NODE_CPUS, Site
from tests.cluster.hosts import listeners
from tests.cluster.load import Load, ask
from tests.cluster.ray_cluster import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ALL_BOOKED_WITHIN_S = 30.0


def all_booked(site: Site, load: Load) -> None:
    """Every request that got a whole answer is in the ledger."""
    answered = {outcome.request_id for outcome in load.outcomes if outcome.error is None}
    assert None not in answered
    try:
        until(lambda: answered <= site.booked(), "every row", ALL_BOOKED_WITHIN_S)
    except AssertionError:
        missing = answered - site.booked()
        lost = [o for o in load.outcomes if o.request_id in missing]
        raise AssertionError(f"{len(missing)} of {len(answered)} rows are missing: {lost[:5]}") from None


def enough(load: Load, more: int) -> Callable[[], bool]:
    """Whether so many more answers have come."""
    then = len(load.outcomes) + more
    return lambda: len(load.outcomes) >= then


def addresses(site: Site, deployment: str) -> set[str]:
    return {replica["node_ip"] for replica in site.cluster.replicas(deployment)}


def test_ingress_and_tier_1_are_spread_over_the_nodes(site: Site) -> None:
    nodes = {site.cluster.hosts[name].address for name in ("a", "b")}
    assert nodes <= addresses(site, "tier1")
    assert len(addresses(site, "gateway")) >= 2
    with site.load("head", "a", "b", clients=4) as load:
        until(enough(load, 12), "answers through every node")
    assert load.failed() == []
    all_booked(site, load)


def test_control_plane_listens_on_loopback_and_asks_for_the_token(site: Site) -> None:
    """Fault 63: dashboard and job API are on the head's loopback alone, and nobody without the token is heard."""
    import httpx

    head = site.cluster.head
    assert {address for address, port in listeners(head) if port == 8265} == {"0100007F"}
    with pytest.raises(httpx.ConnectError):
        site.client.call(lambda: httpx.get(f"http://{head.address}:8265/api/version", timeout=5))
    refused = head.call(lambda: httpx.get("http://127.0.0.1:8265/api/serve/applications/", timeout=10))
    assert refused.status_code in (401, 403)


def test_rolling_update_under_load_drops_no_request(site: Site) -> None:
    """Fault 55: replicas of tier 1 and of the gateway are replaced; streams in flight end whole, new ones succeed."""
    before = {replica["replica_id"] for name in ("tier1", "gateway") for replica in site.cluster.replicas(name)}
    with site.load("head", "a", "b", clients=6) as load:
        until(enough(load, 6), "load")
        site.deploy(tier1={"noop_token_s": 0.04})
        until(
            lambda: (
                site.cluster.is_running()
                and not before & {r["replica_id"] for n in ("tier1", "gateway") for r in site.cluster.replicas(n)}
            ),
            "new replicas",
        )
        until(enough(load, 6), "answers afterwards")
    print(f"rolling update: {len(load.outcomes)} requests, {len(load.failed())} dropped")
    assert load.failed() == []
    all_booked(site, load)


def test_replicas_follow_the_load_up_and_down_without_a_dropped_request(site: Site) -> None:
    site.deploy(
        tier1={
            "autoscaling": {
                "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 2, "upscale_delay_s": 0,
                "downscale_delay_s": 2,
            }
        }
    )  # fmt: skip
    until(site.cluster.is_running, "autoscaling")
    with site.load("head", "a", "b", clients=1) as steady:
        with site.load("head", "a", "b", clients=8) as load:
            until(lambda: len(site.cluster.replicas("tier1")) == 3, "three replicas")
        until(lambda: len(site.cluster.replicas("tier1")) == 1, "one replica again")
        until(enough(steady, 2), "answers afterwards")
    print(f"scaling: {len(load.outcomes) + len(steady.outcomes)} requests")
    assert load.failed() == []
    assert steady.failed() == []
    all_booked(site, load)
    all_booked(site, steady)
    site.deploy(tier1={"autoscaling": None, "replicas": 2})
    until(lambda: site.cluster.is_running() and len(site.cluster.replicas("tier1")) == 2, "two replicas")


def test_killed_replica_ends_its_streams_with_an_error_and_is_replaced(site: Site) -> None:
    """Fault 53: kill -9 under load; no stream stops silently, new requests succeed, nobody has to help."""
    victim = site.cluster.replicas("tier1")[0]
    with site.load("head", "a", "b", clients=6) as load:
        until(enough(load, 6), "load")
        os.kill(victim["pid"], 9)
        killed_s = time.time()
        out_s = until(
            lambda: victim["replica_id"] not in {r["replica_id"] for r in site.cluster.replicas("tier1")}, "out", 30
        )
        until(lambda: len(site.cluster.replicas("tier1")) == 2, "a new replica")
        until(enough(load, 10), "answers afterwards")
    print(f"killed replica: out of rotation after {out_s:.1f} s; failed: {[o.error for o in load.failed()]}")
    assert out_s <= 10
    assert not [outcome for outcome in load.outcomes if outcome.silent]
    assert all(outcome.error.startswith("frame") for outcome in load.failed() if outcome.error)
    assert not [outcome for outcome in load.failed() if outcome.began_s > killed_s + 10]
    all_booked(site, load)


def test_killed_node_loses_no_settled_row_and_no_other_nodes_requests(site: Site) -> None:
    """Fault 55: node lost with ingress, proxy and replica; what others serve goes on, what it had booked is there."""
    node = site.cluster.hosts["b"]
    with site.load("a", "b", clients=6) as load:
        until(enough(load, 12), "load")
        killed_s = time.time()
        node.kill()
        until(lambda: node.address not in site.cluster.nodes_alive(), "the node's death")
        until(
            lambda: len(addresses(site, "tier1")) == 1 and site.cluster.is_running(), "replacements on the other node"
        )
        load.urls.remove(site.url("b"))
        settled_s = time.time()
        until(enough(load, 10), "answers afterwards")
    failed = load.failed()
    print(f"killed node: {settled_s - killed_s:.0f} s to replace; failed: {sorted({o.error or '' for o in failed})}")
    assert not [outcome for outcome in load.outcomes if outcome.silent]
    assert not [outcome for outcome in failed if outcome.began_s > settled_s]
    all_booked(site, load)
    site.cluster.start_node("b", NODE_CPUS)
    until(lambda: len(site.cluster.nodes_alive()) == 3, "the node again")


def test_head_restarts_with_its_state_while_the_others_serve(site: Site) -> None:
    """Fault 55: Ray head restart; the data plane does not need it, and the application is as it was afterwards."""
    before = {replica["replica_id"] for replica in site.cluster.replicas("tier1")}
    with site.load("a", clients=2) as load:
        until(enough(load, 2), "load")
        site.cluster.head.kill()
        until(enough(load, 6), "answers without a head", 60)
        site.cluster.start_node("head", 0)
        until(site.cluster.is_running, "the application")
        until(enough(load, 4), "answers afterwards")
    after = {replica["replica_id"] for replica in site.cluster.replicas("tier1")}
    print(f"head restart: {len(load.outcomes)} requests, failed {sorted({o.error or '' for o in load.failed()})}")
    assert after & before, "replicas were started anew instead of found again"
    assert not [outcome for outcome in load.outcomes if outcome.silent]
    all_booked(site, load)
    assert site.client.call(lambda: ask(site.url("a"), site.key, 3, stream=True)).error is None
