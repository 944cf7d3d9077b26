"""Text to passages that fit the model's window, special tokens counted. Pure; every passage is text[start:end].

Most documents fit the window and are one passage: all of them are measured in one call of the tokenizer. Longer ones are
cut where their structure suggests it. The tokens are counted once and handed on, so that the embedder can plan with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.errors import ConfigurationError
from pipeline.model import Passage

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter
    from tokenizers import Tokenizer

_MIN_WINDOW: Final = 16
"""Tokens: one visible character can take several, and special tokens some more."""

_CHARS_PER_TOKEN: Final = 12
"""Characters per token of window that a passage may have at the most. Prose has 4 to 5, but a megabyte without a space is
one unknown token, and so is a megabyte of spaces none."""

_SECTION_CHARS: Final = 8_000
"""The splitter's work grows with the square of the length where a text has no spaces: 0.02 MB/s at 100,000 characters."""

_BREAKS: Final = ("\n\n", "\n", ". ", "。", " ")
"""Where a section may end, best first."""

_BATCH: Final = 1_024
"""Texts per call of the tokenizer; bounds the memory that the encodings take."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Piece(NamedTuple):
    """A passage and the tokens it takes, special tokens included (characters, where there is no tokenizer)."""

    passage: Passage
    tokens: int


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
        from semantic_text_splitter import TextSplitter

        self._window = max_tokens
        self._tokenizer = _unbounded(tokenizer)
        self._max_chars = max_tokens * (_CHARS_PER_TOKEN if tokenizer else 1)
        self._by_characters = TextSplitter(self._max_chars)
        self._splitter = self._by_characters
        if self._tokenizer is not None:
            special = self._tokenizer.num_special_tokens_to_add(False)
            self._splitter = TextSplitter.from_huggingface_tokenizer(self._tokenizer, max_tokens - special)

    def split(self, text: str) -> list[Passage]:
        """The passages of one text, in order, without overlap; what lies between them is white space."""
        return [piece.passage for piece in self.split_many([text])[0]]

    def split_many(self, texts: Sequence[str]) -> list[list[Piece]]:
        """The passages of each text. A lone surrogate, which no tokenizer takes, becomes the replacement character."""
        whole = [_trimmed(number, 0, _without_surrogates(text)) for number, text in enumerate(texts)]
        short = [cut for cut in whole if cut.text and len(cut.text) <= self._max_chars]
        counts = dict(zip((cut.document for cut in short), self._count([cut.text for cut in short]), strict=True))
        pieces: list[list[Piece]] = []
        for cut in whole:
            tokens = counts.get(cut.document, self._window + 1)
            fits = tokens <= self._window
            pieces.append([_piece(cut, tokens)] if fits else list(self._pieces(cut)))
        return pieces

    def _pieces(self, long: _Cut) -> Iterator[Piece]:
        cuts = [cut for section in _sections(long) for cut in self._cut(self._splitter, section)]
        cuts = [part for cut in cuts for part in (self._cut(self._by_characters, cut) if len(cut.text) > self._max_chars else (cut,))]
        for cut, tokens in zip(cuts, self._count([cut.text for cut in cuts]), strict=True):
            if tokens <= self._window:
                yield _piece(cut, tokens)
            else:
                yield from self._halves(cut)

    def _halves(self, cut: _Cut) -> Iterator[Piece]:
        """Cutting a word that was unknown as a whole can uncover tokens; then the passage no longer fits."""
        middle = len(cut.text) // 2
        halves = [_trimmed(cut.document, cut.start, cut.text[:middle]), _trimmed(cut.document, cut.start + middle, cut.text[middle:])]
        halves = [half for half in halves if half.text]
        for half, tokens in zip(halves, self._count([half.text for half in halves]), strict=True):
            if tokens <= self._window or len(half.text) == 1:
                yield _piece(half, tokens)
            else:
                yield from self._halves(half)

    @staticmethod
    def _cut(splitter: TextSplitter, cut: _Cut) -> list[_Cut]:
        parts = (_trimmed(cut.document, cut.start + start, text) for start, text in splitter.chunk_indices(cut.text))
        return [part for part in parts if part.text]

    def _count(self, texts: list[str]) -> list[int]:
        if self._tokenizer is None:
            return [len(text) for text in texts]
        batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
        return [len(encoding) for batch in batches for encoding in self._tokenizer.encode_batch_fast(batch)]


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


def _piece(cut: _Cut, tokens: int) -> Piece:
    return Piece(Passage(cut.text, cut.start, cut.start + len(cut.text)), tokens)


def _sections(cut: _Cut) -> Iterator[_Cut]:
    """Stretches of at most _SECTION_CHARS, ended at the best break in their second half."""
    start, length = 0, len(cut.text)
    while start < length:
        end = min(start + _SECTION_CHARS, length)
        if end < length:
            end = _break(cut.text, start + _SECTION_CHARS // 2, end)
        yield _Cut(cut.document, cut.start + start, cut.text[start:end])
        start = end


def _break(text: str, start: int, end: int) -> int:
    for mark in _BREAKS:
        found = text.rfind(mark, start, end)
        if found >= 0:
            return found + len(mark)
    return end
