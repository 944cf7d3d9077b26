"""The composition root: settings → ledger, home, sources, embedder, writer, sinks. Builds each once, when asked.

A process that never embeds never loads a model, and one that never searches never loads FAISS: everything here is lazy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from pipeline.base import settings as settings_module
from pipeline.base.errors import ConfigurationError, Unavailable
from pipeline.base.model import Entry, State
from pipeline.base.settings import Settings
from pipeline.broker.valkey import broker_url
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger

if TYPE_CHECKING:
    from redis import Redis

    from pipeline.base.meter import Meter
    from pipeline.blobs import BlobStore
    from pipeline.embedder import Embedder
    from pipeline.index.documents import StoredDocument
    from pipeline.index.home import Home
    from pipeline.index.recipe import Recipe
    from pipeline.index.writer import Writer
    from pipeline.sinks import Sink
    from pipeline.sources import Source
    from pipeline.text import Extractor, Splitter

log = logging.getLogger(__name__)

QUEUES = ("embedding", "indexing", "maintenance")
"""In the order in which a worker that serves several takes from them. Redis ignores queue priorities and reads message
priorities backwards, so the order of the queues is the priority."""


SEED_SECONDS = 10.0
"""How long a process that teaches the ledger is believed to be alive; renewed at a third of it."""

SEED_PAUSE = 0.05
"""Seconds between two looks whether another process has taught the ledger."""


class Context:
    """Everything a process of the pipeline may need, built on first use and kept."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._writers: dict[str, Writer] = {}

    # Redis --------------------------------------------------------------------------------------------------------

    @cached_property
    def redis(self) -> Redis:
        from redis import Redis
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry

        _, url = broker_url(self.settings.broker.get_secret_value())
        return Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=30,  # a frozen server must not hold us for ever
            socket_connect_timeout=5,
            health_check_interval=25,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.02), 6),
        )

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.redis, f"{self.settings.namespace}:{self.recipe.digest}")

    @cached_property
    def meter(self) -> Meter:
        """What this process has to tell Prometheus."""
        from pipeline.base.meter import Meter

        return Meter()

    @contextmanager
    def metering(self) -> Iterator[None]:
        """Whatever happens in the block, its figures are added to the totals. Without Redis they are lost, and nothing else is."""
        try:
            yield
        except Unavailable:
            self.meter.add("errors", service="home")  # a source that is away is counted where it is read
            raise
        except RedisError:
            self.meter.add("errors", service="redis")
            raise
        finally:
            with suppress(RedisError):
                self.ledger.count(self.meter.take())

    def queue_lengths(self) -> dict[str, int]:
        """Messages that wait in each of Celery's queues."""
        return {name: int(self.redis.llen(f"{self.settings.namespace}:celery:{name}")) for name in QUEUES}

    # Documents ----------------------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        return tuple(_open_source(url, self.settings) for url in self.settings.sources)

    def source_of(self, uri: str) -> Source:
        """The source that the uri belongs to. Raises Unavailable: a worker that lacks the watcher's source removes nothing."""
        for source in self.sources:
            if uri.startswith(source.root):
                return source
        raise Unavailable(f"no source is configured here for {uri}", hint="give workers the watcher's DROPDEX_SOURCES")

    @cached_property
    def embedder(self) -> Embedder:
        from pipeline.embedder import open_embedder

        s = self.settings
        return open_embedder(s.model, backend=s.backend, precision=s.precision, token_budget=s.token_budget, threads=s.model_threads)

    @cached_property
    def splitter(self) -> Splitter:
        from pipeline.text import Splitter

        return Splitter(self.embedder.tokenizer, self.settings.passage_tokens or self.embedder.window)

    @cached_property
    def extractor(self) -> Extractor:
        from pipeline.text import Extractor

        s = self.settings
        return Extractor(
            processes=s.extract_processes, seconds=s.extract_seconds, memory_bytes=s.extract_memory_bytes, max_chars=s.max_extracted_chars
        )

    # Index --------------------------------------------------------------------------------------------------------

    @cached_property
    def recipe(self) -> Recipe:
        from pipeline.index.recipe import recipe_for

        return recipe_for(self.settings)

    @cached_property
    def blobs(self) -> BlobStore:
        from pipeline.blobs.open import open_store

        return open_store(self.settings.index, cache_dir=self.scratch / "cache")

    @cached_property
    def home(self) -> Home:
        """The index that readers see."""
        from pipeline.index.home import Home

        return Home(self.blobs)

    def building_home(self) -> Home:
        """The index that our recipe builds: the served one, or one beside it while its recipe is another."""
        current = self.home.current()
        served = current is None or current[0].recipe == self.recipe
        return self.home if served else self._beside

    @cached_property
    def _beside(self) -> Home:
        return self.home.beside(self.recipe.digest)

    def building(self) -> Writer:
        """The writer of that index."""
        home = self.building_home()
        if home.pointer_name not in self._writers:
            self._writers[home.pointer_name] = self._writer(home)
        return self._writers[home.pointer_name]

    def _writer(self, home: Home) -> Writer:
        from pipeline.index.writer import Writer

        s = self.settings
        return Writer(
            home,
            self.recipe,
            scratch=self.scratch,
            exact_rows=s.exact_rows,
            target_recall=s.target_recall,
            merge_factor=s.merge_factor,
        )

    def seed(self) -> str:
        """The ledger's epoch; where it has none, or knows another index than the one we build, it first learns what that holds."""
        while not (epoch := self._remembered()):
            lease = Lease(self.redis, f"{self.ledger.namespace}:seed", SEED_SECONDS)
            with lease.held() as mine:
                if not mine:  # two teachers would mix two generations up
                    time.sleep(SEED_PAUSE)
                elif not self._remembered():
                    with lease.keep():
                        self._teach()
        return epoch

    def _remembered(self) -> str:
        """The ledger's epoch, "" where it knows another index than ours.

        After a change of the recipe and back, a rollback to another recipe, or the loss of the home, it would take documents
        for published that this index lacks. Generations only count up, so an index behind the ledger is another one. So is one
        with a generation that the ledger was not taught and did not intend: whoever built that had another memory.
        """
        home = self.building_home()
        pointer = home.pointer()
        reached, generation = int(self.ledger.noted("generation") or 0), pointer[0].generation if pointer else 0
        known = self.ledger.noted("home") == home.pointer_name and reached <= generation
        built = home.built_since(reached) if known and reached < generation else []
        return self.ledger.epoch() if known and all(manifest.name == self.ledger.noted("intent") for manifest in built) else ""

    def _teach(self) -> None:
        """Forget what the ledger knows, and let it learn what the index holds."""
        writer = self.building()
        snapshot = writer.snapshot()
        generation = snapshot.generation if snapshot else 0
        if self.ledger.epoch():
            log.warning("the ledger knows another index", extra={"action": "seed", "generation": generation})
        self.ledger.clear()  # even without an epoch: whoever taught it may have died half way
        self.ledger.note("home", writer.home.pointer_name)
        self.ledger.note("generation", str(generation))
        epoch = self.ledger.seed(_entry(document, generation) for document in (snapshot.documents() if snapshot else ()))
        log.info("ledger seeded", extra={"action": "seed", "generation": generation, "epoch": epoch})

    # Sinks --------------------------------------------------------------------------------------------------------

    @cached_property
    def sinks(self) -> Mapping[str, Sink]:
        """Every sink but the home itself, by name."""
        from pipeline.blobs.open import open_store
        from pipeline.sinks.announce import Announce
        from pipeline.sinks.mirror import Mirror

        sinks: list[Sink] = [Announce(self.redis, f"{self.settings.namespace}:published")]
        sinks += [Mirror(self.home, open_store(url, cache_dir=self.scratch / "cache")) for url in self.settings.mirrors]
        return {sink.name: sink for sink in sinks}

    @cached_property
    def scratch(self) -> Path:
        """A local folder for files on their way into the home and copies of files on their way out."""
        scratch = self.settings.state.absolute() / "scratch"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o750)
        return scratch


def _entry(document: StoredDocument, generation: int) -> Entry:
    """What the ledger would know of a published document, had it not forgotten it."""
    return Entry(
        document.uri,
        State.PRESENT,
        document.stamp,
        version=document.version,
        content_hash=document.content_hash,
        size=document.size,
        media_type=document.media_type,
        modified_at=document.modified_at,
        passages=document.rows,
        generation=generation,
    )


def _open_source(url: str, settings: Settings) -> Source:
    """file:PATH or s3://bucket/prefix?queue=NAME. Raises ConfigurationError."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        from pipeline.sources.folder.source import FolderSource

        return FolderSource(
            Path(url.partition(":")[2].removeprefix("//")),
            ignore=settings.ignore,
            polling=settings.polling,
            polling_interval=settings.polling_interval,
            settle_after=settings.settle_after,
            max_bytes=settings.max_document_bytes,
        )
    if scheme == "s3":
        from pipeline.sources.s3 import S3Source

        return S3Source.from_url(url, ignore=settings.ignore, max_bytes=settings.max_document_bytes)
    raise ConfigurationError(f"{url} is no source", hint="use file:PATH or s3://bucket/prefix?queue=NAME")


@cache
def current() -> Context:
    """The context of this process, from its environment."""
    return Context(settings_module.load())
