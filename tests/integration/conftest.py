"""A pipeline of real parts in a folder of the test's own, whose tasks are called in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support import Pipeline, broker_of


@pytest.fixture
def opened(tmp_path: Path, valkey: str, redis_client: Redis) -> Iterator[Callable[..., Pipeline]]:
    """Opens pipelines in one folder; the last one opened is the one that the tasks see."""
    running: list[Pipeline] = []

    def begin(**settings: Any) -> Pipeline:
        running.append(Pipeline(tmp_path, broker_of(valkey), **settings).__enter__())
        return running[-1]

    yield begin
    for pipeline in reversed(running):
        pipeline.__exit__(None, None, None)


@pytest.fixture
def pipeline(opened: Callable[..., Pipeline]) -> Pipeline:
    return opened()
