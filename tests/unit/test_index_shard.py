from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_support import passages_of, vectors_of

from pipeline.base.errors import CorruptIndex
from pipeline.base.model import Passage
from pipeline.index.shard import ShardDocument, decode, encode

WORDS = ["apple", "pear", "plum", "äöü \0 😀"]


def shard_document(word: str) -> ShardDocument:
    return ShardDocument(word, passages_of(word), vectors_of(word))


def test_what_was_encoded_comes_back() -> None:
    documents = decode(encode([shard_document(word) for word in WORDS]))
    assert list(documents) == WORDS
    for word in WORDS:
        assert documents[word].passages == passages_of(word)
        np.testing.assert_array_equal(documents[word].vectors, vectors_of(word))


def test_an_empty_shard_and_an_empty_document_are_legal() -> None:
    empty = ShardDocument("nothing", (), np.empty((0, 16), np.float32))
    assert decode(encode([])) == {}
    assert decode(encode([empty]))["nothing"].passages == ()
    assert len(decode(encode([empty, shard_document("pear")]))["pear"].vectors) == len(vectors_of("pear"))


def test_a_lone_surrogate_does_not_stop_the_shard() -> None:
    [document] = decode(encode([ShardDocument("h", (Passage("a\ud800b", 0, 3),), vectors_of("x", 1))])).values()
    assert document.passages == (Passage("a?b", 0, 3),)


@pytest.mark.parametrize("vectors", [vectors_of("x", 2), np.full((1, 16), np.nan, np.float32), np.zeros(16, np.float32)])
def test_vectors_must_be_finite_and_as_many_as_passages(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one finite vector per passage"):
        encode([ShardDocument("h", (Passage("a", 0, 1),), vectors)])


@given(st.binary(max_size=300))
def test_strange_bytes_are_a_corrupt_index(data: bytes) -> None:
    with pytest.raises(CorruptIndex):
        decode(data)


@given(st.data())
def test_damage_is_noticed_or_harmless_but_never_another_error(data: st.DataObject) -> None:
    good = bytearray(encode([shard_document(word) for word in WORDS]))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 8))
    try:
        documents = decode(bytes(good[: len(good) - cut]))
    except CorruptIndex:
        return
    assert all(len(document.passages) == len(document.vectors) for document in documents.values())
