"""What a document costs in instructions, stage by stage, for the stages that need no server. Counted by callgrind.

A count is the same today and tomorrow, however busy the machine is, so that it shows what a change of the code did.
`python -m benchmarks.instructions STAGE REPEATS` prepares the stage's documents and goes through them so often. It runs
under valgrind once and three times over, and the difference is the stage: starting and preparing fall out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.report import Row

DOCUMENTS = 300
WORDS = 100
SAME_EVERY_TIME = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
"""Threads that wait for work count instructions by the second."""

COLLECTED = re.compile(r"Collected : (\d+)")


def instructions() -> Iterator[Row]:
    if not shutil.which("valgrind"):
        print("  not counted, as valgrind is not installed here: apt install valgrind")
        return  # the other benchmarks of the run need none
    for stage in STAGES:
        yield Row(f"{stage}, per document of {WORDS} words", (_counted(stage, 3) - _counted(stage, 1)) / (2 * DOCUMENTS), "instructions")


def _counted(stage: str, repeats: int) -> int:
    """Instructions of a whole process that goes through the stage `repeats` times."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--error-exitcode=1"]
        command = [*valgrind, sys.executable, "-m", __name__, stage, str(repeats)]
        done = subprocess.run(command, env={**os.environ, **SAME_EVERY_TIME}, capture_output=True, text=True, check=True)
    found = COLLECTED.search(done.stderr)
    assert found, done.stderr
    return int(found[1])


# In the process that is counted --------------------------------------------------------------------------------------


def _listing(folder: Path) -> Callable[[], object]:
    from pipeline.sources.folder.source import FolderSource

    corpus.fill(folder, DOCUMENTS, WORDS)
    source = FolderSource(folder)
    return lambda: list(source.list())


def _comparing(folder: Path) -> Callable[[], object]:
    """Entries as Redis has them, against a listing that says the same."""
    from pipeline.base.model import Entry, Known, Listed, State
    from pipeline.relay.reconcile import differences

    uris = [f"file:///in/{number:06}.txt" for number in range(DOCUMENTS)]
    texts = [Entry(uri, State.PRESENT, 1, "1", content_hash="0" * 64, media_type="text/plain", passages=1).to_json() for uri in uris]
    lines = [Listed(uri, "1", 1) for uri in uris]
    return lambda: list(differences(lines, filter(None, map(Known.from_json, uris, texts))))


def _reading(folder: Path) -> Callable[[], object]:
    from pipeline.sources.folder.source import FolderSource

    corpus.fill(folder, DOCUMENTS, WORDS)
    source = FolderSource(folder)
    uris = [line.uri for line in source.list()]
    return lambda: [source.read(uri) for uri in uris]


def _splitting(_: Path) -> Callable[[], object]:
    from pipeline.embedder import PACKAGED, open_embedder
    from pipeline.text import Splitter

    embedder = open_embedder(PACKAGED)
    splitter, texts = Splitter(embedder.tokenizer, embedder.window), list(corpus.texts(DOCUMENTS, WORDS))
    return lambda: splitter.split_many(texts)


def _sharding(_: Path) -> Callable[[], object]:
    from benchmarks.synthetic import documents
    from pipeline.index.shard import ShardDocument, encode

    made = [ShardDocument(d.content_hash, d.passages, d.vectors) for d in documents(0, DOCUMENTS, 1, _chance())]
    return lambda: encode(made)


def _writing(folder: Path) -> Callable[[], object]:
    from benchmarks.synthetic import documents
    from pipeline.index.segment import write

    made = documents(0, DOCUMENTS, 1, _chance())

    def once() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write(Path(place), made, exact_rows=10**6, target_recall=0.98)

    return once


def _chance() -> np.random.Generator:
    return np.random.default_rng(1)


STAGES = {
    "list a folder": _listing,
    "compare with the ledger": _comparing,
    "read a file": _reading,
    "split": _splitting,
    "write into a shard": _sharding,
    "write into a segment": _writing,
}


def main(stage: str, repeats: int) -> None:
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        once = STAGES[stage](Path(folder))
        for _ in range(repeats):
            once()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
