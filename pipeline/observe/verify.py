"""Is the index right? Its files against their digests, and its documents against the sources, both ways, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pipeline.base.errors import DocumentError, DocumentInMotion
from pipeline.base.model import Content, Listed
from pipeline.context import Context
from pipeline.index.documents import StoredDocument
from pipeline.index.snapshot import Snapshot
from pipeline.index.upkeep import verify_digests
from pipeline.sources import Source


def problems(context: Context) -> Iterator[str]:
    """A sentence per problem, none where all is well. Reads every document of the sources once."""
    broken = verify_digests(context.home)
    yield from broken
    found = None if broken else context.home.current()
    snapshot = Snapshot.open(context.home, found[0]) if found else None
    if broken:
        return
    roots = tuple(source.root for source in context.sources)
    for document in snapshot.documents() if snapshot else ():
        if not document.uri.startswith(roots):
            yield f"{document.uri} is in the index, but no source is configured for it"
    for source in context.sources:
        stored = (document for document in (snapshot.documents() if snapshot else ()) if document.uri.startswith(source.root))
        yield from compare(context, source, source.list(), stored)


def compare(context: Context, source: Source, listing: Iterator[Listed], stored: Iterator[StoredDocument]) -> Iterator[str]:
    """Merge one source's listing with the index's documents, both ascending."""
    there, here = next(listing, None), next(stored, None)
    while there or here:
        if there and (here is None or there.uri.encode() < here.uri.encode()):
            if not context.ledger.dead_letter(there.uri):
                yield f"{there.uri} is in the source, but not in the index"
            there = next(listing, None)
        elif here and (there is None or here.uri.encode() < there.uri.encode()):
            yield f"{here.uri} is in the index, but not in the source"
            here = next(stored, None)
        elif here:
            if not _same(source, here) and not context.ledger.dead_letter(here.uri):
                yield f"{here.uri} has other content in the source than in the index"
            there, here = next(listing, None), next(stored, None)


def _same(source: Source, document: StoredDocument) -> bool:
    try:
        content = source.read(document.uri)
    except (DocumentError, DocumentInMotion):
        return False
    return isinstance(content, Content) and hashlib.sha256(content.data).hexdigest() == document.content_hash
