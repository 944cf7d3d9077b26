"""A converted model in OpenVINO: texts in, vectors out. Knows no torch, and shares its streams fairly.

One stream per thread is faster than one stream of several threads, and threads that are not pinned to a core give way to
the other processes of the machine. Precision is always spelled out: OpenVINO's own default takes bfloat16 where it can.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.embedder.plan import Vectors

if TYPE_CHECKING:
    from openvino import InferRequest, Model, Output
    from tokenizers import Tokenizer

_LENGTH_STEP: Final = 16
"""Rows are padded to a multiple of this many tokens: every new shape costs some milliseconds, 6 to 12 % over a backfill."""

_ACTIVATION_GROUP: Final = 64
"""Activations that share a scale in int8. Measured on MiniLM (tokens per CPU second, recall@10 of fp32): 32: 7,100 and 0.97;
64: 9,200 and 0.97; 128: 9,700 and 0.965; 384: 9,500 and 0.945. Quantised ahead of time, with calibration: 10,000 and 0.92."""

_SMALLEST_LAYER: Final = 64
"""Inputs of a layer that int8 is worth it for."""


def load_openvino() -> Any:
    """OpenVINO without its telemetry, which tells its makers over the network of every import and every conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: as if it were not installed
    import openvino

    return openvino


class Compiled:
    """A model compiled for this processor. Safe to use from several threads."""

    def __init__(
        self, file: Path, tokenizer: Tokenizer, *, precision: str, bf16: bool, window: int, padding: int, threads: int = 0
    ) -> None:
        """`bf16`: what int8 leaves unquantised may be computed in bfloat16."""
        core = load_openvino().Core()
        model = core.read_model(file)
        if precision == "int8":
            quantise(model)
        self.streams = threads or _cores()
        compiled = core.compile_model(model, "CPU", options(precision, bf16=bf16, streams=self.streams))
        self.dimension = int(compiled.output(0).partial_shape[1].get_length())
        self._padding, self._window = padding, window
        self._tokenizer: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.enable_truncation(window)
        self._requests: queue.SimpleQueue[InferRequest] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())

    def forward(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        """One batch: a row per text, of length one. `ids`: their tokens, used where all of them fit the window. Waits for a free stream."""
        if ids is None or max(len(one) for one in ids) > self._window:
            ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        longest = max(len(one) for one in ids)
        shape = (len(texts), -(-longest // _LENGTH_STEP) * _LENGTH_STEP)
        tokens, mask = np.full(shape, self._padding, np.int64), np.zeros(shape, np.int64)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = one
            mask[row, : len(one)] = 1
        with self._request() as request:
            vectors = request.infer({0: tokens, 1: mask}, share_inputs=True)[0]
            return np.array(vectors, np.float32)

    @contextmanager
    def _request(self) -> Iterator[InferRequest]:
        request = self._requests.get()
        try:
            yield request
        finally:
            self._requests.put(request)


def options(precision: str, *, bf16: bool, streams: int) -> dict[str, object]:
    """How OpenVINO is to compute."""
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" or (precision == "int8" and bf16) else "f32",
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _ACTIVATION_GROUP if precision == "int8" else 0,
    }


def quantise(model: Model) -> None:
    """Weights of the linear layers to eight bits, one scale and zero point per output; activations follow while it computes.

    The token embeddings stay as they are: looking them up costs nothing, and rounding them costs recall.
    """
    for layer in model.get_ops():
        if layer.get_type_name() != "MatMul" or not layer.get_attributes().get("transpose_b"):
            continue
        source = layer.input_value(1).get_node()
        if source.get_type_name() == "Constant" and len(source.shape) == 2 and source.shape[1] >= _SMALLEST_LAYER:
            layer.input(1).replace_source_output(_eight_bits(np.asarray(source.get_data(), np.float32)))


def _eight_bits(weights: Vectors) -> Output:
    ops = load_openvino().opset13

    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    scale = np.maximum((high - low) / 255, np.finfo(np.float32).tiny).astype(np.float32)
    zero = np.clip(np.round(-low / scale), 0, 255)
    rounded = np.clip(np.round(weights / scale) + zero, 0, 255)
    widened = ops.convert(ops.constant(rounded.astype(np.uint8)), "f32")
    centred = ops.subtract(widened, ops.convert(ops.constant(zero.astype(np.uint8)), "f32"))
    return ops.multiply(centred, ops.constant(scale)).output(0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
