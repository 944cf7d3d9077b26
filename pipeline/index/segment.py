"""One immutable segment: vectors in `index.faiss`, everything about them in `passages.sqlite`. Knows no deletes.

Documents lie in ascending order of their uri, and their rows with them: a prefix of the uri is a range of rows, and
all segments together can be read as one sorted stream. The database is opened immutable, so it takes no locks, and it
stays readable after its file was unlinked.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import CorruptIndex
from pipeline.base.model import Passage
from pipeline.index.ann import Builder, Built, VectorIndex
from pipeline.index.documents import IndexedDocument, StoredDocument
from pipeline.index.manifest import INDEX_FILE, PASSAGES_FILE, SegmentRef

SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
BEGIN;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, version TEXT NOT NULL, content_hash TEXT NOT NULL,
    stamp INTEGER NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL, modified_at REAL NOT NULL,
    first_row INTEGER NOT NULL, rows INTEGER NOT NULL
);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, text TEXT NOT NULL
);
"""
FINISH: Final = ("CREATE INDEX documents_content ON documents (content_hash)", "COMMIT")
"""The writer needs neither journal nor fsync: a file that was not finished is never published, and `put` brings it to the disk."""
FACTS: Final = "uri, version, content_hash, stamp, size, media_type, modified_at, first_row, rows"
BATCH: Final = 256
"""Documents that are written or read at a time."""
ASKED: Final = 1000
"""Values per IN list; SQLite allows 32,766."""
LAST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What `write` wrote."""

    rows: int
    documents: int
    dimension: int
    built: Built
    index: Path
    passages: Path


def write(directory: Path, documents: Iterable[IndexedDocument], *, exact_rows: int, target_recall: float) -> SegmentFacts:
    """Write both files of a segment into `directory`. Texts are streamed; vectors are held, in float16.

    `documents` come in ascending order of their uri, each with at least one passage; ValueError otherwise.
    """
    vectors, number, last = Builder(), 0, ""
    with closing(sqlite3.connect(directory / PASSAGES_FILE, isolation_level=None)) as database:
        database.executescript(SCHEMA)
        stream = iter(documents)
        while batch := list(islice(stream, BATCH)):
            for previous, document in zip([last, *(d.uri for d in batch)], batch, strict=False):
                _check(previous, document)
            _insert(database, batch, number, vectors.rows)
            vectors.add(np.concatenate([document.vectors for document in batch]))
            number, last = number + len(batch), batch[-1].uri
        for statement in FINISH:
            database.execute(statement)
    built = vectors.write(directory / INDEX_FILE, exact_rows=exact_rows, target_recall=target_recall)
    return SegmentFacts(vectors.rows, number, vectors.dimension, built, directory / INDEX_FILE, directory / PASSAGES_FILE)


def _check(previous: str, document: IndexedDocument) -> None:
    if document.uri <= previous:
        raise ValueError(f"{document.uri} came after {previous}: documents of a segment are sorted by uri and distinct")
    if not document.passages or len(document.passages) != len(document.vectors):
        raise ValueError(f"{document.uri} needs passages, and one vector for each")


def _insert(database: sqlite3.Connection, batch: Sequence[IndexedDocument], number: int, row: int) -> None:
    documents: list[tuple[Any, ...]] = []
    passages: list[tuple[Any, ...]] = []
    for d in batch:
        facts = (d.uri, d.version, d.content_hash, d.stamp, d.size, d.media_type, d.modified_at)
        documents.append((number, *facts, row, len(d.passages)))
        for passage in d.passages:
            passages.append((row, number, passage.start, passage.end, passage.text))
            row += 1
        number += 1
    database.executemany("INSERT INTO documents VALUES (?,?,?,?,?,?,?,?,?,?)", documents)
    database.executemany("INSERT INTO passages VALUES (?,?,?,?,?)", passages)


@dataclass(frozen=True, slots=True)
class Facets:
    """Columns that searches filter by, one element per document."""

    rows: npt.NDArray[np.int64]
    modified_at: npt.NDArray[np.float64]
    media_type: npt.NDArray[np.object_]


class Segment:
    """An opened segment, shared by every snapshot that lists it. Safe to use from several threads."""

    def __init__(self, ref: SegmentRef, index: Path, passages: Path) -> None:
        self.id = ref.id
        self.rows = ref.rows
        self._lock = threading.Lock()
        self._database = _connect(passages)
        weakref.finalize(self, self._database.close)
        self.vectors = VectorIndex(index, ref.index_type, ref.breadth)
        self.dimension = self.vectors.dimension
        if self.vectors.rows != ref.rows or (ref.rows, ref.documents) != self._counts():
            raise CorruptIndex(f"segment {ref.id} does not have the rows that its manifest says")

    def _counts(self) -> tuple[int, int]:
        """Rows are numbered without gaps, so the last number tells, without a walk through the table."""
        [(row, number)] = self._query("SELECT (SELECT max(row) FROM passages), (SELECT max(number) FROM documents)")
        return (-1 if row is None else row) + 1, (-1 if number is None else number) + 1

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptIndex(f"segment {self.id} cannot be read: {error}") from error

    def _stored(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[StoredDocument]:
        return (StoredDocument(*(*row, self.id)) for row in rows)

    # Documents ----------------------------------------------------------------------------------------------------

    def documents(self) -> Iterator[StoredDocument]:
        """All of them, dead or alive, in ascending order of the uri."""
        number = 0
        while batch := self._query(f"SELECT {FACTS} FROM documents WHERE number >= ? ORDER BY number LIMIT ?", (number, BATCH)):  # noqa: S608
            yield from self._stored(batch)
            number += len(batch)

    def by_uri(self, uris: Sequence[str]) -> Iterator[StoredDocument]:
        return self._asked("uri", uris)

    def by_content(self, hashes: Sequence[str]) -> Iterator[StoredDocument]:
        return self._asked("content_hash", hashes)

    def _asked(self, column: str, values: Sequence[str]) -> Iterator[StoredDocument]:
        for first in range(0, len(values), ASKED):
            asked = values[first : first + ASKED]
            marks = ",".join("?" * len(asked))
            yield from self._stored(self._query(f"SELECT {FACTS} FROM documents WHERE {column} IN ({marks})", asked))  # noqa: S608

    def holding(self, rows: Sequence[int]) -> dict[int, tuple[StoredDocument, Passage]]:
        """Row → its document and passage."""
        found: dict[int, tuple[StoredDocument, Passage]] = {}
        for first in range(0, len(rows), ASKED):
            asked = rows[first : first + ASKED]
            sql = (
                f'SELECT row, text, start, "end", {FACTS} FROM passages JOIN documents ON number = document '  # noqa: S608
                f"WHERE row IN ({','.join('?' * len(asked))})"
            )
            for row, text, start, end, *facts in self._query(sql, asked):
                found[row] = (StoredDocument(*(*facts, self.id)), Passage(text, start, end))
        return found

    # Content ------------------------------------------------------------------------------------------------------

    def content(self, document: StoredDocument) -> IndexedDocument:
        return next(self.contents([document]))

    def contents(self, documents: Iterable[StoredDocument]) -> Iterator[IndexedDocument]:
        """Passages and vectors of documents in ascending order of their rows, a batch at a time."""
        stream = iter(documents)
        while batch := list(islice(stream, BATCH)):
            passages = self._passages(batch)
            rows = np.concatenate([np.arange(d.first_row, d.end_row) for d in batch])
            vectors, at = self.vectors.vectors_of(rows), 0
            for d in batch:
                texts = tuple(passages[row] for row in range(d.first_row, d.end_row))
                yield IndexedDocument.of(d, texts, vectors[at : at + d.rows])
                at += d.rows

    def _passages(self, documents: Sequence[StoredDocument]) -> dict[int, Passage]:
        """One query where the documents lie close together (a merge), one each where they are scattered (copies)."""
        spans = [(documents[0].first_row, documents[-1].end_row)]
        if spans[0][1] - spans[0][0] > 2 * sum(d.rows for d in documents):
            spans = [(d.first_row, d.end_row) for d in documents]
        sql = 'SELECT row, text, start, "end" FROM passages WHERE row >= ? AND row < ?'
        return {row: Passage(*passage) for span in spans for row, *passage in self._query(sql, span)}

    # Filters ------------------------------------------------------------------------------------------------------

    def rows_under(self, prefix: str) -> tuple[int, int]:
        """First and end row of the documents whose uri starts with `prefix`."""
        return self._first_row_from(prefix), self._first_row_from(prefix + LAST)

    def _first_row_from(self, uri: str) -> int:
        found = self._query("SELECT first_row FROM documents WHERE uri >= ? ORDER BY uri LIMIT 1", (uri,))
        return int(found[0][0]) if found else self.rows

    @cached_property
    def facets(self) -> Facets:
        """Read on the first filtered search, not at opening: most readers never filter."""
        columns = self._query("SELECT rows, modified_at, media_type FROM documents ORDER BY number")
        rows, modified, media = zip(*columns, strict=True)
        return Facets(np.array(rows, np.int64), np.array(modified, np.float64), np.array(media, np.object_))


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False, isolation_level=None)
    except sqlite3.DatabaseError as error:
        raise CorruptIndex(f"{path.name} cannot be opened: {error}") from error
