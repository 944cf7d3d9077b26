"""The `dropdex` command with an embedder that sleeps instead of computing, and with each stage's processor time noted.

Everything else is the product: `python -m benchmarks.scale.stub up` starts the same programs as `dropdex up`, each of
them under this module. A forward pass of PASSES passages holds the model's lock, as a real model does.

A note is a JSON file of stage → seconds per process, written from a thread, so that it costs the ledger nothing.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.embedder.hashing import HashEmbedder
from pipeline.embedder.plan import Vectors

MILLISECONDS = "BENCH_STUB_MS"
"""Environment variable: milliseconds per passage; 0 or nothing embeds by hashing."""

BURN = "BENCH_STUB_BURN_MS"
"""Environment variable: milliseconds of processor time per passage, in place of sleep."""

NOTES = "BENCH_STAGES"
"""Environment variable: the folder of the notes; nothing measures no stage."""

PASSES = 32
EVERY = 0.25

STAGES = {
    "list and compare": "pipeline.relay.backfill:Backfill._run",
    "notice": "pipeline.ledger.ledger:Ledger.notice",
    "follow": "pipeline.relay.loop:Relay._poll",
    "hand over": "pipeline.tasks.flow:hand_over",
    "begin": "pipeline.ledger.ledger:Ledger.begin",
    "read": "pipeline.tasks.embed:read",
    "extract": "pipeline.tasks.embed:extract",
    "split": "pipeline.text.split:Splitter.split_many",
    "embed": "pipeline.embedder.hashing:HashEmbedder.embed",
    "encode shard": "pipeline.tasks.embed:encode",
    "settle": "pipeline.tasks.embed:settle",
    "build": "pipeline.tasks.build:publish_settled",
    "merge": "pipeline.index.writer:Writer.merge",
}
"""Stage → the function that is it. One may call another only if both run in different programs or are told apart below."""

PROCESS_WIDE = {"read"}
"""Stages that do their work in threads of their own, while nothing else runs in their program."""


class Sleeper(HashEmbedder):
    """Sleeps or burns its time, then answers with vectors that differ from text to text."""

    def __init__(self, dimension: int, sleep: float, burn: float) -> None:
        super().__init__(dimension)
        self._sleep, self._burn, self._model = sleep / 1000, burn / 1000, threading.Lock()

    def embed(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        for start in range(0, len(texts), PASSES):
            with self._model:
                self._take(len(texts[start : start + PASSES]))
        return _some_vectors(len(texts), self.dimension)

    def _take(self, passages: int) -> None:
        time.sleep(self._sleep * passages)
        until = time.thread_time() + self._burn * passages
        while time.thread_time() < until:
            pass


@functools.cache
def _pool(dimension: int) -> Vectors:
    import numpy as np

    rows = np.random.default_rng(1).standard_normal((4096, dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _some_vectors(number: int, dimension: int) -> Vectors:
    import numpy as np

    return np.resize(_pool(dimension), (number, dimension))


class Notes:
    """Processor seconds per stage of this process, written down when they change. A fork begins notes of its own."""

    def __init__(self, folder: Path, role: str) -> None:
        self._folder, self._role = folder, role
        self._pid, self._lock = 0, threading.Lock()
        self._seconds: dict[str, float] = {}

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.process_time if stage in PROCESS_WIDE else time.thread_time

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._add(stage, clock() - begin)

        return noted

    def _add(self, stage: str, seconds: float) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._seconds = os.getpid(), {}
                threading.Thread(target=self._keep, daemon=True).start()
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def _keep(self) -> None:
        path, written = self._folder / f"{self._role}-{os.getpid()}.json", dict[str, float]()
        while True:
            time.sleep(EVERY)
            with self._lock:
                now = dict(self._seconds)
            if now != written:
                path.write_text(json.dumps(now))
                written = now


def _note_stages(notes: Notes) -> None:
    for stage, place in STAGES.items():
        module, _, name = place.partition(":")
        owner: Any = import_module(module)
        *classes, attribute = name.split(".")
        for part in classes:
            owner = getattr(owner, part)
        setattr(owner, attribute, notes.around(stage, getattr(owner, attribute)))


def _under_this_module(programs: Callable[..., Any]) -> Callable[..., Any]:
    """What `up` starts, started as this module."""

    @functools.wraps(programs)
    def ours(*args: Any) -> Any:
        waves = programs(*args)
        for program in (program for wave in waves for program in wave):
            program.command = [__spec__.name if word == "pipeline" else word for word in program.command]
        return waves

    return ours


def main() -> None:
    import pipeline.embedder
    import pipeline.up.run
    from pipeline.cli import main as dropdex

    sleep, burn = (float(os.environ.get(name) or 0) for name in (MILLISECONDS, BURN))
    if sleep or burn:
        pipeline.embedder.open_embedder = lambda model, **_: Sleeper(int(model.partition(":")[2]), sleep, burn)
    pipeline.up.run.programs = _under_this_module(pipeline.up.run.programs)
    if os.environ.get(NOTES) and {"worker", "watch"} & set(sys.argv):
        _note_stages(Notes(Path(os.environ[NOTES]), sys.argv[-1]))
    dropdex()


if __name__ == "__main__":
    main()
