"""LocalStack with its start hook is killed and started again: what it had answered is there, in buckets, versions and queues."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus
from urllib.request import Request, urlopen

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from emulated import Bucket, server, until

from pipeline.sources.s3 import aws

Start = Any
"""Starts LocalStack on the kept state; at the end of the block it is killed."""

SLOW_SAVES = """
import time
from localstack.aws.handlers import run_custom_response_handlers
database = run_custom_response_handlers.handlers[-1].__self__._database
save = database.save
database.save = lambda parts: (time.sleep(0.1), save(parts))
"""
"""A start hook that comes after the one that is tested."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    runs = itertools.count()

    def start(**environment: str) -> AbstractContextManager[str]:
        folder = tmp_path / str(next(runs))
        folder.mkdir()
        return server("localstack", folder, KEEP_STATE=str(tmp_path / "kept"), **environment)

    return start


def reopened(bucket: Bucket, endpoint: str) -> Bucket:
    """The same bucket and queue, of which nothing is made anew."""
    other = object.__new__(Bucket)
    vars(other).update(vars(bucket), endpoint=endpoint, s3=aws.s3_client(endpoint=endpoint), sqs=aws.sqs_client(endpoint=endpoint))
    other.queue_url, other.dead_url = (
        other.sqs.get_queue_url(QueueName=name)["QueueUrl"] for name in (bucket.queue, f"{bucket.queue}-dead-letters")
    )
    return other


def keys_told(bucket: Bucket) -> Iterator[str]:
    """The keys of all messages in the queue, which this empties."""
    while found := bucket.sqs.receive_message(QueueUrl=bucket.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"):
        for message in found:
            yield from keys_in(message["Body"])
            bucket.sqs.delete_message(QueueUrl=bucket.queue_url, ReceiptHandle=message["ReceiptHandle"])


def keys_waiting(bucket: Bucket) -> Iterator[str]:
    """The keys of all messages in the queue, which stay there. LocalStack answers this, and AWS does not."""
    request = Request(f"{bucket.endpoint}/_aws/sqs/messages?QueueUrl={quote(bucket.queue_url)}", headers={"Accept": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found = json.load(answer)["ReceiveMessageResponse"]["ReceiveMessageResult"]["Message"]
    for message in found:
        yield from keys_in(message["Body"])


def keys_in(body: str) -> list[str]:
    return [unquote_plus(record["s3"]["object"]["key"]) for record in json.loads(body).get("Records", [])]


def contents(bucket: Bucket) -> dict[str, tuple[str, bytes]]:
    """Key → ETag and body of everything that is listed."""
    listed = bucket.s3.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return {one["Key"]: (one["ETag"], bucket.s3.get_object(Bucket=bucket.name, Key=one["Key"])["Body"].read()) for one in listed}


def test_objects_survive_with_their_etags(start: Start) -> None:
    # Given objects small and large, in parts, overwritten, copied, deleted, and with names that need encoding
    with start() as endpoint:
        bucket = Bucket(endpoint, "localstack")
        bucket.put("plain.txt", b"first")
        bucket.put("plain.txt", b"second", Metadata={"origin": "here"})
        bucket.put("folder 1/näme+ü?.txt", b"")
        bucket.put("large.bin", bytes(range(256)) * 4096)
        bucket.put("gone.txt")
        bucket.delete("gone.txt")
        upload: Any = {"Bucket": bucket.name, "Key": "parts.bin"}
        upload["UploadId"] = bucket.s3.create_multipart_upload(**upload)["UploadId"]
        parts = [b"a" * 5 * 1024 * 1024, b"the rest"]
        etags = [bucket.s3.upload_part(**upload, PartNumber=n, Body=part)["ETag"] for n, part in enumerate(parts, 1)]
        told = {"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]}
        bucket.s3.complete_multipart_upload(**upload, MultipartUpload=told)
        bucket.s3.copy_object(Bucket=bucket.name, Key="copy.txt", CopySource={"Bucket": bucket.name, "Key": "plain.txt"})
        before = contents(bucket)
    # When LocalStack was killed, twice
    for _ in range(2):
        with start() as endpoint:
            # Then all of it is there
            again = reopened(bucket, endpoint)
            assert contents(again) == before
            assert again.s3.head_object(Bucket=bucket.name, Key="plain.txt")["Metadata"] == {"origin": "here"}
    assert before["parts.bin"][0].endswith('-2"')
    assert set(before) == {"plain.txt", "folder 1/näme+ü?.txt", "large.bin", "parts.bin", "copy.txt"}


def test_versions_and_delete_markers_survive(start: Start) -> None:
    with start() as endpoint:
        bucket = Bucket(endpoint, "localstack")
        bucket.put("old.txt", b"from before the bucket had versions")
        bucket.s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        for body in (b"one", b"two", b"three"):
            bucket.put("many.txt", body)
        versions = bucket.s3.list_object_versions(Bucket=bucket.name, Prefix="many.txt")["Versions"]
        bucket.s3.delete_object(Bucket=bucket.name, Key="many.txt", VersionId=versions[-1]["VersionId"])
        bucket.put("marked.txt")
        bucket.delete("marked.txt")
        before = _without_metadata(bucket.s3.list_object_versions(Bucket=bucket.name))
    with start() as endpoint:
        again = reopened(bucket, endpoint)
        assert _without_metadata(again.s3.list_object_versions(Bucket=bucket.name)) == before
        assert contents(again)["many.txt"][1] == b"three"
        assert contents(again)["old.txt"][1] == b"from before the bucket had versions"
        assert again.s3.get_object(Bucket=bucket.name, Key="many.txt", VersionId=versions[1]["VersionId"])["Body"].read() == b"two"
    assert len(before["Versions"]) == 4
    assert len(before["DeleteMarkers"]) == 1


def _without_metadata(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer.get(name) for name in ("Versions", "DeleteMarkers")}


def test_queues_survive_with_what_is_in_somebodys_hands(start: Start) -> None:
    # Given one message that waits, one that somebody holds, one that is deleted, and one in the dead-letter queue
    with start() as endpoint:
        bucket = Bucket(endpoint, "localstack")
        list(keys_told(bucket))  # the test event
        bucket.sqs.send_message(QueueUrl=bucket.dead_url, MessageBody="dead")
        for key in ("deleted.txt", "held.txt"):
            bucket.put(key)
            (message,) = bucket.sqs.receive_message(QueueUrl=bucket.queue_url, WaitTimeSeconds=5)["Messages"]
            if key == "deleted.txt":
                bucket.sqs.delete_message(QueueUrl=bucket.queue_url, ReceiptHandle=message["ReceiptHandle"])
        bucket.put("waiting.txt")
        attributes = bucket.sqs.get_queue_attributes(
            QueueUrl=bucket.queue_url, AttributeNames=["RedrivePolicy", "Policy", "VisibilityTimeout"]
        )
    # When LocalStack was killed and started again
    with start() as endpoint:
        again = reopened(bucket, endpoint)
        # Then each is where it was, its receipt is valid, and the bucket goes on telling its queue
        found = again.sqs.get_queue_attributes(QueueUrl=again.queue_url, AttributeNames=["RedrivePolicy", "Policy", "VisibilityTimeout"])
        assert found["Attributes"] == attributes["Attributes"]
        assert (again.count(""), again.count("NotVisible")) == (1, 1)
        again.sqs.delete_message(QueueUrl=again.queue_url, ReceiptHandle=message["ReceiptHandle"])
        again.put("new.txt")
        assert list(keys_told(again)) == ["waiting.txt", "new.txt"]
        assert again.dead() == ["dead"]


def test_nothing_answered_is_lost_in_the_middle_of_traffic(start: Start, tmp_path: Path) -> None:
    # Given writers who note what was answered, each on keys of its own
    answered: dict[str, bytes | None] = {}
    changes: Counter[str] = Counter()
    unanswered: set[str] = set()

    def write(bucket: Bucket, writer: int) -> None:
        for n in itertools.count():
            key = f"{writer}/{n % 4}"
            body = None if n % 5 == 4 else f"{writer} wrote {n}".encode()
            try:
                bucket.delete(key) if body is None else bucket.put(key, body)
            except (BotoCoreError, ClientError):
                unanswered.add(key)
                return
            answered[key] = body
            changes[key] += 1

    # When LocalStack is killed under them, where a save takes its time
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_SAVES)
    with ThreadPoolExecutor(4) as pool:
        with start(START_HOOKS=str(slow)) as endpoint:
            bucket = Bucket(endpoint, "localstack")
            writers = [pool.submit(write, bucket, writer) for writer in range(4)]
            until(lambda: changes.total() > 80 or any(writer.done() for writer in writers), seconds=60)
        for writer in writers:
            writer.result()
    # Then everything answered is in the bucket, and in the queue
    with start() as endpoint:
        again = reopened(bucket, endpoint)
        found = {key: body for key, (_, body) in contents(again).items()}
        assert {key for key in answered if key not in unanswered and found.get(key) != answered[key]} == set()
        assert changes - Counter(keys_waiting(again)) == Counter()
    assert changes.total() > 80
    assert len(unanswered) == 4
