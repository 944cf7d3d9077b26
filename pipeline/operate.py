"""What an operator can make happen by hand. Each function does one thing and says in words what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from threading import Event
from typing import TYPE_CHECKING

from pipeline.base.errors import ConfigurationError, Unavailable
from pipeline.base.model import DocumentEvent, Origin
from pipeline.context import Context
from pipeline.index import upkeep
from pipeline.observe.status import uri_of
from pipeline.relay.backfill import differences
from pipeline.relay.loop import Relay
from pipeline.tasks import flow
from pipeline.tasks.build import publish_settled
from pipeline.tasks.merge import rebuild

if TYPE_CHECKING:
    from pipeline.sources.s3.provision import Provisioned


def differences_of(context: Context, *, allow_removals: bool) -> Iterator[DocumentEvent]:
    """What a reconcile would hand over. Raises TooManyRemovals where the guard would refuse it."""
    context.seed()
    for source in context.sources:
        source.check()
        yield from differences(source, context.ledger, context.settings.removal_guard, allow_removals=allow_removals)


def reconcile(context: Context, stop: Event, *, allow_removals: bool) -> str:
    """Have the running watcher list its sources; without one, list and hand over from here until all is published."""
    alive = context.ledger.alive()
    if any(name.startswith("watch") for name in alive):
        context.ledger.note("reconcile", "allow-removals" if allow_removals else "wanted")
        return "the watcher lists its sources now; follow it with: dropdex status"
    if not any(name.startswith("embedding") for name in alive):
        raise Unavailable("no embedding worker is up, so nothing would come of a reconcile", hint="start everything with: dropdex up")
    relay = Relay(context.sources, context.ledger, flow, context.seed, context.settings)
    return f"{relay.reconcile_once(stop, allow_removals=allow_removals)} differences handed over and published"


def build(context: Context, *, full: bool) -> str:
    """Publish what has settled, in this process."""
    word = publish_settled(context)
    if full:
        rebuild(force=True)
        found = context.home.current()
        word = f"generation {found[0].generation}, {len(found[0].segments)} segments" if found else "nothing to merge"
    return word


def resume(context: Context) -> str:
    """Let building go on from what is served. The ledger believes in what was rolled back, so it has to learn anew."""
    manifest = upkeep.resume(context.home)
    if manifest is None:
        return "building was not held"
    context.ledger.clear()
    flow.request_build()
    return f"generation {manifest.generation}: building goes on"


def collect(context: Context, keep: int | None) -> list[str]:
    """Delete what no kept generation needs; returns the names."""
    s = context.settings
    in_use = context.ledger.shards_in_use()
    return upkeep.gc(context.home, keep or s.keep_generations, s.orphan_seconds, time.time(), in_use=in_use)


def retry(context: Context, paths: Sequence[str], *, every: bool) -> int:
    """Forget the dead letters' attempts and hand their documents over. Returns how many."""
    letters = {letter.uri for letter in context.ledger.dead_letters()}
    uris = sorted(letters if every else letters & {uri_of(path) for path in paths})
    if not uris and not every:
        raise ConfigurationError("none of these is a dead letter", hint="list them with: dropdex dead list")
    for uri in uris:
        context.ledger.forget(uri)
    context.ledger.notice(context.seed(), uris)
    size = context.settings.max_batch
    flow.hand_over([uris[start : start + size] for start in range(0, len(uris), size)], Origin.LIVE)
    return len(uris)


def provision(bucket: str, queue: str, *, index: str, prefix: str, endpoint: str, region: str) -> Provisioned:
    """Create what the bucket needs. Raises ConfigurationError or Unavailable."""
    from pipeline.sources.s3 import aws
    from pipeline.sources.s3.provision import provision as make

    try:
        return make(bucket, queue, index=index, prefix=prefix, endpoint=endpoint, region=region)
    except aws.AwsError as error:
        raise aws.fault(error, f"bucket {bucket} and queue {queue}") from error
