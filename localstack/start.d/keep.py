"""LocalStack's start hook: buckets, objects and queues survive its process. What a client was told is on disk before it is told.

LocalStack's community edition forgets everything when it stops. It runs this file in its own process before it listens: what
KEEP_STATE names is a folder with one SQLite file in it, which is read here and written from then on. A request that changed
something is answered once a save has ended that began after the change; saves follow one another, and whoever waits shares the
next one. Only what changed is saved, except for the queues, which are small and saved whole. What a queue forgets of receipts
costs a second delivery, so nobody waits for those.

Not kept: parts of a multipart upload that is not complete. Not survived: the machine losing its power.
"""

import copyreg
import logging
import os
import pickle
import shutil
import sqlite3
import threading
from collections import deque
from io import BytesIO
from pathlib import Path
from queue import Queue

from localstack.aws.handlers import run_custom_response_handlers
from localstack.services.plugins import SERVICE_PLUGINS
from localstack.services.s3.models import KeyStore, S3Bucket, S3DeleteMarker, VersionedKeyStore, s3_stores
from localstack.services.sqs.models import SqsQueue, sqs_stores
from localstack.version import version

LOG = logging.getLogger("localstack.keep")

PATIENCE_SECONDS = 30
"""A save that takes longer is broken: the log says why, and the client gets its answer all the same."""

AGAIN_SECONDS = 0.02
"""Between two attempts to save, where requests change what is being saved."""

UNAWAITED = ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility")
"""Beginnings of SQS's operations whose loss costs a second delivery and nothing else."""

REGION = "us-east-1"
"""Where LocalStack looks for the buckets of all regions."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (service TEXT PRIMARY KEY, state BLOB);
CREATE TABLE IF NOT EXISTS object (bucket TEXT, key TEXT, state BLOB, PRIMARY KEY (bucket, key));
CREATE TABLE IF NOT EXISTS body (bucket TEXT, key TEXT, version TEXT, written INTEGER, body BLOB, PRIMARY KEY (bucket, key, version));
"""


class StatePickler(pickle.Pickler):
    """Leaves out what has a table of its own, and what is made anew: locks, events, and whoever waits at a queue."""

    dispatch_table = copyreg.dispatch_table | {
        type(threading.RLock()): lambda _: (threading.RLock, ()),
        threading.Event: lambda _: (threading.Event, ()),
    }

    def reducer_override(self, obj):
        if isinstance(obj, KeyStore | VersionedKeyStore):
            return type(obj), ()
        if isinstance(obj, S3Bucket):
            return copyreg.__newobj__, (type(obj),), {**vars(obj), "multiparts": {}}
        if isinstance(obj, SqsQueue):  # copied at once, since requests go on meanwhile
            return copyreg.__newobj__, (type(obj),), {name: _copy(value) for name, value in vars(obj).items()}
        if isinstance(obj, Queue):
            return type(obj), (obj.maxsize,), {"queue": obj.queue.copy()}
        return NotImplemented


def _copy(value):
    return value.copy() if isinstance(value, dict | set | list | deque) else value


def dump(value):
    buffer = BytesIO()
    StatePickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


class Overtaken(Exception):
    """An object was replaced while it was saved: what is saved of it might be half of each."""


class Database:
    """One file, written by one thread at a time."""

    def __init__(self, path, storage):
        self._storage = storage
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {SCHEMA}")

    # Saving --------------------------------------------------------------------------------------------------------

    def save(self, parts):
        """Save these parts together: a service's name, or a bucket with a key."""
        with self._file:
            self._file.execute("BEGIN")
            for part in parts:
                if isinstance(part, str):
                    state = dump(_contents({"s3": s3_stores, "sqs": sqs_stores}[part]))
                    self._file.execute("REPLACE INTO state VALUES (?, ?)", (part, state))
                else:
                    self._save_object(*part)

    def _save_object(self, name, key):
        entry = _entry(name, key)
        versions = {one.version_id or "null": one for one in _versions(entry) if not isinstance(one, S3DeleteMarker)}
        rows = self._file.execute("SELECT version, written FROM body WHERE bucket = ? AND key = ?", (name, key))
        known = dict(rows.fetchall())
        for version_id in known.keys() - versions.keys():
            self._file.execute("DELETE FROM body WHERE bucket = ? AND key = ? AND version = ?", (name, key, version_id))
        for version_id, one in versions.items():
            if known.get(version_id) != one.internal_last_modified:
                self._save_body(name, key, version_id, one)
        if entry:
            self._file.execute("REPLACE INTO object VALUES (?, ?, ?)", (name, key, dump(entry)))
        else:
            self._file.execute("DELETE FROM object WHERE bucket = ? AND key = ?", (name, key))
        if _entry(name, key) != entry:
            raise Overtaken(key)

    def _save_body(self, name, key, version_id, one):
        with self._storage.open(name, one, mode="r") as stored:
            size = stored.seek(0, os.SEEK_END)
            stored.seek(0)
            values = (name, key, version_id, one.internal_last_modified, size)
            row = self._file.execute("REPLACE INTO body VALUES (?, ?, ?, ?, zeroblob(?))", values).lastrowid
            with self._file.blobopen("body", "body", row) as blob:
                shutil.copyfileobj(stored, blob)

    # Loading -------------------------------------------------------------------------------------------------------

    def load(self):
        """Give LocalStack back what was saved. Returns how many objects that were."""
        for service, state in self._file.execute("SELECT service, state FROM state").fetchall():
            _restore({"s3": s3_stores, "sqs": sqs_stores}[service], pickle.loads(state))  # noqa: S301 (this file wrote it)
        for name in {name for _, _, store in s3_stores.iter_stores() for name in store.buckets}:
            self._storage.create_bucket(name)
        rows = self._file.execute("SELECT bucket, key, state FROM object").fetchall()
        for name, key, state in rows:
            if bucket := _bucket(name):
                self._load_object(bucket, key, pickle.loads(state))  # noqa: S301 (this file wrote it)
        return len(rows)

    def _load_object(self, bucket, key, entry):
        versioned = isinstance(bucket.objects, VersionedKeyStore)
        if versioned and not isinstance(entry, dict):  # it was put before its bucket became versioned
            entry.version_id = "null"
            entry = {"null": entry}
        bucket.objects._store[key] = entry
        for one in _versions(entry):
            if not isinstance(one, S3DeleteMarker):
                self._load_body(bucket.name, key, one)

    def _load_body(self, name, key, one):
        where = (name, key, one.version_id or "null")
        (row,) = self._file.execute("SELECT rowid FROM body WHERE bucket = ? AND key = ? AND version = ?", where).fetchone()
        etag, size = one.etag, one.size  # of a multipart upload, the etag is no digest of the body
        with self._file.blobopen("body", "body", row, readonly=True) as blob, self._storage.open(name, one, mode="w") as stored:
            stored.write(blob)
        one.etag, one.size = etag, size


def _entry(name, key):
    """What the bucket has under a key, as it is now: an object, in a versioned bucket its versions by their ids, or nothing."""
    bucket = _bucket(name)
    return _copy(bucket.objects._store.get(key)) if bucket else None


def _versions(entry):
    if entry is None:
        return []
    return list(entry.values()) if isinstance(entry, dict) else [entry]


def _bucket(name):
    for regions in list(s3_stores.values()):
        if bucket := regions[REGION].buckets.get(name):
            return bucket
    return None


def _contents(bundle):
    """What a service's stores hold, without the stores: they exist before the state is loaded."""
    accounts = {
        account: (
            regions._global,
            {region: {n: v for n, v in vars(store).items() if n.startswith("attr_")} for region, store in regions.items()},
        )
        for account, regions in bundle.items()
    }
    return bundle._universal, accounts


def _restore(bundle, contents):
    universal, accounts = contents
    bundle._universal.update(universal)
    for account, (shared, regions) in accounts.items():
        bundle[account]._global.update(shared)
        for region, attributes in regions.items():
            vars(bundle[account][region]).update(attributes)


def changed_by(service, operation, request):
    """Pure: which parts of the state a request may have changed."""
    if operation.startswith(("Get", "List", "Head", "Select")):
        return []
    if service == "sqs":
        return ["sqs"]
    keys = [request["Key"]] if "Key" in request else [one["Key"] for one in request.get("Delete", {}).get("Objects", [])]
    return [(request["Bucket"], key) for key in keys] + ["s3"] * (not keys or "Tagging" in operation or "Tagging" in request)


class Keeper:
    """Saves in a thread of its own, one save after the other."""

    def __init__(self, database):
        self._database = database
        self._changed = threading.Condition()
        self._dirty = set()
        self._asked = self._saved = 0

    def start(self):
        threading.Thread(target=self._run, name="keep", daemon=True).start()

    def handle(self, chain, context, response):
        """A response handler of LocalStack: after the request was carried out, before its answer is sent."""
        if not context.service or not context.operation or context.service.service_name not in ("s3", "sqs"):
            return
        operation = context.operation.name
        if parts := changed_by(context.service.service_name, operation, context.service_request or {}):
            self._keep(parts, awaited=not operation.startswith(UNAWAITED))

    def _keep(self, parts, *, awaited):
        with self._changed:
            self._dirty.update(parts)
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            if awaited and not self._changed.wait_for(lambda: self._saved >= mine, PATIENCE_SECONDS):
                LOG.error("a change is answered that is not saved yet")

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty)
                parts, asked, self._dirty = self._dirty, self._asked, set()
            try:
                self._database.save(parts)
            except Exception as error:
                if not isinstance(error, Overtaken):
                    LOG.warning("state could not be saved, trying again", exc_info=True)
                with self._changed:
                    self._dirty |= parts
                    self._changed.wait(AGAIN_SECONDS)
                continue
            with self._changed:
                self._saved = asked
                self._changed.notify_all()


def main(folder):
    """Load what was saved, then save what changes. A state that cannot be read ends LocalStack: it must not seem empty."""
    for service in ("s3", "sqs"):
        SERVICE_PLUGINS.require(service)
    s3 = SERVICE_PLUGINS.get_service("s3").lifecycle_hook
    path = Path(folder) / f"state-{version}.sqlite"
    try:
        database = Database(path, s3._storage_backend)
        LOG.info("%d objects restored from %s", database.load(), path)
    except Exception:
        LOG.exception("the state in %s cannot be restored; remove its volume to begin with nothing", path)
        os._exit(1)
    s3.on_after_state_load()
    # In a thread, a notification could be lost between the answer of its request and its message.
    s3._notification_dispatcher._submit_notification = lambda notifier, event, configuration: notifier.notify(event, configuration)
    keeper = Keeper(database)
    keeper.start()
    run_custom_response_handlers.append(keeper.handle)


if os.environ.get("KEEP_STATE"):
    main(os.environ["KEEP_STATE"])
