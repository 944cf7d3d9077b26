"""What turns a document into vectors. Two indexes may share vectors only if their recipes are equal.

Everything that changes a vector, or which text it stands for, is a part; anything else must stay out, because a new
recipe means that every document is embedded again. Knowing the recipe must not need the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pipeline.base.settings import Settings


class Recipe(BaseModel):
    """Sorted pairs of name and value; `Recipe.of` sorts them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: tuple[tuple[str, str], ...] = Field(max_length=64)

    @classmethod
    def of(cls, parts: Mapping[str, str]) -> Self:
        return cls(parts=tuple(sorted(parts.items())))

    def get(self, name: str, default: str = "") -> str:
        return dict(self.parts).get(name, default)

    @property
    def digest(self) -> str:
        """Short and fit for a name; equal for equal recipes in every process."""
        text = json.dumps(self.parts, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def recipe_for(settings: Settings) -> Recipe:
    """The recipe that these settings ask for. Reads the model's files, but loads no model."""
    from pipeline.embedder import open_embedder
    from pipeline.text import extractor_id, splitter_id

    embedder = open_embedder(settings.model, backend=settings.backend, precision=settings.precision)
    return Recipe.of(
        {
            "extractor": extractor_id(),
            "splitter": splitter_id(settings.passage_tokens),
            "model": embedder.name,
            "revision": embedder.revision,
            "backend": embedder.backend,
            "precision": embedder.precision,
        }
    )
