"""The steps of a promotion: canary first, then everybody; back at any time. Every step is on record."""

from collections.abc import Sequence
from typing import Any

from models.flywheel.monitor import Live, LiveMargins, turned
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry, RegistryInvalid
from routing.learning.release import Release, Variant

SECTION_OF = {ArtefactKind.ROUTER: "policy", ArtefactKind.GATE: "gate"}


def variant_with(
    registry: Registry, manifest: ArtefactManifest, stable: Variant, version: int, categories: Sequence[str] = ()
) -> Variant:
    """The stable variant with one artefact exchanged and what is set along with it.

    categories: what an adapter is for; none: for all.
    """
    overrides: dict[str, dict[str, Any]] = {section: dict(values) for section, values in stable.overrides.items()}
    for section, values in manifest.overrides.items():
        overrides.setdefault(section, {}).update(values)
    folder = str(registry.folder(manifest.name).resolve())
    if manifest.kind is ArtefactKind.ADAPTER:
        overrides["policy"] = with_adapter(overrides.get("policy", {}), manifest.name, folder, categories)
    else:
        overrides.setdefault(SECTION_OF[manifest.kind], {})["artefact"] = folder
    return Variant(
        version=version,
        overrides=overrides,
        artefacts={**stable.artefacts, manifest.kind: manifest.name},
        parent=stable.version,
    )


def with_adapter(policy: dict[str, Any], name: str, folder: str, categories: Sequence[str]) -> dict[str, Any]:
    """The policy's overrides with an adapter for these categories, or for all; adapters nobody drafts with leave."""
    chosen = {category: dict(values) for category, values in policy.get("categories", {}).items()}
    default = policy.get("default_adapter")
    if categories:
        for category in categories:
            chosen.setdefault(category, {})["adapter"] = name
    else:
        default = name
        chosen = {category: {k: v for k, v in values.items() if k != "adapter"} for category, values in chosen.items()}
    used = {default, *(values.get("adapter") for values in chosen.values())}
    adapters = {**policy.get("adapters", {}), name: folder}
    changed = {
        "adapters": {known: where for known, where in adapters.items() if known in used},
        "categories": {category: values for category, values in chosen.items() if values},
        "default_adapter": default,
    }
    kept = {key: value for key, value in policy.items() if key not in changed}
    return kept | {key: value for key, value in changed.items() if value}


def start_canary(registry: Registry, name: str, ratio: float, categories: Sequence[str] = (), **audit: Any) -> Release:
    """Give a verified artefact a share of the requests, or, with ratio 1, all of them. Raises Refused.

    categories: what an adapter is for; none: for all.
    """
    manifest = registry.verified(name)
    stable = registry.release().stable
    candidate = variant_with(registry, manifest, stable, registry.next_version(), categories)
    if ratio >= 1:
        release, step = Release(stable=candidate), "promoted"
    else:
        release, step = Release(stable=stable, canary=candidate, canary_ratio=ratio), "canary"
    registry.publish(release, step, artefact=name, **audit)
    return release


def finish(registry: Registry, **audit: Any) -> Release:
    """The canary becomes stable. Raises RegistryInvalid when there is none."""
    release = registry.release()
    if release.canary is None:
        raise RegistryInvalid("there is no canary to promote")
    promoted = Release(stable=release.canary)
    registry.publish(promoted, "promoted", artefact=newest_artefact(release), **audit)
    return promoted


def roll_back(registry: Registry, to: int | None = None, **audit: Any) -> Release:
    """Drop the canary; without one, go back to a version, by default to the one that the stable replaced."""
    release = registry.release()
    if release.canary is not None and to is None:
        back = Release(stable=release.stable)
    else:
        version = release.stable.parent if to is None else to
        if version is None:
            raise RegistryInvalid(f"version {release.stable.version} replaced nothing; name a version with --to")
        back = Release(stable=registry.past(version))
    registry.publish(back, "rolled_back", artefact=newest_artefact(release), **audit)
    return back


def newest_artefact(release: Release) -> str | None:
    """The artefact by which the newest variant differs from the other; None when none does."""
    newest = release.canary or release.stable
    other = release.stable.artefacts if release.canary is not None else {}
    return next((name for kind, name in newest.artefacts.items() if other.get(kind) != name), None)


def watch_release(registry: Registry, live: dict[int, Live], margins: LiveMargins) -> str | None:
    """Roll back a release that has got worse, promote a canary that has not. Returns what was done, or None."""
    release = registry.release()
    newest = release.canary or release.stable
    before = release.stable.version if release.canary is not None else release.stable.parent
    if before is None or before not in live or newest.version not in live:
        return None
    old, new = live[before], live[newest.version]
    seen = {
        "requests": new.n,
        "grades": new.n_grades,
        "quality": finite(new.quality()),
        "quality_before": finite(old.quality()),
        "cost_ratio": finite(new.cost_ratio()),
        "cost_ratio_before": finite(old.cost_ratio()),
    }
    if worse := turned(old, new, margins):
        roll_back(registry, reasons=tuple(worse), detail=seen)
        return "rolled_back"
    if release.canary is not None and min(old.n, new.n) >= margins.min_requests and new.n_grades >= margins.min_grades:
        finish(registry, detail=seen)
        return "promoted"
    return None


def finite(value: float) -> float | None:
    """A number, or None for one that is not known."""
    return round(value, 4) if value == value else None  # noqa: PLR0124 - NaN
