"""Random people, and the oracle: what they did to the source, and nothing of what the pipeline made of it.

Every text is written once in a history, so a passage that is found tells which write it comes from.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from pipeline import Reader
from pipeline.index.home import Home
from pipeline.index.snapshot import Hit, Snapshot
from pipeline.index.upkeep import verify_digests
from tests.support import Folder

FOLDERS = ("", "a/", "b/", "deep/er/")
NAMES = 24
WORDS = ("whale", "mouse", "elephant", "zebra", "lion", "giraffe", "otter", "heron")


class Violation(AssertionError):
    """What must hold did not."""


class Place(Protocol):
    """Where documents lie: a folder, or a bucket."""

    def put(self, name: str, content: str | bytes) -> str: ...
    def remove(self, name: str) -> str: ...
    def rename(self, old: str, new: str) -> tuple[str, str]: ...
    def uri(self, name: str) -> str: ...
    def contents(self) -> dict[str, str]: ...


class BucketPlace:
    """A bucket with the verbs of a folder; a rename is a copy and a removal, as it is in S3."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def uri(self, name: str) -> str:
        return f"s3://{self._bucket}/{name}"

    def put(self, name: str, content: str | bytes) -> str:
        self._client.put_object(Bucket=self._bucket, Key=name, Body=content.encode() if isinstance(content, str) else content)
        return self.uri(name)

    def remove(self, name: str) -> str:
        self._client.delete_object(Bucket=self._bucket, Key=name)
        return self.uri(name)

    def rename(self, old: str, new: str) -> tuple[str, str]:
        self._client.copy_object(Bucket=self._bucket, Key=new, CopySource={"Bucket": self._bucket, "Key": old})
        return self.remove(old), self.uri(new)

    def contents(self) -> dict[str, str]:
        found = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", ())
        bodies = ((item["Key"], self._client.get_object(Bucket=self._bucket, Key=item["Key"])["Body"].read()) for item in found)
        return {self.uri(key): hashlib.sha256(body).hexdigest() for key, body in bodies}


class People:
    """Puts, overwrites, renames, removes and touches documents, and remembers what a query may answer."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self.place, self.chance = place, chance
        self.here: dict[str, str] = {}
        """Name → text of every document."""
        self.written: dict[str, set[str]] = {}
        """Text → uris it was ever written to."""
        self.gone: dict[str, int] = {}
        """Uri → generation that had published its removal."""
        self.contents = 0
        """How many embeddings the operations may cost: new texts, and texts that came back after they had gone."""
        self._parked: list[tuple[str, str, Path]] = []

    def step(self) -> list[str]:
        """One operation; returns the uris that it changed."""
        here = sorted(self.here)
        operations: list[Callable[[], list[str]]] = [self.put, self.put, self.put]
        if here:
            operations += [self.overwrite, lambda: self.remove(self.chance.choice(here)), self.rename, self.touch, self.copy]
        if isinstance(self.place, Folder) and here:
            operations += [self.rename_folder]
        return self.chance.choice(operations)()

    def name(self) -> str:
        return f"{self.chance.choice(FOLDERS)}{self.chance.randrange(NAMES)}.txt"

    def text(self) -> str:
        words = " ".join(self.chance.choices(WORDS, k=5))
        return f"{words} {self.chance.getrandbits(64):x}" + " x" * self.chance.randrange(9)

    def put(self) -> list[str]:
        return [self.write(self.name(), self.text())]

    def overwrite(self) -> list[str]:
        return [self.write(self.chance.choice(sorted(self.here)), self.text())]

    def write(self, name: str, text: str) -> str:
        self.contents += 1
        self._appears(name, text)
        return self.place.put(name, text)

    def _appears(self, name: str, text: str) -> None:
        uri = self.place.uri(name)
        self.gone.pop(uri, None)
        self.written.setdefault(text, set()).add(uri)
        self.here[name] = text

    def remove(self, name: str) -> list[str]:
        del self.here[name]
        return [self.place.remove(name)]

    def rename(self) -> list[str]:
        old, new = self.chance.choice(sorted(self.here)), self.name()
        if old == new:
            return []
        self.contents += 1  # its vectors may be gone by the time that the new name is looked at
        self._appears(new, self.here.pop(old))
        return list(self.place.rename(old, new))

    def copy(self) -> list[str]:
        name, text = self.name(), self.here[self.chance.choice(sorted(self.here))]
        return [self.write(name, text)]

    def touch(self) -> list[str]:
        name = self.chance.choice(sorted(self.here))
        return [self.place.put(name, self.here[name])]

    def rename_folder(self) -> list[str]:
        """Nothing tells of its documents but a listing, or a watch."""
        assert isinstance(self.place, Folder)
        old, new = self.place.path / "a", self.place.path / f"a{self.chance.randrange(3)}"
        if not old.exists() or new.exists():
            old, new = (new, old) if new.exists() and not old.exists() else (old, old)
        if old == new:
            return []
        moved = {name: text for name, text in self.here.items() if name.startswith(f"{old.name}/")}
        for name, text in moved.items():
            self.contents += 1
            del self.here[name]
            self._appears(f"{new.name}/{name.partition('/')[2]}", text)
        old.rename(new)
        return []

    def park(self) -> list[str]:
        """Move a document out of the source, as it is. `unpark` brings it back with the same version."""
        assert isinstance(self.place, Folder)
        name = self.chance.choice(sorted(self.here))
        aside = self.place.path.parent / f"parked-{len(self._parked)}"
        (self.place.path / name).rename(aside)
        self._parked.append((name, self.here.pop(name), aside))
        return [self.place.uri(name)]

    def unpark(self) -> None:
        assert isinstance(self.place, Folder)
        for name, text, aside in self._parked:
            self.contents += 1
            self._appears(name, text)
            aside.rename(self.place.path / name)
        self._parked = []

    def expected(self) -> dict[str, str]:
        """Uri → content hash, by the oracle's own books; the source must agree, else the oracle is wrong."""
        books = {self.place.uri(name): hashlib.sha256(text.encode()).hexdigest() for name, text in self.here.items()}
        assert books == self.place.contents(), "the oracle is wrong"
        return books

    # What a query may answer --------------------------------------------------------------------------------------

    def judge(self, hit: Hit) -> None:
        if hit.uri not in self.written.get(hit.text, ()):
            raise Violation(f"{hit.uri} answered with a text that nobody wrote there: {hit.text[:60]!r}")
        since = self.gone.get(hit.uri)
        if since is not None and hit.generation >= since:
            raise Violation(f"{hit.uri} answered in generation {hit.generation}, its removal was published in {since}")

    def published(self, generation: int) -> None:
        """The index equals the source: from now on nothing else may answer."""
        here = {self.place.uri(name) for name in self.here}
        for uris in list(self.written.values()):
            for uri in uris - here:
                self.gone.setdefault(uri, generation)


class Questioner:
    """Asks all the time, from a thread of its own, and follows the index as every reader does."""

    def __init__(self, index: Any, people: People, *, pause: float = 0.01) -> None:
        self.people, self._pause = people, pause
        self.reader = Reader.open(index, refresh_every=0.02 if index.url.startswith("file:") else 0.3)
        self.asked, self.failures = 0, list[str]()
        self.seen: set[int] = set()
        self._ended = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            self.ask(WORDS[self.asked % len(WORDS)])

    def ask(self, query: str, k: int = 10) -> None:
        try:
            hits = self.reader.search(query, k)
            self.asked += 1
            for hit in hits:
                self.seen.add(hit.generation)
                self.people.judge(hit)
        except Exception as error:
            self.failures.append(repr(error))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.reader.close()


def whole(home: Home) -> list[str]:
    """Sentences on what is wrong with the served generation: every byte against its digest, and it opens."""
    problems = verify_digests(home)
    if not problems and (found := home.current()):
        documents = list(Snapshot.open(home, found[0]).documents())
        if len({document.uri for document in documents}) != len(documents):
            problems.append("a document is served twice")
    return problems


def leftovers(folder: Path) -> Iterator[Path]:
    """Files that no finished step leaves behind."""
    with suppress(FileNotFoundError):
        yield from (path for path in folder.rglob("*") if path.is_file())
