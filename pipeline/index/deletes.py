"""Which rows of a segment no longer count: one bit per row, compressed, because a segment itself never changes.

One delete in a segment of a million rows costs a few hundred bytes. Malformed bytes are CorruptIndex, and never more
memory than the segment has rows.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import CorruptIndex

Rows = npt.NDArray[np.bool_]


def encode(dead: Rows) -> bytes:
    """Level 1: the bitmap is nearly all zeros, and a build waits for this."""
    return zlib.compress(np.packbits(dead, bitorder="little").tobytes(), level=1)


def decode(data: bytes, rows: int) -> Rows:
    """The inverse of `encode`. Raises CorruptIndex."""
    size = (rows + 7) // 8
    inflate = zlib.decompressobj()
    try:
        packed = inflate.decompress(data, size + 1)
    except zlib.error as error:
        raise CorruptIndex(f"a deletes bitmap cannot be read: {error}") from error
    if len(packed) != size or not inflate.eof or inflate.unused_data:
        raise CorruptIndex(f"a deletes bitmap does not fit its segment of {rows} rows")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=rows, bitorder="little").astype(np.bool_)
