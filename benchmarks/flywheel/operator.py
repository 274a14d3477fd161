"""What an operator does during a turn: start the stack, ask it, read its ledger, and call `python -m models`."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.load.child_stack import fetch, forget
from benchmarks.load.process import process
from benchmarks.load.targets import free_port
from benchmarks.tasks.asking import Answer, ask_all
from benchmarks.tasks.grading import grade
from benchmarks.tasks.pairs import join, read_ledger
from benchmarks.tasks.task import Task
from routing.learning.release import MARK, RELEASE_FILE, Release
from routing.records import RequestRecord

START_TIMEOUT_S = 900.0
RELOAD_TIMEOUT_S = 60.0
BOOKED_TIMEOUT_S = 30.0
CONCURRENCY = 16


def run_python(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`python -m` with these words, and what it said."""
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)


Run = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]


class TurnFailed(RuntimeError):
    """A step did not work. The message is what the command said."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A promotion was refused. Why is the command's own words."""

    why: str


@dataclass(frozen=True, slots=True)
class Operator:
    """One stack of the embedded profile with a ledger and a registry of its own, and a folder for files."""

    url: str
    standin_url: str
    profile: Path
    registry: Path
    files: Path
    run: Run = run_python

    def ask(self, tasks: Sequence[Task], model: str) -> list[Answer]:
        """Every task to one model name. The stand-in frontier has forgotten what it was asked before.

        Raises TurnFailed when a request fails.
        """
        asyncio.run(forget(self.standin_url))
        answers = asyncio.run(ask_all(self.url, tasks, [model], CONCURRENCY))
        if failed := [answer for answer in answers if answer.output is None]:
            raise TurnFailed(f"{len(failed)} of {len(answers)} requests failed, e.g. {failed[0]}")
        return answers

    def booked(self, answers: Sequence[Answer]) -> dict[str, RequestRecord]:
        """The ledger's row of each answer by request id. Raises TurnFailed when one does not come."""
        wanted = {answer.request_id for answer in answers}
        until = time.perf_counter() + BOOKED_TIMEOUT_S
        while True:
            exported = self.files / "ledger.jsonl"
            self._command("serving", "ledger", "export", "--config", str(self.profile), "--out", str(exported))
            rows = read_ledger(exported).values()
            found = {row.request_id: row for row in rows if row.request_id in wanted}
            if len(found) == len(wanted):
                return found
            if time.perf_counter() > until:
                raise TurnFailed(f"the ledger has {len(found)} of {len(wanted)} rows after {BOOKED_TIMEOUT_S:g} s")

    def write_pairs(self, name: str, tasks: Sequence[Task], answers: Sequence[Answer]) -> Path:
        """Graded pairs of tasks that both tiers were asked by name, with every signal that the ledger has."""
        asked = join(tasks, answers, self.booked(answers))
        return self._write(name, [one.pair.model_dump_json() for one in asked])

    def write_grades(self, name: str, tasks: Sequence[Task], answers: Sequence[Answer]) -> Path:
        """Grades by task, as `python -m models promote --graded` reads them."""
        by_id = {task.id: task for task in tasks}
        lines = []
        for answer in answers:
            task = by_id[answer.task]
            quality = grade(task.verifier, answer.output or "")
            lines.append(json.dumps({"id": task.id, "category": task.category, "quality": quality}))
        return self._write(name, lines)

    def train_heads(self, name: str, train: Path, calibration: Path, quality_target: float, draft_price: float) -> Path:
        """Router and gate of the tier 1 that drafted these pairs. Returns the folder of both."""
        out, target = self.files / f"{name}-heads", str(quality_target)
        self._command("models", "train-router", "--pairs", str(train), "--out", str(out))
        self._command("models", "train-gate", "--pairs", str(train), "--out", str(out))
        common = ["--artefact", str(out), "--pairs", str(calibration), "--quality-target", target, "--together"]
        self._command("models", "calibrate", *common, "--kind", "gate")
        self._command("models", "calibrate", *common, "--kind", "router", "--draft-price", str(draft_price))
        return out

    def register(self, name: str, adapter: Path, heads: Path | None = None, settings: Sequence[str] = ()) -> None:
        """Put an adapter, with heads of its own or without, into the registry."""
        options = ["--kind", "adapter", "--from", str(adapter), "--registry", str(self.registry)]
        options += [] if heads is None else ["--heads", str(heads)]
        options += ["--set", *settings] if settings else []
        self._command("models", "register", name, *options)

    def promote(self, name: str, *options: str) -> Refused | None:
        """To all requests at once. Returns when that is what runs, or why it was refused."""
        command = ["models", "promote", name, "--registry", str(self.registry), "--canary-ratio", "1", *options]
        done = self.run(command)
        if done.returncode:
            return Refused(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given")
        self._wait_for_release()
        return None

    def roll_back(self) -> None:
        """To what ran before the last promotion."""
        self._command("models", "rollback", "--registry", str(self.registry), "--reason", "end of the trial")
        self._wait_for_release()

    def _wait_for_release(self) -> None:
        release = Release.model_validate_json((self.registry / RELEASE_FILE).read_bytes())
        mark = f'{MARK}{release.stable.version}"'
        until = time.perf_counter() + RELOAD_TIMEOUT_S
        while mark not in asyncio.run(fetch(f"{self.url}/metrics")):
            if time.perf_counter() > until:
                raise TurnFailed(f"version {release.stable.version} does not run after {RELOAD_TIMEOUT_S:g} s")
            time.sleep(0.1)

    def _write(self, name: str, lines: Sequence[str]) -> Path:
        path = self.files / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def _command(self, *words: str) -> str:
        done = self.run(words)
        if done.returncode:
            raise TurnFailed(f"python -m {' '.join(words)}: {done.stderr.strip()[-500:]}")
        return done.stdout


@contextlib.contextmanager
def serving(profile: Path, files: Path, sections: Mapping[str, Mapping[str, object]]) -> Iterator[Operator]:
    """The stack of a profile with a stand-in frontier, every tier ready, on free ports. Stopped at the end.

    files: an empty folder for its ledger, registry and everything else. sections: what is laid over the profile's.
    """
    tree = yaml.safe_load(profile.read_text("utf-8"))
    port, standin_port = free_port(), free_port()
    standin_url = f"http://127.0.0.1:{standin_port}"
    tree["gateway"] |= {"port": port, "secret_file": str(files / "secret")}
    tree["standin"]["port"] = standin_port
    tree["frontier"]["providers"][0]["base_url"] = f"{standin_url}/v1"
    tree["ledger"]["url"] = f"sqlite:///{files}/ledger.sqlite3"
    tree["promotion"] = {"registry": str(files / "registry")}
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    written = files / "profile.yaml"
    written.write_text(yaml.safe_dump(tree), encoding="utf-8")
    url, env = f"http://127.0.0.1:{port}", {"VLLM_SERVER_DEV_MODE": "1"}  # for `forget`
    with process([sys.executable, "-m", "serving", "serve", str(written)], f"{url}/readyz", env, START_TIMEOUT_S):
        yield Operator(url, standin_url, written, files / "registry", files)
