"""`dropdex health`: whether the process of one kind does its work on this host, for the health checks of containers.

Asked every few seconds beside the process it asks about, it has to stay cheap: one answer from Redis, or from Flower, and
never a model or an index. A process that is up but cannot work fails here; one that waits for its turn does not.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.context import Context

KINDS = ("watch", "embedding", "indexing", "maintenance", "beat", "flower")

FLOWER_SECONDS = 3.0
"""How long Flower may take to answer; less than any health check waits."""


class Health(NamedTuple):
    """Whether the process works, and a sentence about it."""

    well: bool
    sentence: str


def of(context: Context, kind: str) -> Health:
    """How the process of this kind does on this host."""
    if kind == "flower":
        return _flower(context.settings.flower_port)
    from redis.exceptions import RedisError

    try:
        alive = context.ledger.alive()
    except RedisError as error:
        return Health(False, f"redis does not answer: {error}")
    host = socket.gethostname()
    if names := shown(alive, kind, host):
        return Health(True, f"{', '.join(names)} showed life")
    return Health(False, f"nothing of kind {kind} on {host} showed life lately")


def shown(alive: Sequence[str], kind: str, host: str) -> list[str]:
    """Pure: which of the names, each "room@host", are of this kind on this host. A room is the kind, or begins with it and a dash."""
    return [name for name in alive if name.endswith(f"@{host}") and name.startswith((f"{kind}@", f"{kind}-"))]


def _flower(port: int) -> Health:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=FLOWER_SECONDS)
    try:
        connection.request("GET", "/healthcheck")
        status = connection.getresponse().status
        return Health(status == 200, f"flower answers {status}")
    except (OSError, HTTPException) as error:
        return Health(False, f"flower does not answer on port {port}: {error}")
    finally:
        connection.close()
