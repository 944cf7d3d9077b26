"""Where a published generation goes. Publishing the same generation twice changes nothing."""

from __future__ import annotations

from typing import Protocol

from pipeline.index.manifest import Manifest

__all__ = ["Sink"]


class Sink(Protocol):
    """The seam between a published generation and whoever wants to know of it."""

    @property
    def name(self) -> str:
        """What an operator reads in a log line; unique among the configured sinks."""
        ...

    def publish(self, manifest: Manifest) -> None:
        """Make `manifest`'s generation available. Idempotent. Raises Unavailable to be retried alone."""
        ...
