"""Every hostile document ends in its stated outcome, and its neighbours are found as if it were not there."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest
from redis import Redis

from pipeline.base.errors import DocumentError
from pipeline.base.model import Content, DeadLetter
from pipeline.index.home import Home
from pipeline.index.snapshot import Snapshot
from pipeline.sources.folder.source import FolderSource
from pipeline.sources.names import path_to_uri
from tests.data.hostile import KINDS, LIMITS, path_of, write
from tests.data.stated import Absent, Dead, Kind, Searchable
from tests.support import Pipeline, broker_of

NEIGHBOURS = 12


@dataclass
class Aftermath:
    """What became of everything that was dropped."""

    pipeline: Pipeline
    made: set[str]
    texts: dict[str, str]
    letters: dict[str, DeadLetter]
    before: set[str]
    """What lay beside the watched folder before anything was read."""

    def uri(self, kind: Kind) -> str:
        return path_to_uri(self.pipeline.folder.root, kind.name)


@pytest.fixture(scope="module")
def aftermath(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """All of them, with good neighbours between them, listed and looked at in batches as a relay makes them."""
    root = tmp_path_factory.mktemp("hostile").resolve()
    with Redis.from_url(valkey) as redis:
        redis.flushall()
    with Pipeline(root, broker_of(valkey), namespace="hostile", **LIMITS) as pipeline:
        for number in range(NEIGHBOURS):
            pipeline.folder.put(f"good-{number}.txt", f"a good neighbour, number {number}")
        made = {kind.what for kind in write(pipeline.folder.path)}
        before = {path.name for path in root.iterdir()}
        uris = sorted({path_to_uri(pipeline.folder.root, kind.name) for kind in KINDS} | {event.uri for event in pipeline.differences()})
        size = -(-len(uris) // NEIGHBOURS)
        for start in range(0, len(uris), size):  # what is no document is asked for, too, as an event might
            pipeline.look(pipeline.folder.uri(f"good-{start // size}.txt"), *uris[start : start + size])
        pipeline.build()
        found = Home(pipeline.context.blobs).current()
        assert found
        snapshot = Snapshot.open(Home(pipeline.context.blobs), found[0])
        texts = {d.uri: "\n".join(passage.text for passage in snapshot.content(d).passages) for d in snapshot.documents()}
        letters = {letter.uri: letter for letter in pipeline.context.ledger.dead_letters()}
        yield Aftermath(pipeline, made, texts, letters, before)


def test_there_are_enough_kinds_and_each_has_a_name_of_its_own() -> None:
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len({kind.what for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_ends_as_stated(aftermath: Aftermath, kind: Kind) -> None:
    if kind.what not in aftermath.made:
        pytest.skip("this machine cannot make it")
    uri = aftermath.uri(kind)
    text, letter = aftermath.texts.get(uri), aftermath.letters.get(uri)
    match kind.outcome:
        case Searchable(says, never):
            assert letter is None, letter
            assert text
            assert says in text
            assert never not in text
        case Dead(reason):
            assert text is None
            assert letter
            assert reason in letter.reason
            assert letter.reason.isprintable()
            assert len(letter.reason) < 600
        case Absent():
            assert text is None
            assert letter is None


def test_no_neighbour_is_touched(aftermath: Aftermath) -> None:
    good = {aftermath.pipeline.folder.uri(f"good-{number}.txt"): f"a good neighbour, number {number}" for number in range(NEIGHBOURS)}
    assert good.items() <= aftermath.texts.items()


def test_nothing_is_left_to_do_and_nothing_is_retried(aftermath: Aftermath) -> None:
    counts = aftermath.pipeline.context.ledger.counts()
    assert counts["noticed"] == counts["settled"] == 0
    assert counts["dead"] == sum(isinstance(kind.outcome, Dead) for kind in KINDS if kind.what in aftermath.made)
    assert aftermath.pipeline.differences() == []
    assert aftermath.pipeline.handed_over == []


def test_no_document_wrote_a_file_anywhere(aftermath: Aftermath) -> None:
    assert {path.name for path in aftermath.pipeline.root.iterdir()} - aftermath.before <= {"index", "state"}
    inbox = aftermath.pipeline.folder.path
    written = {folder + b"/" + name for folder, _, names in os.walk(os.fsencode(inbox)) for name in names if not name.startswith(b"good-")}
    assert written <= {path_of(inbox, kind) for kind in KINDS}


# What is hostile in time or in place, and so no file that a script could leave there -----------------------------------


@pytest.fixture
def pipeline(valkey: str, redis_client: Redis, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(tmp_path, broker_of(valkey), **LIMITS) as running:
        yield running


def test_a_file_that_grows_while_it_is_read_is_nobodys_fault(pipeline: Pipeline) -> None:
    # Given a file that somebody goes on appending to
    uri, good = pipeline.folder.uri("grows.log"), pipeline.folder.put("good.txt", "a good neighbour")
    stop = Event()

    def grow() -> None:
        with (pipeline.folder.path / "grows.log").open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"one more line\n")
                time.sleep(0.0005)

    writer = Thread(target=grow)
    writer.start()
    try:
        # When it is looked at meanwhile, it is left for later, or was caught in a quiet moment
        for _ in range(5):
            pipeline.look(uri, good)
    finally:
        stop.set()
        writer.join()
    assert list(pipeline.context.ledger.dead_letters()) == []
    assert all(batch == [uri] for batch in pipeline.handed_over)
    # Then it is found as it is in the end
    pipeline.index(uri)
    assert pipeline.published() == pipeline.folder.contents()


@pytest.mark.parametrize("order", [1, -1], ids=["the telling name first", "the telling name last"])
@pytest.mark.parametrize(("telling", "silent"), [("letter.eml", "letter.eml.old"), ("drawing.xml", "drawing.svg"), ("a.txt", "a.png")])
def test_a_copy_with_a_worse_name_takes_no_document_along(pipeline: Pipeline, telling: str, silent: str, order: int) -> None:
    content = "Subject: words\n\nthe same bytes under two names"
    uris = [pipeline.folder.put(name, content) for name in (telling, silent)]
    pipeline.index(*uris[::order])
    assert pipeline.folder.uri(telling) in pipeline.published()


def test_a_file_that_cannot_be_opened_is_dead_until_it_can() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        secret = root / "secret.txt"
        secret.write_text("words")
        secret.chmod(0)
        source = FolderSource(root)
        uri = source.root + "secret.txt"
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything
        try:
            with pytest.raises(DocumentError, match="cannot be read: Permission denied") as caught:
                source.read(uri)
        finally:
            os.seteuid(user)
        assert caught.value.version == next(iter(source.list())).version
        secret.chmod(0o644)
        found = source.read(uri)
        assert isinstance(found, Content)
        assert found.data == b"words"
