from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import CorruptIndex
from pipeline.index.deletes import decode, encode


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_bits_and_back(bits: list[bool]) -> None:
    dead = np.array(bits)
    np.testing.assert_array_equal(decode(encode(dead), len(bits)), dead)


def test_one_delete_among_a_million_costs_next_to_nothing() -> None:
    dead = np.zeros(1_000_000, np.bool_)
    dead[777_777] = True
    assert len(encode(dead)) < 2_000


@given(st.binary(max_size=50), st.integers(1, 1000))
def test_strange_bytes_are_a_corrupt_index(data: bytes, rows: int) -> None:
    with pytest.raises(CorruptIndex):
        decode(data, rows)


@pytest.mark.parametrize(
    "data", [zlib.compress(b"\0" * 10**8), zlib.compress(b"\0"), encode(np.zeros(16, np.bool_))[:-1], encode(np.zeros(16, np.bool_)) + b"x"]
)
def test_a_bitmap_of_another_size_is_a_corrupt_index(data: bytes) -> None:
    with pytest.raises(CorruptIndex):
        decode(data, 16)
