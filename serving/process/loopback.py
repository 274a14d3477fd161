"""Keep a Ray on one machine off the network: every port of it on loopback.

Ray binds to all interfaces unless its node address is loopback, and replaces a loopback address by the machine's own on
Linux unless it is told that it will never be a cluster. Ray Serve's replicas also open one port each for calls between
deployments, on all interfaces and without a setting; those calls carry pickles: who reaches the port owns the replica.
"""

from typing import Any

import ray
from ray.serve._private import replica as serve_replica

ADDRESS = "127.0.0.1"
ALL_INTERFACES = "[::]:0"


def keep_replica_on_loopback() -> None:
    """In a replica's constructor: when the node's address is loopback, its inter-deployment port is, too.

    Does nothing on a cluster, where replicas on other machines must reach the port: there the overlay network and Ray's
    TLS protect it. Source: Replica._on_initialized of Ray 2.60 opens the port after the user's constructor has run.
    """
    if ray.util.get_node_ip_address() != ADDRESS:
        return
    original = serve_replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> Any:
        return original(server, f"{ADDRESS}:0" if address == ALL_INTERFACES else address)

    serve_replica.add_port_to_grpc_server = on_loopback
