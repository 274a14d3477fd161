"""Checks the LoRA adapters that tier 1 may draft with, and loads them into a replica's engine.

The gateway checks an adapter when it reads its configuration. The replica checks the same bytes again before its engine
reads them. A refusal is ConfigInvalid with the reason, so a gateway that reloads keeps what it had.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from routing.ladder.policy import PolicyConfig
from serving.engine.vllm_flags import LoraSettings
from serving.errors import ConfigInvalid
from serving.request.call import Adapter

WEIGHTS: Final = "adapter_model.safetensors"
SETTINGS: Final = "adapter_config.json"
# What may lie beside them. vLLM reads adapter_model.bin and .pt too, and both are pickles.
HARMLESS: Final = frozenset({".json", ".safetensors", ".png", ".md", ".txt", ".jinja", ".yaml"})
MAX_BYTES: Final = 2 * 2**30
VERSION_DIGITS: Final = 12
PEFT_PREFIX: Final = "base_model.model."
LORA_TENSORS: Final = (".lora_A.weight", ".lora_B.weight")


def read_adapters(
    policy: PolicyConfig, model: str, lora: LoraSettings | None, registry: Path | None
) -> dict[str, Adapter]:
    """The adapters of `policy.adapters` by name, every file checked. Raises ConfigInvalid naming key and reason.

    model: the name of the model that the adapters belong to.
    registry: its artefacts are allowed beside the folders that `lora` names.
    """
    if policy.adapters and lora is None:
        raise ConfigInvalid("policy.adapters is set, but the engine takes none; set tier1.lora, e.g. {max_rank: 16}")
    found: dict[str, Adapter] = {}
    for name, folder in policy.adapters.items():
        assert lora is not None
        roots = (*lora.folders, *(() if registry is None else (registry / "artefacts",)))
        try:
            found[name] = read_adapter(name, folder, model, lora.max_rank, roots)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"policy.adapters.{name}: {error.message}") from error
    return found


def read_adapter(name: str, folder: Path, model: str, max_rank: int, roots: Iterable[Path]) -> Adapter:
    """One checked adapter.

    Raises ConfigInvalid when it lies outside of `roots`, when there is a pickle, a link or another tensor, or when its
    rank is above max_rank.
    """
    folder = folder.resolve()
    allowed = [root.resolve() for root in roots]
    if not any(folder.is_relative_to(root) for root in allowed):
        raise ConfigInvalid(f"{folder} is in none of the folders that adapters may come from: {listed(allowed)}")
    digest = files_sha256(folder)
    check_settings(folder / SETTINGS, max_rank)
    check_tensors(folder / WEIGHTS)
    return Adapter(f"{model}:{name}@{digest[:VERSION_DIGITS]}", str(folder), digest)


def files_sha256(folder: Path) -> str:
    """Hash of settings and weights. Raises ConfigInvalid when they cannot be read or other files lie beside them."""
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not path.is_file() or path.suffix not in HARMLESS:
                raise ConfigInvalid(f"{path}: an adapter's folder holds plain files of {listed(sorted(HARMLESS))} only")
        for name in (SETTINGS, WEIGHTS):
            size = (folder / name).stat().st_size
            if size > MAX_BYTES:
                raise ConfigInvalid(f"{folder / name}: larger than {MAX_BYTES} bytes")
            digest.update(size.to_bytes(8, "little"))
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ConfigInvalid(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def check_settings(path: Path, max_rank: int) -> None:
    """Check that the adapter is a plain LoRA: low-rank matrices and no whole modules. Raises ConfigInvalid."""
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        rank, kind = int(settings["r"]), settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"{path}: not the settings of a LoRA: {error!r}") from error
    if kind != "LORA" or settings.get("modules_to_save") or settings.get("use_dora"):
        raise ConfigInvalid(f"{path}: only plain LoRA without modules_to_save and DoRA can be served, found {kind}")
    if not 1 <= rank <= max_rank:
        raise ConfigInvalid(f"{path}: rank {rank}, tier1.lora.max_rank is {max_rank}")


def check_tensors(path: Path) -> None:
    """Check that the file holds pairs of low-rank matrices and nothing else. Raises ConfigInvalid."""
    names = list(tensor_shapes(path))
    if not names or (odd := [name for name in names if not name.endswith(LORA_TENSORS)]):
        raise ConfigInvalid(f"{path}: holds {odd[0] if names else 'nothing'}, expected lora_A and lora_B matrices")


def misfit(folder: Path, base: Path) -> str | None:
    """Why an adapter does not fit the model in `base`: a matrix that the model does not have, or one of another shape.

    vLLM 0.32 accepts such an adapter silently and then crashes while generating. Reads the files' headers alone.
    None when it fits, or when `base` holds no safetensors to compare it with.
    """
    shapes: dict[str, list[int]] = {}
    for path in sorted(base.glob("*.safetensors")):
        shapes |= tensor_shapes(path)
    if not shapes:
        return None
    for name, shape in tensor_shapes(folder / WEIGHTS).items():
        matrix, _, side = name.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        weight = shapes.get(f"{matrix}.weight")
        if weight is None:
            return f"{name}: the model has no {matrix}"
        rows, columns = weight
        seen, wanted = (shape[1], columns) if side.startswith("A") else (shape[0], rows)
        if seen != wanted:
            return f"{name}: shape {shape} does not fit the model's {weight}"
    return None


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shape of every tensor of a file, by name. Raises ConfigInvalid."""
    try:
        with safe_open(str(path), framework="np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigInvalid(f"{path}: not safetensors: {error}") from error


def listed(items: Iterable[object]) -> str:
    """The items as text for a message."""
    return ", ".join(map(str, items)) or "none"


class AdapterLoader:
    """Loads adapters into one replica's engine, each once: before its first request or when it is promoted.

    load: tells the engine to read a folder under a name. Returns the reason when the engine refuses (vllm_engine.py).
    base: the folder of the engine's model, which adapters have to fit.
    """

    def __init__(self, load: Callable[[str, str], Awaitable[str | None]], base: Path) -> None:
        self._load, self._base = load, base
        self._ready: set[str] = set()
        self._lock = asyncio.Lock()

    async def load(self, adapter: Adapter) -> str | None:
        """Have the engine read the adapter unless it has done so. Returns the reason when that is refused, else None.

        Refused are files that are not those that were checked, and whatever the engine refuses. Nothing is unloaded
        here. Requests on an older adapter finish on it, and the engine drops the least recently used one.
        """
        if adapter.served_as in self._ready:
            return None
        async with self._lock:
            if adapter.served_as in self._ready:
                return None
            if (why := await asyncio.to_thread(self._refused, adapter)) is not None:
                return why
            why = await self._load(adapter.served_as, adapter.folder)
            if why is None:
                self._ready.add(adapter.served_as)
            return why

    def _refused(self, adapter: Adapter) -> str | None:
        folder = Path(adapter.folder)
        try:
            if files_sha256(folder) != adapter.files_sha256:
                return f"{folder}: its files are not those that were checked"
            return misfit(folder, self._base)
        except ConfigInvalid as error:
            return error.message
