"""A sentence-transformers model to OpenVINO, once per machine, in a process of its own so that no other one loads torch.

The whole model is traced, pooling and all, and then compared with torch, text by text, in every precision: a conversion
that changed the vectors is refused, not used. What was measured is kept beside the model.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.base.errors import ConfigurationError
from pipeline.embedder.files import padding_id, unusable

if TYPE_CHECKING:
    import openvino
    import torch
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

LEAST_COSINE: Final = {"fp32": 0.999, "bf16": 0.999, "int8": 0.97}
"""Between a vector and torch's in float32, over every text of the sample."""

SHIPPED: Final = Path(sys.prefix) / "share" / "dropdex" / "models"
"""Where an image brings conversions along, so that a container need not make them. Only read."""

_FORMAT: Final = 1
"""Raised when a conversion of this module would come out otherwise."""

_UNUSABLE: Final = 3
"""Exit status where it is not the conversion that failed, but the model itself that cannot be loaded."""

_PARAGRAPH: Final = (
    "The harbour master keeps a ledger of the tides, and reads the barometer at six in the morning. When the wind backs to the "
    "south-east, small craft stay in. (See section 4.2: 1,024 vessels, 37% under sail.) "
)
_SAMPLE: Final = (
    "warm",
    "How is a pointer moved by compare-and-set?",
    "def open(path: str) -> int: return -1  # errno = ENOENT",
    "Der Zug nach Köln fährt um 14:05 Uhr von Gleis 7; 東京の天気は晴れです。",
    _PARAGRAPH,
    _PARAGRAPH * 3,
    _PARAGRAPH * 40,
)
"""Short, long, longer than any window, code, figures, other scripts."""


class Converted(NamedTuple):
    """A converted model on the disk."""

    model: Path
    tokenizer: Path
    window: int
    cosines: dict[str, float]
    """The lowest one per precision."""


def converted(name: str, folder: Path, revision: str) -> Converted:
    """The conversion of a model, made now unless this machine has it. Raises ConfigurationError."""
    version = metadata.version("openvino").partition("-")[0]
    name_of_place = f"{revision}-openvino-{version}-{_FORMAT}"
    shipped = SHIPPED / name_of_place
    place = shipped if shipped.exists() else _cache() / name_of_place
    if not place.exists():
        with _alone(place):
            if not place.exists():
                _convert(name, folder, place)
    facts = json.loads((place / "facts.json").read_bytes())
    return Converted(place / "model.xml", place / "tokenizer.json", int(facts["window"]), facts["cosines"])


def _cache() -> Path:
    cache = Path.home() / ".cache" / "dropdex" / "models"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{cache} cannot be written: {error.strerror}", hint="make it writable for converted models, or set DROPDEX_BACKEND=torch"
        ) from error
    return cache


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Workers that start together convert once. The lock goes with its holder."""
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert(name: str, folder: Path, place: Path) -> None:
    log.info("converting model", extra={"action": "convert", "model": name, "into": str(place)})
    scratch = Path(tempfile.mkdtemp(prefix="converting-", dir=place.parent))
    try:
        command = [sys.executable, "-m", __name__, name, str(folder), str(scratch)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        if done.returncode == _UNUSABLE:
            raise unusable(name, reason)
        if done.returncode:
            raise ConfigurationError(f"the model {name} cannot be converted to OpenVINO: {reason}", hint="set DROPDEX_BACKEND=torch")
        scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# In the process of its own -------------------------------------------------------------------------------------------


def main(name: str, folder: Path, into: Path) -> None:
    """Convert, compare, write down. Why it failed is the last line of the error stream."""
    from pipeline.embedder.compiled import load_openvino

    model = _load(folder)
    (into / "tokenizer.json").write_text(model.tokenizer.backend_tokenizer.to_str(), "utf-8")
    load_openvino().save_model(_traced(model), into / "model.xml", compress_to_fp16=False)
    window = int(model.max_seq_length or 512)
    cosines = _compare(model, folder, into, window)
    (into / "facts.json").write_text(json.dumps({"model": name, "window": window, "cosines": cosines}), "utf-8")
    if cosines["fp32"] < LEAST_COSINE["fp32"]:
        raise SystemExit(f"its vectors came out otherwise, with a cosine of {cosines['fp32']:.4f}")


def _load(folder: Path) -> SentenceTransformer:
    from pipeline.embedder.torch_backend import LOAD_ERRORS, load

    try:
        return load(folder, device="cpu").eval()
    except LOAD_ERRORS as error:
        print(str(error).strip().partition("\n")[0], file=sys.stderr)
        raise SystemExit(_UNUSABLE) from error


def _traced(model: SentenceTransformer) -> openvino.Model:
    import torch

    from pipeline.embedder.compiled import load_openvino

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            features = self.model({"input_ids": ids, "attention_mask": mask})
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=1)

    example = (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long))
    openvino = load_openvino()
    any_size = ([-1, -1], openvino.Type.i64)
    return openvino.convert_model(Whole(), example_input=example, input=[any_size, any_size])


def _compare(model: SentenceTransformer, folder: Path, into: Path, window: int) -> dict[str, float]:
    """The lowest cosine of each precision, all texts in one batch so that padding is part of the question."""
    from tokenizers import Tokenizer

    from pipeline.embedder.choice import this_machine
    from pipeline.embedder.compiled import Compiled

    expected = model.encode(list(_SAMPLE), normalize_embeddings=True, show_progress_bar=False)
    tokenizer = Tokenizer.from_file(str(into / "tokenizer.json"))
    tokenizer.no_padding()
    cosines = {}
    for precision in LEAST_COSINE:
        compiled = Compiled(
            into / "model.xml",
            tokenizer,
            precision=precision,
            bf16=this_machine().bf16,
            window=window,
            padding=padding_id(folder),
            threads=1,
        )
        cosines[precision] = float((compiled.forward(_SAMPLE) * expected).sum(axis=1).min())
    return cosines


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
