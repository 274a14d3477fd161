"""Runs the stand-in frontier of the embedded profile: vLLM's OpenAI server, as a child process on loopback.

It answers /v1/chat/completions, /v1/completions and /v1/messages, so the real provider clients meet a real server.
`python -m serving.engine.standin` is the child. It reads its settings from standard input and ends when that ends.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
from pydantic import Field, SecretStr

from serving.artefacts.weights import cache_dir
from serving.engine.vllm_flags import VllmSettings
from serving.errors import StackError
from serving.process.children import end_group, end_with_parent

HOST = "127.0.0.1"
POLL_S = 0.25
LOG_TAIL_BYTES = 4000


class StandinFailed(StackError):
    """The stand-in did not start, or is gone."""

    code = "standin_failed"


class StandinConfig(VllmSettings):
    """Config of the embedded profile's frontier model. Not used where only real providers are configured."""

    port: int = Field(8001, ge=1, le=65535)
    api_key: SecretStr | None = Field(None, description="what its clients have to send; None: loopback is enough")

    def server_flags(self) -> dict[str, str | int | float | bool]:
        """The engine's flags and the server's: loopback only, no API pages, no log line per request."""
        server: dict[str, str | int | float | bool] = {
            "host": HOST,
            "port": self.port,
            "disable_fastapi_docs": True,
            "disable_uvicorn_access_log": True,
            "uvicorn_log_level": "warning",
        }
        # vLLM's own counters stay on, at /metrics. Our ledger is compared with them, as with a provider's bill.
        return server | {name: value for name, value in self.flags().items() if name != "disable_log_stats"}


class Standin:
    """Starts, watches and ends the child. A context manager: leaving the block leaves no process behind.

    The child also ends when this process dies in any way, because the kernel closes the pipe that the child reads.
    """

    def __init__(self, config: StandinConfig, log_path: Path | None = None) -> None:
        self.base_url = f"http://{HOST}:{config.port}"
        self.log_path = log_path or cache_dir() / "logs" / "standin.log"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the child in a process group of its own. Returns at once. Raises ConfigInvalid without weights."""
        self._config.flags()
        env = os.environ | self._config.environment()
        if self._config.api_key is not None:
            env["VLLM_API_KEY"] = self._config.api_key.get_secret_value()  # not an option, which `ps` would show
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.engine.standin"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=Path(__file__).resolve().parents[2],
                start_new_session=True,
            )
        assert self._process.stdin is not None
        settings = self._config.model_dump_json(exclude={"api_key"})
        self._process.stdin.write(settings.encode() + b"\n")
        self._process.stdin.flush()  # kept open, because its end tells the child that we are gone

    def is_ready(self) -> bool:
        """Whether it answers. Raises StandinFailed with the end of its log when it has exited."""
        if self._process is None or self._process.poll() is not None:
            status = "was not started" if self._process is None else f"exited with status {self._process.returncode}"
            raise StandinFailed(f"the stand-in frontier {status}; the end of {self.log_path}:\n{self._log_tail()}")
        try:
            return httpx.get(f"{self.base_url}/health", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def wait_ready(self, progress: Callable[[float], None] | None = None, timeout_s: float = 900.0) -> None:
        """Block until it answers. `progress` is told the seconds waited. Raises StandinFailed."""
        began = time.perf_counter()
        while not self.is_ready():
            waited_s = time.perf_counter() - began
            if waited_s > timeout_s:
                raise StandinFailed(f"the stand-in frontier is not up after {timeout_s} s; see {self.log_path}")
            if progress is not None:
                progress(waited_s)
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the child and all it started. Safe to call twice."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        end_group(self._process.pid, self._process.wait)
        self._process = None

    def _log_tail(self) -> str:
        try:
            return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return "(no log)"


def main() -> None:
    """Run the child: read its settings from the first line of standard input, then run vLLM's server until a signal."""
    config = StandinConfig.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
    from serving.engine.vllm_engine import serve_openai  # noqa: PLC0415 - in the child alone

    serve_openai(config.server_flags())


if __name__ == "__main__":
    main()
