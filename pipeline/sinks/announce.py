"""Tells whoever listens that a generation is there. A hint: a listener that missed it sees CURRENT all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from pipeline.base.errors import Unavailable
from pipeline.index.manifest import Manifest

if TYPE_CHECKING:
    from redis import Redis


class Announce:
    """Publishes generation and manifest name on a Redis channel."""

    name = "announce"

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis, self._channel = redis, channel

    def publish(self, manifest: Manifest) -> None:
        """Announce the generation. Saying it twice changes nothing, as a listener only ever looks at CURRENT."""
        try:
            self._redis.publish(self._channel, json.dumps({"generation": manifest.generation, "manifest": manifest.name}))
        except RedisError as error:
            raise Unavailable(f"the generation could not be announced: {error}") from error
