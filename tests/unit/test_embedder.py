"""Vectors: the plan of the batches, the hash embedder, and what is known of a model before it is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedder import HashEmbedder, batches, open_embedder
from pipeline.errors import ConfigurationError


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 2_000))
def test_batches_hold_every_row_once_and_keep_the_budget(tokens: list[int], budget: int) -> None:
    planned = [rows.tolist() for rows in batches(tokens, budget)]
    assert sorted(row for rows in planned for row in rows) == list(range(len(tokens)))
    for rows in planned:
        assert len(rows) == 1 or len(rows) * max(tokens[row] for row in rows) <= budget


def test_batches_put_texts_of_one_length_together() -> None:
    assert [rows.tolist() for rows in batches([5, 100, 6, 90], 200)] == [[1, 3], [2, 0]]


def test_hash_vectors_have_length_one_and_find_the_text_that_shares_words() -> None:
    embedder = HashEmbedder(256)
    documents = ["The tide rises twice a day.", "Feed the sourdough starter.", "Mend the puncture of a bicycle tyre."]
    vectors = embedder.embed(documents)
    assert vectors.shape == (3, 256)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert (embedder.embed(["SOURDOUGH, starter"]) @ vectors.T).argmax() == 1


@given(st.lists(st.text(), max_size=20))
def test_hash_vectors_of_any_text_have_length_one(texts: list[str]) -> None:
    vectors = HashEmbedder(8).embed(texts)
    assert vectors.shape == (len(texts), 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_hash_vectors_do_not_depend_on_batch_or_process() -> None:
    texts = [f"document {number} of many" for number in range(2_500)]
    vectors = HashEmbedder(64).embed(texts)
    assert np.array_equal(vectors[2_049], HashEmbedder(64).embed([texts[2_049]])[0])
    code = "from pipeline.embedder import HashEmbedder; print(HashEmbedder(64).embed(['tide'])[0].argmax())"
    runs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout for seed in "12"
    }
    assert len(runs) == 1


@pytest.mark.parametrize("model", ["hash:", "hash:x", "hash:0", "hash:-1"])
def test_a_hash_embedder_needs_a_dimension(model: str) -> None:
    with pytest.raises(ConfigurationError, match="hash embedder"):
        open_embedder(model)


def test_a_folder_that_is_not_there_is_a_sentence_with_a_hint() -> None:
    with pytest.raises(ConfigurationError, match="no model at") as caught:
        _ = open_embedder("./nowhere").revision
    assert "DROPDEX_MODEL" in caught.value.hint


def test_the_revision_follows_the_weights_and_the_configuration(tmp_path: Path) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(9_000_000))
    config.write_text("{}")
    first = open_embedder(str(tmp_path)).revision
    assert open_embedder(str(tmp_path)).revision == first
    config.write_text("{ }")
    second = open_embedder(str(tmp_path)).revision
    weights.write_bytes(np.random.default_rng(1).bytes(9_000_000))
    assert len({first, second, open_embedder(str(tmp_path)).revision}) == 3


def test_what_a_recipe_needs_is_known_without_torch() -> None:
    code = (
        "import sys; from pipeline.embedder import open_embedder; import pipeline.text;"
        "e = open_embedder('all-MiniLM-L6-v2'); print(len(e.revision), e.window, e.precision, e.backend, e.tokenizer.truncation);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'kreuzberg', 'celery')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 256 float32 torch None\n", "")
