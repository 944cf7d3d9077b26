"""A queue message's body → which objects to look at. Pure: no queue, no bucket, no clock.

A notification is a hint, so nothing but the object's name is believed: not its order (sequencers are missing, constant
or reordered in the wild) and not its content. Any bytes give a Notification or raise NotificationError; a faulty record
never hides the good ones beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from pipeline.base.errors import DropdexError

MAX_ENVELOPES = 4
"""EventBridge in SNS in SQS is three; deeper nesting is not a notification."""

_IRRELEVANT = (
    "ObjectTagging:",
    "ObjectAcl:",
    "ObjectRestore:Post",  # a restore begins: still unreadable
    "ObjectRestore:Delete",  # a restored copy expires: its content was indexed and stays the same
    "Replication:",
    "LifecycleTransition",
    "IntelligentTiering",
    "Object Tags ",
    "Object ACL ",
    "Object Restore Initiated",
    "Object Restore Expired",
    "Object Storage Class ",
    "Object Access Tier ",
)
"""Event names that leave the content as it is. A name that nobody knows costs one look, and a look does no harm."""

_CREATED = ("ObjectCreated:", "Object Created")
_REMOVED = ("ObjectRemoved:", "LifecycleExpiration:", "Object Deleted")


class NotificationError(DropdexError):
    """The message is no notification from S3. Leave it alone: the queue's redrive policy moves it to the dead-letter queue."""


class Change(StrEnum):
    """What the sender says happened. Only good for counting: the source is the truth."""

    CREATED = "created"
    REMOVED = "removed"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Record:
    """One object to look at. `size` in bytes, where the sender told it."""

    bucket: str
    key: str
    change: Change
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """What one message says: the objects to look at, and a sentence for each record that could not be read."""

    records: tuple[Record, ...] = ()
    faults: tuple[str, ...] = ()


def parse(body: str | bytes) -> Notification:
    """Read a message in S3's own shape, wrapped by SNS, or from EventBridge. Raises NotificationError."""
    for _ in range(MAX_ENVELOPES):
        envelope = _json_object(body)
        if isinstance(records := envelope.get("Records"), list):
            return _collect(records, _from_s3)
        if "detail-type" in envelope:
            return _collect([envelope], _from_eventbridge)
        if envelope.get("Event") == "s3:TestEvent":
            return Notification()
        if not isinstance(inner := envelope.get("Message"), str):
            raise NotificationError("the message has neither Records, nor a detail-type, nor a Message")
        body = inner
    raise NotificationError(f"the message is wrapped more than {MAX_ENVELOPES - 1} times")


def _json_object(body: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotificationError(f"the message is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise NotificationError("the message is not a JSON object")
    return value


def _collect(sent: list[Any], read: Callable[[Any], list[Record]]) -> Notification:
    records: list[Record] = []
    faults: list[str] = []
    for one in sent:
        try:
            records += read(one)
        except NotificationError as error:
            faults.append(str(error))
    return Notification(tuple(records), tuple(faults))


def _from_s3(sent: Any) -> list[Record]:
    """A record as S3 sends it, to SQS and SNS alike: its key is encoded as in a form, so a space is `+` or `%20`."""
    name = _text(sent, "eventName").removeprefix("s3:")
    if name.startswith(_IRRELEVANT):
        return []
    try:
        key = unquote_plus(_text(sent, "s3", "object", "key"), errors="strict")
    except UnicodeDecodeError as error:
        raise NotificationError("a record's key is not UTF-8") from error
    return [_record(_text(sent, "s3", "bucket", "name"), key, name, _at(sent, "s3", "object", "size"))]


def _from_eventbridge(event: Any) -> list[Record]:
    """An event of EventBridge: its key is raw from AWS and encoded from LocalStack, and nothing tells which.

    Where the two readings differ, both are looked at: the one that does not exist is found gone, which it is.
    """
    name = _text(event, "detail-type")
    if name.startswith(_IRRELEVANT):
        return []
    raw, bucket, size = (
        _text(event, "detail", "object", "key"),
        _text(event, "detail", "bucket", "name"),
        _at(event, "detail", "object", "size"),
    )
    return [_record(bucket, key, name, size) for key in dict.fromkeys((raw, unquote_plus(raw)))]


def _record(bucket: str, key: str, name: str, size: Any) -> Record:
    if not bucket:
        raise NotificationError("a record names no bucket")
    if not key:
        raise NotificationError("a record names no key")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise NotificationError("a record's key is not UTF-8") from error
    return Record(bucket, key, _change(name), size if type(size) is int and size >= 0 else None)


def _change(name: str) -> Change:
    if name.startswith(_CREATED):
        return Change.CREATED
    return Change.REMOVED if name.startswith(_REMOVED) else Change.OTHER


def _at(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _text(value: Any, *path: str) -> str:
    found = _at(value, *path)
    return found if isinstance(found, str) else ""
