"""The matrix products of all-MiniLM-L6-v2 and nothing else: what its tokens a second cannot exceed on this processor.

No attention, no activation function, no normalisation, no tokenizer, and weights by chance, as no product depends on them.
"""

from __future__ import annotations

import os
import time
from threading import Thread
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.embedder.choice import this_machine
from pipeline.embedder.compiled import load_openvino, options, quantise

if TYPE_CHECKING:
    from openvino import Model, Output

LAYERS: Final = 6
WIDTH: Final = 384
INNER: Final = 1536
ROWS: Final = 1024
"""Tokens at a time, as many as the embedder computes together."""

SECONDS: Final = 3.0


def tokens_per_second(precision: str) -> float:
    """Of all cores, computed as the embedder computes."""
    streams = len(os.sched_getaffinity(0))
    model = _products()
    if precision == "int8":
        quantise(model)
    compiled = load_openvino().Core().compile_model(model, "CPU", options(precision, bf16=this_machine().bf16, streams=streams))
    tokens = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    done = [0] * streams
    begin = time.perf_counter()

    def compute(stream: int) -> None:
        request = compiled.create_infer_request()
        while time.perf_counter() - begin < SECONDS:
            request.infer({0: tokens}, share_inputs=True)
            done[stream] += ROWS

    threads = [Thread(target=compute, args=(stream,)) for stream in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - begin)


def _products() -> Model:
    openvino = load_openvino()
    ops, chance = openvino.opset13, np.random.default_rng(1)

    def times(left: Output, inputs: int, outputs: int) -> Output:
        weights = (chance.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        return ops.matmul(left, ops.constant(weights), False, True).output(0)

    parameter = ops.parameter([-1, WIDTH], np.float32)
    values = parameter.output(0)
    for _ in range(LAYERS):
        query, key, value = (times(values, WIDTH, WIDTH) for _ in range(3))
        values = times(ops.add(ops.add(query, key), value).output(0), WIDTH, WIDTH)
        values = times(times(values, WIDTH, INNER), INNER, WIDTH)
    return openvino.Model([values], [parameter])
