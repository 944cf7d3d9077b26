"""The chord: batches of document events fan out to embed and fan into one build.

A chord is a trigger, not a ledger. Its body reads the ledger and never the header's results, so a part that is
delivered twice, late or not at all changes only when the build runs, not what it publishes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from celery import chord
from celery.canvas import Signature
from kombu.exceptions import OperationalError

from pipeline.base.errors import Unavailable
from pipeline.base.model import Origin
from pipeline.tasks.app import app


def _embed(batch: Sequence[str], origin: Origin, countdown: float) -> Signature[str]:
    options = {"argsrepr": f"{len(batch)} documents, {origin.value}"} | ({"countdown": countdown} if countdown else {})
    return app.signature("dropdex.embed", args=(list(batch), origin.value), immutable=True, options=options)


def _build() -> Signature[str]:
    return app.signature("dropdex.build", immutable=True)


@contextmanager
def _publishing() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable(f"the broker did not take a task: {error}", hint="is Redis up? try: dropdex status") from error


def hand_over(batches: Iterable[Sequence[str]], origin: Origin, *, countdown: float = 0) -> None:
    """Submit batches of uris as one chord: every batch is one message of the embedding queue, then the index is built.

    The build runs even if a batch gives up, for its neighbours' sake. `countdown` in seconds. Raises Unavailable.
    """
    header = [_embed(batch, origin, countdown) for batch in batches if batch]
    if header:
        with _publishing():
            chord(header)(_build().on_error(_build()))


def request_build() -> None:
    """Ask for a build of whatever has settled. Raises Unavailable."""
    with _publishing():
        _build().apply_async()
