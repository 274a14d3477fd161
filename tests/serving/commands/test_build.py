"""What `serve deploy` is given: Ray's own schema takes it, no secret is in it, and the code is named by its hash."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serving.__main__ import main
from serving.app import build
from serving.commands.build import package, serve_config
from serving.config import SECRET
from serving.errors import ConfigInvalid

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "deploy" / "profiles" / "cluster.yaml"


def built(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["build", str(CLUSTER), *options]) == 0
    document: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return document


def test_ray_takes_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    document = built(capsys)
    schema = ServeDeploySchema.model_validate(document)
    assert schema.proxy_location == "EveryNode"
    (application,) = schema.applications
    assert (application.name, application.route_prefix) == ("tierwise", "/")
    assert application.import_path == "serving.app:build"


def test_secret_stays_a_name_even_where_it_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document may be kept anywhere."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-live-secret")
    text = yaml.safe_dump(built(capsys))
    assert "sk-live-secret" not in text
    assert SECRET.findall(text) == ["ANTHROPIC_API_KEY"]


def test_variables_of_the_builder_are_in_the_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_GATEWAY__REPLICAS", "7")
    assert built(capsys)["applications"][0]["args"]["profile"]["gateway"]["replicas"] == 7


def test_deployments_come_out_as_the_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray calls on the cluster: the tree from the document, secrets from the nodes' environment."""
    arguments = serve_config(CLUSTER, {})["applications"][0]["args"]
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(ConfigInvalid, match="ANTHROPIC_API_KEY is not set"):
        build(arguments)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-1")
    gateway = build(arguments)._bound_deployment
    tier1, router = (bound._bound_deployment for bound in gateway.init_args[1:3])
    assert gateway._deployment_config.num_replicas == 3
    assert (gateway.ray_actor_options["num_cpus"], gateway._replica_config.max_replicas_per_node) == (1, 2)
    assert gateway._deployment_config.graceful_shutdown_timeout_s == 300
    scaling = tier1._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 8, 48)
    assert router._deployment_config.num_replicas == 2
    assert router.ray_actor_options["num_gpus"] == 0.25


def test_standin_frontier_is_no_frontier_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(ROOT / "deploy" / "profiles" / "cpu.yaml")]) == 2
    assert "real frontier" in capsys.readouterr().err


def test_gateway_open_to_others_without_keys_is_refused(tmp_path: Path) -> None:
    tree = yaml.safe_load(CLUSTER.read_text())
    del tree["gateway"]["keys_file"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigInvalid, match="keys_file"):
        serve_config(tmp_path / "p.yaml", {})


def test_same_code_is_the_same_name_and_other_code_another(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "serving").mkdir(parents=True)
    (root / "serving" / "a.py").write_text("A = 1\n")
    first, again = package(tmp_path / "1", root), package(tmp_path / "2", root)
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()
    (root / "serving" / "a.py").write_text("A = 2\n")
    assert package(tmp_path / "3", root).name != first.name


@pytest.mark.slow
def test_package_runs_without_the_repository(tmp_path: Path) -> None:
    """Ray unpacks the one top folder and imports from there."""
    with zipfile.ZipFile(package(tmp_path)) as archive:
        archive.extractall(tmp_path / "node")
    code = "import serving.app, serving.commands.build, sys; print(serving.app.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "node" / "tierwise", capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in done.stdout
    assert not [name for name in archive.namelist() if "__pycache__" in name]


def test_package_is_named_in_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = built(capsys, "--package", str(tmp_path), "--package-uri", "s3://bucket/tierwise/")
    (archive,) = tmp_path.glob("tierwise-*.zip")
    assert document["applications"][0]["runtime_env"]["working_dir"] == f"s3://bucket/tierwise/{archive.name}"
