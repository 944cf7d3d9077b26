"""Text to passages that fit the model's window, special tokens counted. Pure; every passage is text[start:end].

Most documents fit the window and are one passage: all of them are measured in one call of the tokenizer. Longer ones are
tokenised once, and the offsets of the tokens say how far each passage may reach; it ends at the best break of its second
half. The tokens of every passage are handed on to the embedder, which plans with them and need not look for them again.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.base.errors import ConfigurationError
from pipeline.base.model import Passage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION: Final = 1
"""Raised when the same text would be cut into other passages."""

_MIN_WINDOW: Final = 16
"""Tokens: one visible character can take several, and special tokens some more."""

_CHARS_PER_TOKEN: Final = 12
"""Characters per token of window that a passage may have at the most. Prose has 4 to 5, but a megabyte without a space is
one unknown token, and so is a megabyte of spaces none."""

_WINDOWS_AT_ONCE: Final = 16
"""Longest passages that are tokenised together; bounds the memory that the offsets of a long text take."""

_BREAKS: Final = (("\n\n", "\r\n\r\n"), ("\n",), (". ", "! ", "? ", "。", "！", "？"), (" ", "\t", "\u3000"))
"""Where a passage should end, best first: paragraph, line, sentence, word."""

_BATCH: Final = 1_024
"""Texts per call of the tokenizer; bounds the memory that the encodings take."""

_LONGEST_CHARACTER: Final = 8
"""Code points that are looked back over for the beginning of a character with its accents."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_VISIBLE: Final = re.compile(r"\S")


class Piece(NamedTuple):
    """A passage and the ids of its tokens, special tokens included (a number per character, where there is no tokenizer)."""

    passage: Passage
    ids: Sequence[int]


class _Cut(NamedTuple):
    document: int
    start: int
    text: str


class Splitter:
    """Cuts texts for one model. Without a tokenizer, `max_tokens` are characters. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer | None, max_tokens: int) -> None:
        if max_tokens < _MIN_WINDOW:
            raise ConfigurationError(
                f"a passage of {max_tokens} tokens is too short", hint=f"set DROPDEX_PASSAGE_TOKENS to {_MIN_WINDOW} or more"
            )
        self._window = max_tokens
        self._tokenizer = _unbounded(tokenizer)
        self._room = max_tokens - (self._tokenizer.num_special_tokens_to_add(False) if self._tokenizer else 0)
        self._max_chars = max_tokens * (_CHARS_PER_TOKEN if tokenizer else 1)

    def split(self, text: str) -> list[Passage]:
        """The passages of one text, in order, without overlap; what lies between them is white space."""
        return [piece.passage for piece in self.split_many([text])[0]]

    def split_many(self, texts: Sequence[str]) -> list[list[Piece]]:
        """The passages of each text. A lone surrogate, which no tokenizer takes, becomes the replacement character."""
        whole = [_trimmed(number, 0, _without_surrogates(text)) for number, text in enumerate(texts)]
        short = [cut for cut in whole if cut.text and len(cut.text) <= self._max_chars]
        found = dict(zip((cut.document for cut in short), self._ids([cut.text for cut in short]), strict=True))
        pieces: list[list[Piece]] = []
        for cut in whole:
            ids = found.get(cut.document)
            if ids is not None and len(ids) <= self._window:
                pieces.append([_piece(cut, ids)])
            else:
                pieces.append(list(self._pieces(cut)))
        return pieces

    def _pieces(self, long: _Cut) -> Iterator[Piece]:
        cuts = list(self._cuts(long))
        for cut, ids in zip(cuts, self._ids([cut.text for cut in cuts]), strict=True):
            if len(ids) <= self._window:
                yield _piece(cut, ids)
            else:
                yield from self._halves(cut)

    def _cuts(self, long: _Cut) -> Iterator[_Cut]:
        """Passages as the tokens of the whole text promise that they fit; where a cut changes tokens, one may not."""
        text, start = long.text, 0
        while start < len(text):
            stretch = text[start : start + _WINDOWS_AT_ONCE * self._max_chars]
            ends, last = self._ends(stretch), start + len(stretch) == len(text)
            here = 0
            while visible := _VISIBLE.search(stretch, here):
                here = visible.start()
                end = self._reach(stretch, ends, here)
                if end == len(stretch) and not last:
                    break  # what follows may fit as well
                yield _trimmed(long.document, long.start + start + here, stretch[here:end])
                here = end
            else:
                here = len(stretch)
            start += here

    def _reach(self, text: str, ends: Sequence[int], start: int) -> int:
        """Where the passage that begins at `start` ends, given where each token ends."""
        beyond = bisect_right(ends, start) + self._room
        limit = ends[beyond - 1] if beyond < len(ends) else len(text)
        limit = min(limit, start + self._max_chars)
        return limit if limit == len(text) else _break(text, start, limit)

    def _ends(self, text: str) -> Sequence[int]:
        """For each token, the offset behind its last character."""
        if self._tokenizer is None:
            return range(1, len(text) + 1)
        return [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def _halves(self, cut: _Cut) -> Iterator[Piece]:
        """Cutting a word that was unknown as a whole can uncover tokens; then the passage no longer fits."""
        middle = len(cut.text) // 2
        halves = [_trimmed(cut.document, cut.start, cut.text[:middle]), _trimmed(cut.document, cut.start + middle, cut.text[middle:])]
        halves = [half for half in halves if half.text]
        for half, ids in zip(halves, self._ids([half.text for half in halves]), strict=True):
            if len(ids) <= self._window or len(half.text) == 1:
                yield _piece(half, ids)
            else:
                yield from self._halves(half)

    def _ids(self, texts: list[str]) -> list[Sequence[int]]:
        if self._tokenizer is None:
            return [range(len(text)) for text in texts]
        batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
        return [array("i", encoding.ids) for batch in batches for encoding in self._tokenizer.encode_batch_fast(batch)]


def _unbounded(tokenizer: Tokenizer | None) -> Tokenizer | None:
    """A copy that neither truncates nor pads: many models' own does both, and every count would come out as the window."""
    if tokenizer is None:
        return None
    copy: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _trimmed(document: int, start: int, text: str) -> _Cut:
    stripped = text.lstrip()
    return _Cut(document, start + len(text) - len(stripped), stripped.rstrip())


def _piece(cut: _Cut, ids: Sequence[int]) -> Piece:
    return Piece(Passage(cut.text, cut.start, cut.start + len(cut.text)), ids)


def _break(text: str, start: int, limit: int) -> int:
    """The best place to end a passage of text[start:limit] in its second half; white space at `limit` ends a word there."""
    middle = start + (limit - start) // 2
    for marks in _BREAKS:
        end = max(_behind(text, mark, middle, limit) for mark in marks)
        if end > middle:
            return end
    end = limit
    while start < end - 1 and limit - end < _LONGEST_CHARACTER and unicodedata.category(text[end]).startswith("M"):
        end -= 1
    return end


def _behind(text: str, mark: str, start: int, limit: int) -> int:
    """The offset behind the last `mark` that leaves nothing visible behind `limit`; 0 where there is none."""
    found = text.rfind(mark, start, limit + mark[-1].isspace())
    return found + len(mark) if found >= 0 else 0
