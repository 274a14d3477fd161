"""Keeps every port of a Ray on one machine on loopback, off the network.

Ray binds to all interfaces unless its node address is loopback. On Linux it replaces a loopback address by the
machine's own unless it is told that it will never be a cluster. Each of Ray Serve's replicas also opens a port for
calls between deployments, on all interfaces and without a setting. Those calls carry pickles, so whoever reaches the
port controls the replica.
"""

from typing import Any

import ray
from ray.serve._private import replica as serve_replica

ADDRESS = "127.0.0.1"
ALL_INTERFACES = "[::]:0"


def keep_replica_on_loopback() -> None:
    """Put this replica's inter-deployment port on loopback when the node's address is. Call it in the constructor.

    Does nothing on a cluster, where replicas on other machines must reach the port. There the overlay network and Ray's
    TLS protect it. Source: Replica._on_initialized of Ray 2.60 opens the port after the user's constructor has run.
    """
    if ray.util.get_node_ip_address() != ADDRESS:
        return
    original = serve_replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> Any:
        return original(server, f"{ADDRESS}:0" if address == ALL_INTERFACES else address)

    serve_replica.add_port_to_grpc_server = on_loopback
