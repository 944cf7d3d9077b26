"""Static models, for real: the same vectors as sentence-transformers' own, without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.base.errors import ConfigurationError
from pipeline.embedder import Vectors, open_embedder
from pipeline.text import Splitter

TEXTS = ["the tide rises twice", "feed the starter", "", "mend the tyre twice", "the " * 700]
WORDS = sorted({word for text in TEXTS for word in text.split()})


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(3)
    made.enable_padding(length=5)
    return made


def static_model(folder: Path, tensors: dict[str, np.ndarray]) -> str:
    """A folder as sentence-transformers and model2vec write it; its tokenizer truncates and pads, as theirs may."""
    folder.mkdir()
    (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},'
        ' {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}]'
    )
    tokenizer().save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def of_sentence_transformers(folder: str) -> Vectors:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    module = StaticEmbedding.load(folder)
    module.tokenizer.no_truncation()
    vectors: Vectors = SentenceTransformer(modules=[module], device="cpu").encode(TEXTS, normalize_embeddings=True)
    return vectors


@pytest.mark.model
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", ["sentence-transformers", "model2vec", "model2vec with vocabulary quantisation"])
def test_vectors_are_those_of_sentence_transformers(form: str, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    table = random.normal(size=(len(WORDS) + 1, 16)).astype(np.float32)
    tensors = {
        "sentence-transformers": {"embedding.weight": table},
        "model2vec": {"embeddings": table.astype(np.float16)},
        "model2vec with vocabulary quantisation": {
            "embeddings": table[:3],
            "mapping": random.integers(0, 3, len(table)),
            "weights": random.uniform(0.1, 2, len(table)),
        },
    }[form]
    model = static_model(tmp_path / "model", tensors)
    embedder = open_embedder(model)
    vectors = embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((5, 16), np.float32)
    written = [row for row, text in enumerate(TEXTS) if text]
    assert np.allclose(vectors[written], of_sentence_transformers(model)[written], atol=1e-3)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_revision_follows_the_weights(tmp_path: Path) -> None:
    revisions = {open_embedder(static_model(tmp_path / str(n), {"embeddings": np.full((20, 4), n, np.float32)})).revision for n in (1, 2)}
    assert len(revisions) == 2


def test_a_broken_model_is_a_sentence_with_a_hint(tmp_path: Path) -> None:
    model = static_model(tmp_path / "model", {"other": np.zeros((2, 2), np.float32)})
    with pytest.raises(ConfigurationError, match="cannot be loaded") as caught:
        open_embedder(model).warm()
    assert "DROPDEX_MODEL" in caught.value.hint


def test_wordllama_finds_what_means_the_same_and_is_split_by_its_own_tokens() -> None:
    embedder = open_embedder("wordllama:128")
    documents = ["The tide rises twice a day.", "Feed the sourdough starter with flour.", "Mend the puncture of a bicycle tyre."]
    vectors = embedder.embed(documents)
    assert vectors.shape == (3, embedder.dimension) == (3, 128)
    assert (embedder.embed(["baking bread", "ocean water level"]) @ vectors.T).argmax(axis=1).tolist() == [1, 0]
    pieces = Splitter(embedder.tokenizer, embedder.window).split_many([" ".join(documents * 100)])[0]
    assert len(pieces) > 2
    assert max(len(piece.ids) for piece in pieces) <= embedder.window
    # And what the splitter found is all that it needs
    texts = [piece.passage.text for piece in pieces]
    assert np.array_equal(embedder.embed([""] * len(pieces), [piece.ids for piece in pieces]), embedder.embed(texts))


def test_static_models_need_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from pipeline.embedder import open_embedder; open_embedder('wordllama:64').warm();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'openvino', 'wordllama')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
