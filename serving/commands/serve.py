"""`serve`: start the whole stack on one machine, show progress, wait, and stop everything again."""

import argparse
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import httpx
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import DeploymentStatus
from tqdm import tqdm

from serving.access.keys import require_keys
from serving.app import APPLICATION, application
from serving.artefacts.heads import read_learned
from serving.artefacts.weights import ROOT, model_path
from serving.commands.options import DEFAULT_PROFILE
from serving.config import StackConfig, load_config
from serving.engine.standin import HOST as STANDIN_HOST
from serving.engine.standin import Standin
from serving.errors import StackError

POLL_S = 1.0  # seldom, because the machine is busy while it starts
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
START_TIMEOUT_S = 900
LABELS = {"router": "router", "tier1": "tier 1", "gateway": "gateway"}


class StartFailed(StackError):
    """A part of the stack did not come up."""

    code = "start_failed"


class Steps:
    """A progress bar over named steps that may run at the same time. Each prints the seconds since start when done."""

    def __init__(self, names: list[str]) -> None:
        self._began = time.perf_counter()
        self._waiting = list(names)
        self._bar = tqdm(total=len(names), unit="step", bar_format="{desc} {bar:24} {n_fmt}/{total_fmt} {elapsed}")
        self._describe()

    def done(self, name: str) -> None:
        """Tick one step off, once."""
        if name not in self._waiting:
            return
        self._waiting.remove(name)
        self._bar.write(f"  {time.perf_counter() - self._began:6.1f} s  {name}", file=sys.stderr)
        self._bar.update()
        self._describe()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def refresh(self) -> None:
        """Move the clock."""
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _describe(self) -> None:
        self._bar.set_description_str(f"starting {', '.join(self._waiting)}" if self._waiting else "ready")


def serve_until_stopped(config: StackConfig) -> int:
    """Run the stack until SIGINT or SIGTERM. Returns the exit status."""
    stopped = threading.Event()
    with ExitStack() as cleanup:
        cleanup.enter_context(stop_signals(stopped))
        cleanup.enter_context(running_stack(config, stopped.is_set))
        if stopped.is_set():
            return 130
        sys.stdout.write(usage_lines(config))
        sys.stdout.flush()
        stopped.wait()
        sys.stderr.write("stopping\n")
    return 0


@contextmanager
def running_stack(config: StackConfig, interrupted: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """The whole stack of a profile on this machine, ready when the block begins. Yields its base URL.

    Raises ConfigInvalid (keys, weights) before anything is started, StartFailed when a part does not come up.
    """
    require_keys(config.gateway.host, config.gateway.keys_file)
    require_free_port(config.gateway.host, config.gateway.port, "STACK_GATEWAY__PORT")
    if config.standin is not None:
        require_free_port(STANDIN_HOST, config.standin.port, "STACK_STANDIN__PORT and the provider's base_url")
    engines = {"router": config.router, "tier1": config.tier1, "standin": config.standin}
    for engine in engines.values():
        if engine is not None:
            model_path(engine.model)
    deployments = ["gateway", "tier1"] + (["router"] if config.router else [])
    names = ["Ray", *(["stand-in frontier"] if config.standin else []), *(LABELS[d] for d in deployments)]
    steps = Steps([*names, "a token from every tier"])
    with ExitStack() as cleanup:
        cleanup.callback(steps.close)
        standin = cleanup.enter_context(Standin(config.standin)) if config.standin else None
        cleanup.enter_context(local_ray())
        steps.done("Ray")
        serve.start(http_options=HTTPOptions(host=config.gateway.host, port=config.gateway.port))
        cleanup.callback(serve.shutdown)
        serve.run_many(
            [serve.RunTarget(application(config), name=APPLICATION, route_prefix="/")],
            wait_for_applications_running=False,
        )
        url = f"http://{config.gateway.host}:{config.gateway.port}"
        until = time.perf_counter() + START_TIMEOUT_S
        pending: dict[str, Callable[[], bool]] = {LABELS[d]: deployed(d) for d in deployments}
        if standin is not None:
            pending["stand-in frontier"] = standin.is_ready
        while pending and not interrupted():
            for name in [name for name, ready in pending.items() if ready()]:
                del pending[name]
                steps.done(name)
            if time.perf_counter() > until:
                raise StartFailed(f"not up after {START_TIMEOUT_S} s: {', '.join(pending)}")
            steps.refresh()
            time.sleep(POLL_S)
        if not interrupted():
            for warning in first_token(url):
                steps.say(warning)
            steps.done("a token from every tier")
            steps.close()
        yield url


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raises StartFailed when a process listens there already. `setting` is what to change then.

    Ray's proxies share their port (SO_REUSEPORT), so a second stack would start silently and take half of the requests
    meant for the first. A stand-in left by another stack would answer the health check of ours, which would then count
    as ready while it loads.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            probe.bind((host, port))
        except OSError as error:
            raise StartFailed(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what runs there or set {setting}"
            ) from error


def deployed(name: str) -> Callable[[], bool]:
    """A function that tells whether a deployment is healthy. It raises StartFailed when it never will be."""

    def ready() -> bool:
        app = serve.status().applications[APPLICATION]
        state = app.deployments.get(name)
        if state is not None and state.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED):
            raise StartFailed(f"{LABELS[name]} did not start: {state.message or app.message}")
        return state is not None and state.status is DeploymentStatus.HEALTHY

    return ready


def first_token(url: str) -> list[str]:
    """Ask the gateway to have every tier generate a token. Returns lines to warn with.

    Raises StartFailed when one of our own engines cannot. A frontier that does not answer now may do so in a minute. So
    the stack starts, answers from tier 1, and says so.
    """
    reply = httpx.get(f"{url}/readyz", timeout=120)
    failed = {name: state for name, state in reply.json()["tiers"].items() if state != "ok"}
    if own := {name: state for name, state in failed.items() if name != "frontier"}:
        raise StartFailed(f"the stack is up but its engines are not ready: {own}")
    return [f"warning: {name} does not answer ({state}); see /readyz" for name, state in failed.items()]


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray instance of our own on loopback: no dashboard, no usage reports, a small object store.

    Ray handles SIGTERM itself once it starts. The earlier handlers of the signals are put back.
    """
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    ray.init(
        address="local",
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=256 * 2**20,  # frames and configs only, because weights never pass through Ray
        log_to_driver=False,
        logging_level="warning",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def stop_signals(stopped: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM ask for an orderly stop. A second one interrupts whatever is still running."""

    def stop(number: int, _: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def usage_lines(config: StackConfig) -> str:
    """The address and two lines to try."""
    url = f"http://{config.gateway.host}:{config.gateway.port}"
    return f"""
Tierwise answers at {url}/v1 (config {config.hash}). Try:

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Name three primary colours."}}]}}'

  .venv/bin/python -c 'from openai import OpenAI; c = OpenAI(base_url="{url}/v1", api_key="none"); \\
    print(c.chat.completions.create(model="auto", messages=[{{"role": "user", "content": "Name three colours."}}]))'

  .venv/bin/python -m serving ask "Name three primary colours."      .venv/bin/python -m serving ledger tail

Ctrl-C stops everything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile."""
    parser.add_argument("config", nargs="?", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")


def run(args: argparse.Namespace) -> int:
    """Start everything, print how to use it, wait for Ctrl-C, stop everything."""
    config = load_config(args.config)
    read_learned(config.policy, config.gate)  # here too, because a refusal should not wait for the engines
    return serve_until_stopped(config)
