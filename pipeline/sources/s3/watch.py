"""QueueWatch: messages of an SQS queue → deliveries, on several receivers.

A message is deleted when all of it is finished, and never else. One that we refuse (malformed, or of a foreign bucket)
is left as it is: nobody deletes or extends it, and the queue's redrive policy moves it to the dead-letter queue.
Several watches, in one process or many, may share a queue: SQS hands a message to one of them at a time.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.base.errors import ConfigurationError
from pipeline.base.model import Delivery, DocumentEvent
from pipeline.sources.s3 import aws
from pipeline.sources.s3.held import BATCH, Held
from pipeline.sources.s3.notification import NotificationError, Record, parse

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

log = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 30.0
"""Between two polls of a queue that does not answer."""

LOOK_AGAIN_SECONDS = 0.1
"""How often an idle watch looks whether it should stop."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one message: its events are handed out; with a `refusal` it is not ours to delete."""

    events: tuple[DocumentEvent, ...] = ()
    refusal: str = ""


def judge(body: str | bytes, bucket: str, event_of: Callable[[Record], DocumentEvent | None]) -> Verdict:
    """Pure: which events a message holds, each document once, and why it must be refused, if so.

    The good records of a refused message count: they are delivered with each of its receipts, and a look does no harm.
    """
    try:
        notification = parse(body)
    except NotificationError as error:
        return Verdict(refusal=str(error))
    ours = [record for record in notification.records if record.bucket == bucket]
    foreign = sorted({record.bucket for record in notification.records} - {bucket})
    faults = [*notification.faults, *(f"bucket {name} is not ours" for name in foreign)]
    events = {event.uri: event for event in map(event_of, ours) if event}
    return Verdict(tuple(events.values()), "; ".join(faults))


class QueueWatch:
    """One queue, watched for one bucket. `event_of` says which records matter, `refused` hears of each refusal."""

    def __init__(
        self,
        sqs: SQSClient,
        name: str,
        bucket: str,
        event_of: Callable[[Record], DocumentEvent | None],
        refused: Callable[[str, str], None],
        *,
        receivers: int,
        wait_seconds: int,
        visibility: int,
        max_held: int,
    ) -> None:
        self._sqs, self._name, self._bucket = sqs, name, bucket
        self._event_of, self._refused = event_of, refused
        self._receivers, self._wait, self._visibility, self._max_held = receivers, wait_seconds, visibility, max_held
        self._inbox: queue.Queue[Delivery | Exception] = queue.Queue(maxsize=receivers * BATCH)

    def check(self) -> None:
        """Raise ConfigurationError where the queue cannot be used at all, Unavailable where nobody answers."""
        try:
            answer = self._sqs.get_queue_attributes(QueueUrl=self._url(), AttributeNames=["RedrivePolicy"])
        except aws.AwsError as error:
            raise aws.fault(error, f"queue {self._name}") from error
        if "RedrivePolicy" not in answer.get("Attributes", {}):
            log.warning("queue has no dead-letter queue, a refused message comes back for days", extra={"action": "check"})

    def deliveries(self, stop: threading.Event) -> Iterator[Delivery]:
        """Deliveries until `stop` is set. Those that nobody took are given back; the others stay held until finished."""
        held = Held(self._sqs, self._url(), visibility=self._visibility, limit=self._max_held)
        threads = [
            threading.Thread(target=self._receive, args=(held,), name=f"sqs-receiver-{n}", daemon=True) for n in range(self._receivers)
        ]
        try:
            for thread in threads:
                thread.start()
            while not stop.is_set():
                try:
                    found = self._inbox.get(timeout=LOOK_AGAIN_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            held.close()
            self._give_back()

    def _url(self) -> str:
        if "://" in self._name:
            return self._name
        try:
            return self._sqs.get_queue_url(QueueName=self._name)["QueueUrl"]
        except aws.AwsError as error:
            raise aws.fault(error, f"queue {self._name}") from error

    def _give_back(self) -> None:
        with suppress(queue.Empty):
            while True:
                if isinstance(found := self._inbox.get_nowait(), Delivery):
                    found.release()

    # A receiver's thread -------------------------------------------------------------------------------------------

    def _receive(self, held: Held) -> None:
        failures = 0
        with held.receiving():
            while not held.closing.is_set():
                if not held.wait_for_room(LOOK_AGAIN_SECONDS):
                    continue
                try:
                    self._take(held, self._poll(held.url))
                    failures = 0
                except aws.AwsError as error:
                    failures += 1
                    self._recover(held, error, failures)
                except Exception as error:  # a bug ends the watch loudly, not one of its threads in silence
                    self._put(held, error)
                    return

    def _recover(self, held: Held, error: Exception, failures: int) -> None:
        """Wait, then ask again; or end the watch where no waiting helps."""
        fault = aws.fault(error, f"queue {self._name}")
        if isinstance(fault, ConfigurationError):
            self._put(held, fault)
        if not held.closing.is_set():
            log.warning("queue did not answer", extra={"action": "receive", "reason": str(error), "failures": failures})
            held.closing.wait(min(MAX_BACKOFF_SECONDS, 0.5 * 2 ** min(failures, 10)))

    def _poll(self, url: str) -> list[MessageTypeDef]:
        answer = self._sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=self._wait, VisibilityTimeout=self._visibility
        )
        return answer.get("Messages", [])

    def _take(self, held: Held, messages: list[MessageTypeDef]) -> None:
        """Hold the whole batch before the first of it is handed out: the last must not expire while the first waits."""
        verdicts = [(message, judge(message["Body"], self._bucket, self._event_of)) for message in messages]
        held.hold(message["ReceiptHandle"] for message, verdict in verdicts if not verdict.refusal)
        for message, verdict in verdicts:
            receipt = message["ReceiptHandle"]
            if verdict.refusal:
                self._refused(message["MessageId"], verdict.refusal)
                if verdict.events:
                    self._put(held, Delivery(verdict.events))
            elif verdict.events:
                self._put(held, Delivery(verdict.events, ack=partial(held.delete, receipt), release=partial(held.release, receipt)))
            else:
                held.delete(receipt)  # a test event, or nothing below our prefix

    def _put(self, held: Held, item: Delivery | Exception) -> None:
        """Into the inbox, waiting for room: that is the backpressure. What comes too late is given back."""
        while not held.closing.is_set():
            try:
                self._inbox.put(item, timeout=LOOK_AGAIN_SECONDS)
            except queue.Full:
                continue
            if held.closing.is_set():  # the watch may have emptied the inbox just before
                self._give_back()
            return
        if isinstance(item, Delivery):
            item.release()
