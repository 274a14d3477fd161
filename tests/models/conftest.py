import os
import socket
from collections.abc import Iterator

import pytest

from tests.models.origins import Hub, PackageIndex


@pytest.fixture
def closed_url() -> Iterator[str]:
    """An address nobody answers at: the port is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, closed_url: str) -> None:
    """pip and the hub client see neither this machine's settings nor anything beyond 127.0.0.1."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_", "TIERWISE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{closed_url}/simple")
    monkeypatch.setenv("HF_ENDPOINT", closed_url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def index(no_network: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """The one package index that pip knows."""
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/simple")
        yield index


@pytest.fixture
def hub(no_network: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that the hub client is pointed at."""
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
