"""What a generation consists of. Whatever bytes a home holds, reading them gives a valid manifest or CorruptIndex.

So every name in here is spelled by a pattern (a manifest must never make a reader open `../../etc`), every number is
bounded, and what must agree is checked. Bytes are canonical: equal manifests have equal digests.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import CorruptIndex
from pipeline.index.recipe import Recipe

INDEX_FILE: Final = "index.faiss"
PASSAGES_FILE: Final = "passages.sqlite"

Count = Annotated[int, Field(ge=0, lt=2**53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SegmentId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
ManifestName = Annotated[str, Field(pattern=r"^manifests/[0-9]{8,16}-[0-9a-f]{12}\.json$")]
DeletesName = Annotated[str, Field(pattern=r"^deletes/[0-9]{8,16}/[0-9a-f]{16}-[0-9a-f]{12}$")]
Figure = Annotated[float, Field(allow_inf_nan=False)]
IndexType = Literal["exact", "ivf", "hnsw"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON: fields in order, no spaces."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises CorruptIndex for anything else."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise CorruptIndex(f"not a {cls.__name__.lower()}: {place or 'document'}: {first['msg']}") from None

    @property
    def digest(self) -> str:
        return sha256(self.to_bytes())


class FileRef(_Frozen):
    """A file of a segment: bytes and hex sha256."""

    size: Count
    sha256: Digest

    @classmethod
    def of(cls, path: Path) -> Self:
        with path.open("rb") as file:
            return cls(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class DeletesRef(_Frozen):
    """The bitmap of a segment's dead rows."""

    name: DeletesName
    sha256: Digest


class SegmentRef(_Frozen):
    """One immutable segment as this generation sees it."""

    id: SegmentId
    rows: Count
    live_rows: Count
    documents: Count
    live_documents: Count
    index_type: IndexType
    recall: Annotated[float, Field(ge=0, le=1)]
    """recall@10 against exact search, measured when the segment was written; 1 for exact segments."""
    breadth: Count = 0
    """nprobe or efSearch that reached that recall; 0 for exact segments."""
    index: FileRef
    passages: FileRef
    deletes: DeletesRef | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not 0 < self.live_rows <= self.rows or not 0 < self.live_documents <= self.documents <= self.rows:
            raise ValueError("a segment has live rows, and not more of them than rows")
        if (self.live_rows < self.rows) != (self.deletes is not None):
            raise ValueError("a segment has deletes exactly when some of its rows are dead")
        return self

    @property
    def files(self) -> dict[str, FileRef]:
        """Blob name → size and digest, of the files that never change."""
        return {f"segments/{self.id}/{INDEX_FILE}": self.index, f"segments/{self.id}/{PASSAGES_FILE}": self.passages}

    @property
    def names(self) -> tuple[str, ...]:
        """Every blob this reference needs."""
        return (*self.files, *((self.deletes.name,) if self.deletes else ()))

    def with_deletes(self, deletes: DeletesRef, live_rows: int, live_documents: int) -> SegmentRef:
        """The same segment as a later generation sees it."""
        return SegmentRef(**{**dict(self), "deletes": deletes, "live_rows": live_rows, "live_documents": live_documents})


class Manifest(_Frozen):
    """One generation: everything a reader needs, by name and digest."""

    generation: Annotated[int, Field(ge=1, lt=10**15)]
    parent: ManifestName | None
    """The manifest that CURRENT named before."""
    created_at: Figure
    """Seconds since the epoch."""
    recipe: Recipe
    dimension: Annotated[int, Field(ge=0, le=65_536)]
    segments: tuple[SegmentRef, ...]
    note: Annotated[str, Field(max_length=1000)] = ""
    """Why this generation exists: build, merge, rebuild, rollback to 12."""
    held: bool = False
    """Nothing is built upon this generation until an operator resumes."""
    facts: dict[str, Figure] = Field(default_factory=dict)
    """Figures for operators, such as freshness in seconds."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({segment.id for segment in self.segments}) != len(self.segments):
            raise ValueError("a segment is listed once")
        if self.segments and not self.dimension:
            raise ValueError("an index with segments has a dimension")
        return self

    @property
    def name(self) -> str:
        return f"manifests/{self.generation:08d}-{self.digest[:12]}.json"

    @property
    def live_rows(self) -> int:
        return sum(segment.live_rows for segment in self.segments)

    @property
    def live_documents(self) -> int:
        return sum(segment.live_documents for segment in self.segments)

    @property
    def names(self) -> tuple[str, ...]:
        """Every blob this generation needs, its own manifest not included."""
        return tuple(name for segment in self.segments for name in segment.names)


class Pointer(_Frozen):
    """The content of CURRENT: which generation, and how to recognise its manifest."""

    generation: Annotated[int, Field(ge=1, lt=10**15)]
    manifest: ManifestName
    sha256: Digest

    @classmethod
    def to(cls, manifest: Manifest) -> Self:
        return cls(generation=manifest.generation, manifest=manifest.name, sha256=manifest.digest)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
