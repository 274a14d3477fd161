"""What serving/process/loopback.py leans on in Ray; an upgrade that moves it fails here."""

import inspect

from ray._private import ray_constants
from ray.serve._private import replica

from serving.process.loopback import ALL_INTERFACES


def test_serve_opens_the_inter_deployment_port_through_the_name_we_replace() -> None:
    source = inspect.getsource(replica)
    assert f'add_port_to_grpc_server(self._server, "{ALL_INTERFACES}")' in source
    assert callable(replica.add_port_to_grpc_server)


def test_the_variable_that_lets_ray_keep_loopback_still_has_its_name() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
