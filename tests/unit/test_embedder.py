"""Vectors: the plan of the batches, the hash embedder, what computes, and what is known of a model before it is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import ConfigurationError
from pipeline.embedder import HashEmbedder, batches, open_embedder
from pipeline.embedder.choice import Machine, choose
from pipeline.embedder.convert import converted


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


PLAIN = Machine(openvino=True, bf16=False, gpu=False)
BF16 = PLAIN._replace(bf16=True)
GPU = BF16._replace(gpu=True)
BARE = Machine(openvino=False, bf16=True, gpu=False)


@pytest.mark.parametrize(
    ("asked", "machine", "chosen"),
    [
        (("auto", "auto"), PLAIN, ("openvino", "fp32")),
        (("auto", "auto"), BF16, ("openvino", "bf16")),
        (("auto", "auto"), GPU, ("torch", "fp32")),
        (("auto", "auto"), BARE, ("torch", "fp32")),
        (("auto", "int8"), GPU, ("openvino", "int8")),
        (("auto", "bf16"), PLAIN, ("openvino", "bf16")),
        (("openvino", "fp32"), GPU, ("openvino", "fp32")),
        (("torch", "bf16"), PLAIN, ("torch", "bf16")),
        (("torch", "auto"), BF16, ("torch", "fp32")),
    ],
)
def test_auto_takes_the_fastest_that_the_machine_computes_exactly_enough(
    asked: tuple[str, str], machine: Machine, chosen: tuple[str, str]
) -> None:
    assert choose(*asked, machine) == chosen


@pytest.mark.parametrize(
    ("asked", "machine", "reason"),
    [
        (("openvino", "auto"), BARE, "not installed"),
        (("auto", "int8"), BARE, "no int8"),
        (("torch", "int8"), PLAIN, "no int8"),
        (("onnx", "auto"), PLAIN, "no backend onnx"),
        (("auto", "fp16"), PLAIN, "precision fp16"),
    ],
)
def test_what_cannot_be_computed_is_a_sentence_with_a_hint(asked: tuple[str, str], machine: Machine, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        choose(*asked, machine)
    assert "DROPDEX_" in caught.value.hint


def test_a_precision_that_costs_a_model_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    embedder = open_embedder("all-MiniLM-L6-v2", backend="openvino", precision="bf16")
    _pretend_conversion(monkeypatch, {"window": 256, "cosines": {"fp32": 1.0, "bf16": 0.98, "int8": 0.9}})
    with pytest.raises(ConfigurationError, match=r"cosine of 0\.9800") as caught:
        embedder.warm()
    assert "fp32" in caught.value.hint


def test_workers_that_start_together_convert_a_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = _pretend_conversion(monkeypatch, {"window": 256, "cosines": {}})
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: converted("a model", tmp_path, "revision").model, range(4)))
    assert len(made) == len(found) == 1


def test_a_cache_that_cannot_be_written_is_a_sentence_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache").write_text("a file where a folder should be")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        converted("a model", tmp_path, "revision")
    assert "DROPDEX_BACKEND=torch" in caught.value.hint


def _pretend_conversion(monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]) -> list[Path]:
    made: list[Path] = []

    def pretend(name: str, folder: Path, place: Path) -> None:
        time.sleep(0.05)
        place.mkdir()
        (place / "facts.json").write_text(json.dumps(facts))
        made.append(place)

    monkeypatch.setattr("pipeline.embedder.convert._convert", pretend)
    return made


@pytest.mark.parametrize("model", ["wordllama:x", "wordllama:100", "hash:", "hash:x", "hash:0", "hash:-1"])
def test_a_dimension_that_there_is_not_is_refused(model: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a|no vectors of"):
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


def test_what_a_recipe_needs_is_known_without_the_libraries_that_compute() -> None:
    code = (
        "import sys; from pipeline.embedder import open_embedder; import pipeline.text;"
        "e = open_embedder('all-MiniLM-L6-v2', precision='bf16', backend='openvino');"
        "print(len(e.revision), e.window, e.precision, e.backend, e.tokenizer.truncation);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'openvino', 'kreuzberg', 'celery')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 256 bf16 openvino None\n", "")
