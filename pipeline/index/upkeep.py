"""What operators and schedules do to a home: roll back, pin, promote, collect, verify. All of it by new names.

Collecting never touches what a kept generation needs, nor anything young: a draft writes its files before anybody names
them. Generations only count up, so a rollback is a new generation with old content.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from typing import Final

from pipeline.base.errors import ConfigurationError, CorruptIndex
from pipeline.blobs import BlobStore
from pipeline.index.draft import Draft
from pipeline.index.home import BESIDE, CURRENT, Home
from pipeline.index.manifest import Manifest, Pointer
from pipeline.index.snapshot import Snapshot

log = logging.getLogger(__name__)

PINS: Final = "pins/"
COLLECTED: Final = ("manifests/", "segments/", "deletes/", "shards/")
"""Manifests first: a crash on the way must not leave one behind whose segments are gone."""


# Choosing another generation ------------------------------------------------------------------------------------------


def rollback(home: Home, generation: int) -> Manifest:
    """Serve the content of an earlier generation, and hold it until `resume`. Raises CorruptIndex where it is not kept whole."""
    wanted = home.load(generation)
    Snapshot.open(home, wanted)
    return _republish(home, wanted, note=f"rollback to {generation}", held=True)


def resume(home: Home) -> Manifest | None:
    """Let building go on upon what is served; None where nothing was held."""
    found = home.current()
    return _republish(home, found[0], note="resume", held=False) if found and found[0].held else None


def promote(home: Home, beside: Home) -> Manifest:
    """Serve the index that was built beside this one, and drop the pointer to it."""
    found = beside.current()
    if found is None:
        raise ConfigurationError(f"nothing was built at {beside.pointer_name}", hint="build it first")
    Snapshot.open(home, found[0])
    manifest = _republish(home, found[0], note=f"recipe {found[0].recipe.digest}", held=False)
    beside.blobs.delete(beside.pointer_name)
    return manifest


def _republish(home: Home, content: Manifest, *, note: str, held: bool) -> Manifest:
    found = home.current()
    served = found[0] if found else None
    changes = {
        "generation": max(content.generation, served.generation if served else home.latest_number()) + 1,
        "parent": served.name if served else None,
        "created_at": time.time(),
        "note": note,
        "held": held,
    }
    manifest = home.commit(Draft(Manifest(**{**dict(content), **changes}), (), found[1] if found else ""))
    log.info("generation published", extra={"action": "published", "generation": manifest.generation, "note": note})
    return manifest


# Pins -----------------------------------------------------------------------------------------------------------------


def pin(home: Home, generation: int) -> None:
    """Keep a generation, however many follow it."""
    home.blobs.put(f"{PINS}{generation:08d}", Pointer.to(home.load(generation)).to_bytes())


def unpin(home: Home, generation: int) -> None:
    home.blobs.delete(f"{PINS}{generation:08d}")


def pinned(home: Home) -> list[Manifest]:
    return [
        Home(home.blobs, info.name).read(pointer[0]) for info in home.blobs.list(PINS) if (pointer := Home(home.blobs, info.name).pointer())
    ]


# Collecting -----------------------------------------------------------------------------------------------------------


def gc(home: Home, keep: int, orphan_seconds: float, now: float, *, in_use: Collection[str] = ()) -> list[str]:
    """Delete what no kept generation needs and nobody wrote lately; return the names.

    Kept are the last `keep` generations of CURRENT and of every index built beside it, and those that are pinned.
    `in_use` are further names to keep: the shards that wait for a build. Raises CorruptIndex, and deletes nothing, where
    a pointer or a kept manifest cannot be read.
    """
    kept = list(_kept(home.blobs, max(1, keep)))
    needed = {name for manifest in kept for name in (manifest.name, *manifest.names)} | set(in_use)
    deleted = []
    for prefix in COLLECTED:
        for info in list(home.blobs.list(prefix)):
            if info.name not in needed and info.modified_at < now - orphan_seconds:
                home.blobs.delete(info.name)
                deleted.append(info.name)
    log.info("index collected", extra={"action": "collected", "deleted": len(deleted), "kept": len(kept)})
    return deleted


def _kept(blobs: BlobStore, keep: int) -> Iterator[Manifest]:
    for pointer in (CURRENT, *(info.name for info in blobs.list(BESIDE))):
        yield from Home(blobs, pointer).generations(keep)
    yield from pinned(Home(blobs))


# Verifying ------------------------------------------------------------------------------------------------------------


def verify_digests(home: Home) -> list[str]:
    """Read every file of the served generation; return a sentence per problem."""
    try:
        found = Home(home.blobs, home.pointer_name).current()
    except CorruptIndex as error:
        return [str(error)]
    problems = []
    for ref in found[0].segments if found else ():
        fresh = Home(home.blobs, home.pointer_name)  # remembers no earlier verification
        for name, file in ref.files.items():
            try:
                fresh.open_file(name, file)
            except CorruptIndex as error:
                problems.append(str(error))
        try:
            fresh.dead_rows(ref)
        except CorruptIndex as error:
            problems.append(str(error))
    return problems
