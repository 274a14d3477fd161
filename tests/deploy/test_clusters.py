"""Cluster files say what Ray, Kubernetes and SkyPilot take, and keep control plane and secrets to themselves."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from serving.commands.build import serve_config
from serving.config import SECRET, load_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROFILE = DEPLOY / "profiles" / "cluster.yaml"
RAY = sorted((DEPLOY / "ray").glob("*.yaml"))
KUBERNETES = kubernetes_validate.latest_version()


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    (document,) = documents(DEPLOY / "kuberay" / "rayservice.yaml")
    return document


def groups(service: dict[str, Any]) -> list[dict[str, Any]]:
    """The head's group and the workers'."""
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def texts(node: Any) -> Iterator[str]:
    """Every text of a tree."""
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


# ray up


@pytest.mark.parametrize("path", RAY, ids=lambda path: path.stem)
def test_ray_takes_the_cluster_file(path: Path) -> None:
    """Ray's own schema check, as `ray up` makes it before it touches a machine."""
    validate_config(prepare_config(documents(path)[0]))


@pytest.mark.parametrize("path", RAY, ids=lambda path: path.stem)
def test_dashboard_of_a_ray_cluster_is_on_loopback_and_its_state_in_a_folder(path: Path) -> None:
    (head,) = [line for line in documents(path)[0]["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in head
    assert "/etc/tierwise/env" in head


def test_environment_of_the_machines_asks_for_the_token_and_holds_no_secret() -> None:
    lines = (DEPLOY / "ray" / "env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert values["RAY_AUTH_MODE"] == "token"
    assert values["RAY_AUTH_TOKEN_PATH"] == "/etc/tierwise/ray_token"
    assert values["RAY_gcs_storage"] == "rocksdb"
    assert set(SECRET.findall(PROFILE.read_text())) <= set(values)
    assert values["ANTHROPIC_API_KEY"] == ""


def test_every_node_has_a_proxy(service: dict[str, Any]) -> None:
    """Ray's throughput setting alone leaves one, on the head; the controller reads this in its node's environment."""
    machines = (DEPLOY / "ray" / "env.example").read_text().splitlines()
    image = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert "RAY_SERVE_ENABLE_DIRECT_INGRESS=0" in machines
    assert "RAY_SERVE_ENABLE_DIRECT_INGRESS=0" in image
    for group in groups(service):
        env = group["template"]["spec"]["containers"][0]["env"]
        assert {"name": "RAY_SERVE_ENABLE_DIRECT_INGRESS", "value": "0"} in env


# KubeRay


def test_service_deploys_what_build_prints(service: dict[str, Any]) -> None:
    """Made by: python -m serving build deploy/profiles/cluster.yaml."""
    deployed = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert deployed == serve_config(PROFILE, {})
    ServeDeploySchema.model_validate(deployed)


def test_pods_are_what_kubernetes_takes(service: dict[str, Any]) -> None:
    for group in groups(service):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", **template["metadata"]}}
        kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", documents(DEPLOY / "kuberay" / "network.yaml"), ids=lambda d: d["kind"])
def test_kubernetes_takes_the_objects_around_it(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_service_has_the_shape_of_its_resource_definition(service: dict[str, Any]) -> None:
    """Field names of ray.io/v1 RayService that we use; its own definition is not on this machine."""
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert set(service["spec"]) == {
        "upgradeStrategy", "serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold", "serveConfigV2",
        "rayClusterConfig",
    }  # fmt: skip
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_workers_suffice_for_the_profile(service: dict[str, Any]) -> None:
    config = load_config(PROFILE, dict.fromkeys(SECRET.findall(PROFILE.read_text()), "x"))
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert config.hardware is not None
    assert group["maxReplicas"] * gpus == config.hardware.gpus
    assert service["spec"]["rayClusterConfig"]["rayVersion"] in (ROOT / "pyproject.toml").read_text()
    for each in groups(service):
        assert each["template"]["spec"]["terminationGracePeriodSeconds"] > config.tier1.drain_s


def test_every_path_that_the_profile_names_is_mounted(service: dict[str, Any]) -> None:
    tree = yaml.safe_load(PROFILE.read_text())
    named = {tree["gateway"]["keys_file"], tree["gateway"]["secret_file"], tree["ledger"]["spool_dir"]}
    for group in groups(service):
        mounts = [mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]]
        assert all(any(path.startswith(mount) for mount in mounts) for path in named)


def test_nothing_runs_as_root_or_gains_rights(service: dict[str, Any]) -> None:
    for group in groups(service):
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip


def test_only_the_gateways_paths_are_open_to_clients() -> None:
    """/metrics, /readyz, /admin and everything of Ray stay inside."""
    kinds = {document["kind"]: document for document in documents(DEPLOY / "kuberay" / "network.yaml")}
    (rule,) = kinds["Ingress"]["spec"]["rules"]
    assert {path["path"] for path in rule["http"]["paths"]} == {"/v1", "/healthz"}
    open_to_clients = [
        {port["port"] for port in entry.get("ports", [])}
        for entry in kinds["NetworkPolicy"]["spec"]["ingress"]
        if "ingress-nginx" in str(entry["from"])
    ]
    assert open_to_clients == [{8000}]
    assert kinds["NetworkPolicy"]["spec"]["podSelector"] == {}


# SkyPilot


def test_sky_service_has_the_shape_of_its_documentation() -> None:
    (service,) = documents(DEPLOY / "skypilot" / "service.yaml")
    assert set(service) == {"service", "resources", "workdir", "file_mounts", "envs", "secrets", "setup", "run"}
    policy = service["service"]["replica_policy"]
    assert policy["min_replicas"] <= policy["max_replicas"]
    assert service["service"]["readiness_probe"]["path"] == "/healthz"
    assert service["secrets"] == {"ANTHROPIC_API_KEY": None}
    profile = re.search(r"deploy/profiles/\S+\.yaml", service["run"])
    assert profile
    named = set(SECRET.findall((ROOT / profile[0]).read_text()))
    assert named == set(service["secrets"])
    overlay = {name: str(value) for name, value in service["envs"].items() if name.startswith("STACK_")}
    config = load_config(ROOT / profile[0], overlay | dict.fromkeys(named, "x"))
    assert config.gateway.keys_file is not None
    for model in (config.tier1.model, config.router.model if config.router else ""):
        assert model in service["setup"]


# All of them


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(DEPLOY.rglob("*.yaml")) if path.parent.name not in ("profiles", "locks")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_no_file_holds_a_secret(path: Path) -> None:
    """Secrets come by mount or by reference."""
    for document in documents(path):
        for text in texts(document):
            assert not re.search(r"sk-[A-Za-z0-9]{8}|AKIA[0-9A-Z]{12}|-----BEGIN|postgresql\S*://[^@/]*:[^@/]+@", text)
