"""Watches the registry for a promoted release and applies it over the profile while serving.

The release file is read every poll_s, outside the event loop. A good one replaces the running configuration by one
assignment. A bad one is refused as a whole. A request takes its configuration when it arrives and keeps it to its end.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError

from routing.learning.release import RELEASE_FILE, Release, Variant
from routing.records import Record
from serving.cascade.sections import Sections
from serving.errors import ConfigInvalid, StackError
from serving.request.call import Adapter

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 30.0  # for a replica to read an adapter, which takes a busy CPU engine less than a second


class PromotionConfig(Record):
    """Where promoted releases come from (`python -m models promote`). Without a registry the profile alone decides."""

    registry: Path | None = Field(None, description="folder whose release.json is watched")
    poll_s: float = Field(0.5, gt=0, le=2, description="a promoted release serves within this and its loading time")


@dataclass(frozen=True, slots=True)
class Running:
    """The configuration that decides a request, and its name in the ledger."""

    sections: Sections
    config_hash: str


class ReleaseObserver(Protocol):
    """Told of every reload."""

    def reloaded(self, applied: bool, hashes: tuple[str, ...]) -> None:
        """A release was applied or refused. hashes: what runs from now on, the stable one first."""
        ...


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A release whose variants are both ready to decide."""

    release: Release
    stable: Running
    canary: Running | None

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that either variant may draft with."""
        variants = (self.stable, *([] if self.canary is None else [self.canary]))
        return tuple({a.served_as: a for v in variants for a in v.sections.adapters.values()}.values())

    @property
    def hashes(self) -> tuple[str, ...]:
        return (self.stable.config_hash, *([] if self.canary is None else [self.canary.config_hash]))


class Releases:
    """The configurations of one gateway process.

    build: makes the configuration of a variant. None: the profile as it is.
    A release that is bad at the start is refused like any other. Then the profile serves, and a metric counts it.
    """

    def __init__(
        self,
        config: PromotionConfig,
        build: Callable[[Variant | None], Running],
        observer: ReleaseObserver,
        load_adapter: Callable[[Adapter], Awaitable[str | None]] | None = None,
    ) -> None:
        self._config, self._build, self._observer, self._load_adapter = config, build, observer, load_adapter
        self._profile = build(None)
        self._loaded: _Loaded | None = None
        self._seen: tuple[int, int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self.reload()

    @property
    def registry(self) -> Path | None:
        """The folder that is watched. None: promotions do not reach this process."""
        return self._config.registry

    def pick(self, request_id: str) -> Running:
        """The configuration that decides this request. request_id: our own, 32 hex digits."""
        loaded = self._loaded  # read once: a swap between two reads would mix two releases
        if loaded is None:
            return self._profile
        if loaded.canary is not None and loaded.release.variant_for(request_id) is loaded.release.canary:
            return loaded.canary
        return loaded.stable

    def start(self) -> None:
        """Begin to watch. Needs the event loop of the process."""
        if self._config.registry is not None:
            self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def reload(self) -> None:
        """Read the file once. Apply a new release that is good, refuse one that is bad.

        The replicas read an adapter that it names with the first request for it.
        """
        loaded = self._look()
        if loaded is not None:
            self._apply(loaded)

    async def follow(self) -> None:
        """The same while serving, outside the event loop. The replicas read its adapters before it is applied."""
        loaded = await asyncio.to_thread(self._look)
        if loaded is None:
            return
        for adapter in loaded.adapters:
            if (why := await self._unloadable(adapter)) is not None:
                self._refuse(f"{adapter.served_as}: {why}")
                return
        self._apply(loaded)

    async def _unloadable(self, adapter: Adapter) -> str | None:
        """Why the replicas cannot load it. None when they have, or when none answers now.

        In the second case they read it later.
        """
        if self._load_adapter is None:
            return None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                return await self._load_adapter(adapter)
        except (StackError, TimeoutError) as error:
            log.warning("no replica has loaded %s yet: %s", adapter.served_as, error)
            return None

    def _look(self) -> _Loaded | None:
        """The release of a new file. None when there is no new file or it is bad."""
        if self._config.registry is None:
            return None
        path = self._config.registry / RELEASE_FILE
        try:
            stat = path.stat()
        except OSError:
            return None  # nothing was promoted yet, or the disk is away: the running configuration stays
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            return load(path, self._build)
        except ConfigInvalid as error:
            self._refuse(error.message)
            return None

    def _refuse(self, why: str) -> None:
        log.error("release refused, what runs stays: %s", why)
        self._observer.reloaded(False, self._hashes)

    def _apply(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        log.info("release applied", extra={"config": loaded.hashes})
        self._observer.reloaded(True, loaded.hashes)

    @property
    def _hashes(self) -> tuple[str, ...]:
        return (self._profile.config_hash,) if self._loaded is None else self._loaded.hashes

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                await self.follow()
            except Exception:  # a bug must not end the task
                log.exception("reload")


def load(path: Path, build: Callable[[Variant | None], Running]) -> _Loaded:
    """Read a release and make both its variants. Raises ConfigInvalid naming everything that is wrong."""
    try:
        release = Release.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigInvalid(f"cannot read the release {path}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'release'}: {e['msg']}" for e in error.errors())
        raise ConfigInvalid(f"{path} is no release: {problems}") from None
    canary = None if release.canary is None else build(release.canary)
    return _Loaded(release, build(release.stable), canary)
