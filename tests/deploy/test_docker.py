"""The image and the compose file: what a linter would ask, and that they name what is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, its words) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def words(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def test_base_image_names_an_exact_version() -> None:
    (base,) = words("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)


def test_last_user_is_not_root_and_a_number() -> None:
    """Kubernetes' runAsNonRoot believes numbers alone."""
    assert words("USER") == ["10001:10001"]
    assert [name for name, _ in instructions()].index("USER") > max(
        i for i, (name, _) in enumerate(instructions()) if name == "RUN"
    )


def test_packages_leave_no_lists_behind_and_pull_in_no_recommendations() -> None:
    for run in words("RUN"):
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run
            assert "apt-get update" in run
        if "pip install" in run:
            assert run.count("--no-cache-dir") == run.count("pip install")


def test_cpu_image_installs_pinned_hashes_alone() -> None:
    (install,) = [run for run in words("RUN") if "pip install" in run]
    assert install.count("--require-hashes") == 2
    for lock in re.findall(r"deploy/locks/\S+\.txt", install):
        assert (ROOT / lock).is_file()


def test_commands_are_lists_so_that_signals_reach_them() -> None:
    for name in ("ENTRYPOINT", "CMD"):
        (value,) = words(name)
        assert value.startswith("[")


def test_no_secret_and_no_remote_file_in_the_image() -> None:
    assert not words("ADD")
    for name in ("ENV", "ARG"):
        for value in words(name):
            assert not re.search(r"(KEY|PASSWORD|SECRET)=", value)
            assert not re.search(r"TOKEN=", value)


def test_everything_copied_is_there_and_gets_past_the_ignore_file() -> None:
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for copy in words("COPY"):
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed, source


def test_image_asks_ray_for_its_token_and_reports_to_nobody() -> None:
    (environment,) = words("ENV")
    assert "RAY_AUTH_MODE=token" in environment
    assert "RAY_USAGE_STATS_ENABLED=0" in environment


# Compose


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_of_compose_is_locked_down(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid"} & set(service)


def test_ports_of_compose_are_on_loopback_unless_told() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith(("127.0.0.1:", "${TIERWISE_BIND:-127.0.0.1}:")) for port in ports)


def test_gateway_in_compose_starts_with_its_variables(tmp_path: Path) -> None:
    """Open to others inside the container, so with keys."""
    gateway = COMPOSE["services"]["gateway"]
    config = load_config(ROOT / gateway["command"][1], {k: str(v) for k, v in gateway["environment"].items()})
    assert (config.gateway.host, str(config.gateway.keys_file)) == ("0.0.0.0", "/run/secrets/keys")
    assert set(gateway["secrets"]) <= set(COMPOSE["secrets"])


def test_images_name_exact_versions() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    assert not [image for image in images if image.endswith(":latest") or ":" not in image]
