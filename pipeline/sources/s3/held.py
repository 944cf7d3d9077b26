"""Held messages: every received message that is neither deleted nor given back is extended at half its visibility.

One thread does all the talking, in batches of ten: whoever finishes a message only says so and is never held up. A lost
delete or extension costs a second delivery, which is harmless; a message is never deleted that nobody finished.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import TYPE_CHECKING, TypeAlias

from pipeline.sources.s3 import aws

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import BatchResultErrorEntryTypeDef

    Failed: TypeAlias = list[BatchResultErrorEntryTypeDef]

log = logging.getLogger(__name__)

BATCH = 10
"""Messages per request, SQS's limit."""

MAX_BACKOFF_SECONDS = 5.0
"""Between two requests to a queue that does not answer."""

TICK_SECONDS = 0.5
"""How often an idle keeper looks whether the process ends."""


class Held:
    """The messages of one queue that are in our hands. Receipts are SQS's receipt handles."""

    def __init__(self, sqs: SQSClient, url: str, *, visibility: int, limit: int) -> None:
        self.url = url
        self._sqs, self._visibility, self._limit = sqs, visibility, limit
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}  # receipt → when to extend; all have one period, so the first is due first
        self._deletes: deque[str] = deque()
        self._releases: deque[str] = deque()
        self._receiving = 0
        self._failures = 0
        self.closing = threading.Event()
        # Not a daemon: what was finished last is deleted before the process ends.
        self._thread = threading.Thread(target=self._keep, name="sqs-keeper", daemon=False)
        self._thread.start()

    # For the receivers and whoever finishes a message ------------------------------------------------------------

    def hold(self, receipts: Iterable[str]) -> None:
        """Keep these invisible until they are deleted or released. Their visibility began just now."""
        due = time.monotonic() + self._visibility / 2
        with self._changed:
            self._due.update(dict.fromkeys(receipts, due))
            self._changed.notify_all()

    def delete(self, receipt: str) -> None:
        """The message is finished. Nothing happens if it is in our hands no longer."""
        self._leave(receipt, self._deletes)

    def release(self, receipt: str) -> None:
        """Give the message back unfinished, so that it is delivered again at once."""
        self._leave(receipt, self._releases)

    def wait_for_room(self, seconds: float) -> bool:
        """Whether fewer messages than the limit are held, waiting a moment for it."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._due) < self._limit, seconds)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Around each receiver's life. It ends soon after `closing` is set."""
        with self._changed:
            self._receiving += 1
        try:
            yield
        finally:
            with self._changed:
                self._receiving -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Receive no more. What is still held is kept until it is finished, released, or the process ends."""
        self.closing.set()
        with self._changed:
            self._changed.notify_all()

    def _leave(self, receipt: str, outbox: deque[str]) -> None:
        with self._changed:
            if self._due.pop(receipt, None) is not None:
                outbox.append(receipt)
                self._changed.notify_all()

    # The keeper's thread ------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while True:
            if ending := not threading.main_thread().is_alive():
                self.close()
            with self._changed:
                if ending:
                    self._releases.extend(self._due)
                    self._due.clear()
                if self.closing.is_set() and not (self._receiving or self._due or self._deletes or self._releases):
                    return
                self._changed.wait_for(lambda: self._deletes or self._may_release(), self._pause())
                deletes = _take(self._deletes)
                releases = _take(self._releases) if self._may_release() else []
                extensions = self._take_due()
            self._request("delete", deletes, self._delete, self._deletes.extend)
            self._request("release", releases, lambda receipts: self._set_visibility(receipts, 0), self._releases.extend)
            self._request("extend", extensions, lambda receipts: self._set_visibility(receipts, self._visibility), self._extend_soon)
            if ending and self._failures:
                return  # nobody answers: the queue's own timeout gives the rest back

    def _may_release(self) -> bool:
        """At the end, only after our last poll has returned: it would take what we give back, and carry it to the grave."""
        return bool(self._releases) and not (self.closing.is_set() and self._receiving)

    def _pause(self) -> float:
        first = next(iter(self._due.values()), None)
        return TICK_SECONDS if first is None else min(TICK_SECONDS, max(0.0, first - time.monotonic()))

    def _take_due(self) -> list[str]:
        now = time.monotonic()
        receipts = list(islice(takewhile(lambda receipt: self._due[receipt] <= now, self._due), BATCH))
        for receipt in receipts:  # to the end of the line, so that the first stays the first that is due
            del self._due[receipt]
            self._due[receipt] = now + self._visibility / 2
        return receipts

    def _request(self, action: str, receipts: list[str], call: Callable[[list[str]], Failed], again: Callable[[list[str]], None]) -> None:
        """Send one batch. What the network or SQS lost is sent again; what SQS refuses is no longer ours."""
        if not receipts:
            return
        try:
            failed = call(receipts)
        except aws.AwsError as error:
            self._failures += 1
            log.warning("queue did not answer", extra={"action": action, "reason": str(error)})
            with self._changed:
                again(receipts)
            time.sleep(min(MAX_BACKOFF_SECONDS, 0.1 * 2**self._failures))
            return
        self._failures = 0
        with self._changed:
            for entry in failed:
                receipt = receipts[int(entry["Id"])]
                if entry["SenderFault"]:  # expired, deleted by another receiver, or held for SQS's maximum of 12 hours
                    log.warning("message is not ours any longer", extra={"action": action, "reason": entry.get("Message", entry["Code"])})
                    self._due.pop(receipt, None)
                else:
                    again([receipt])

    def _delete(self, receipts: list[str]) -> Failed:
        answer = self._sqs.delete_message_batch(
            QueueUrl=self.url, Entries=[{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(receipts)]
        )
        return answer.get("Failed", [])

    def _set_visibility(self, receipts: list[str], seconds: int) -> Failed:
        answer = self._sqs.change_message_visibility_batch(
            QueueUrl=self.url,
            Entries=[{"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": seconds} for n, receipt in enumerate(receipts)],
        )
        return answer.get("Failed", [])

    def _extend_soon(self, receipts: list[str]) -> None:
        """An extension was lost: first in line again, while the second half of the visibility lasts."""
        mine = {receipt: time.monotonic() for receipt in receipts if self._due.pop(receipt, None) is not None}
        self._due = {**mine, **self._due}


def _take(outbox: deque[str]) -> list[str]:
    return [outbox.popleft() for _ in range(min(BATCH, len(outbox)))]
