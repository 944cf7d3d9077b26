from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from emulated import Bucket, error, inject, message, record, until

from pipeline.base.errors import ConfigurationError, Unavailable
from pipeline.base.model import Delivery

# What happens in the bucket -----------------------------------------------------------------------------------------


def test_an_upload_is_delivered_and_its_message_deleted_once_acknowledged(bucket: Bucket) -> None:
    with bucket.watching(acknowledge=False) as watch:
        until(lambda: bucket.waiting() == 0)  # some send a test event when the notifications are set up
        uri = bucket.put("a.txt")

        until(lambda: uri in watch.uris)
        assert bucket.waiting() == 1

        watch.acknowledge_all()
        until(lambda: bucket.waiting() == 0)
    assert watch.deliveries[0].events[0].size == len(b"some text")


def test_every_kind_of_change_is_delivered(bucket: Bucket) -> None:
    with bucket.watching() as watch:
        for key in ("put", "removed"):
            bucket.put(key)
        until(lambda: len(set(watch.uris)) == 2)
        watch.deliveries.clear()

        bucket.put("put", b"overwritten")
        bucket.delete("removed")
        bucket.s3.copy_object(Bucket=bucket.name, Key="copy", CopySource={"Bucket": bucket.name, "Key": "put"})
        upload = {"Bucket": bucket.name, "Key": "in parts"}
        upload["UploadId"] = bucket.s3.create_multipart_upload(**upload)["UploadId"]
        part = {"PartNumber": 1, "ETag": bucket.s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]}
        bucket.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})

        until(lambda: set(watch.uris) == {bucket.uri(key) for key in ("put", "removed", "copy", "in parts")})


def test_a_delete_marker_is_delivered_and_found_gone(bucket: Bucket) -> None:
    bucket.s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    uri = bucket.put("a.txt")

    with bucket.watching() as watch:
        until(lambda: watch.uris == [uri])
        bucket.delete("a.txt")
        if bucket.kind != "moto":  # which tells nobody of deletes in a versioned bucket: there, the listing has to find them
            until(lambda: watch.uris == [uri, uri])

    assert bucket.source().read(uri) is None
    assert list(bucket.source().list()) == []


AWKWARD = [
    "a b+c%20d%2B.txt",
    "ünï/日本語/😀.txt",
    "&'\"<>.txt",
    "!*()@:,$=;?#[]{}|\\^`~.txt",
    "//double//.txt",
    "é.txt",  # as two characters: e and an accent
    "é.txt",  # as one
    "%ff%zz%.txt",
    "x" * 1000 + ".txt",
]
CONTROL = "line\nbreak\ttab.txt"


def test_awkward_keys_are_delivered_listed_and_read_as_they_are(bucket: Bucket) -> None:
    keys = AWKWARD if bucket.kind == "moto" else [*AWKWARD, CONTROL]  # moto has no route to such a key
    if bucket.kind == "moto":
        keys = [key for key in keys if not key.startswith("/")]
    uris = {bucket.put(key, key.encode()) for key in keys}

    with bucket.watching() as watch:
        until(lambda: set(watch.uris) == uris)

    source = bucket.source()
    assert {line.uri for line in source.list()} == uris
    assert {source.read(uri).data.decode() for uri in uris} == set(keys)  # type: ignore[union-attr]


def test_only_documents_below_the_prefix_are_delivered_and_all_other_messages_deleted(local_bucket: Bucket) -> None:
    with local_bucket.watching("in", suffixes=(".txt", ".MD"), ignore=("*~",)) as watch:
        wanted = {local_bucket.put(key) for key in ("in/a.txt", "in/b/c.md", "in/D.TXT")}
        for key in ("out/a.txt", "in2/a.txt", "in/a.pdf", "in/a.txt~", "in/draft~/a.txt", "in/folder.txt/", "in"):
            local_bucket.put(key)

        until(lambda: set(watch.uris) == wanted)
        until(lambda: local_bucket.waiting() == 0)
    assert {line.uri for line in local_bucket.source("in", suffixes=(".txt", ".md"), ignore=("*~",)).list()} == wanted


# What arrives in the queue ------------------------------------------------------------------------------------------


def test_what_is_refused_ends_in_the_dead_letter_queue_and_holds_up_nobody(bucket: Bucket) -> None:
    bucket.redrive_after(2)
    refused = [
        "{",
        "not json at all",
        message(record("foreign-bucket", "a.txt")),
        message(record(bucket.name, "good.txt"), record("foreign-bucket", "bad.txt")),
        message({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket.name}, "object": {}}}),
    ]
    bucket.send(*refused)
    uri = bucket.put("behind.txt")
    bucket.expected_dead = refused

    with bucket.watching(visibility=1) as watch:
        until(lambda: uri in watch.uris)
        until(lambda: bucket.waiting() == 0, 20)

    assert set(watch.uris) == {uri, bucket.uri("good.txt")}
    assert watch.source.refused >= len(refused)


def test_a_thousand_duplicates_come_to_one_document(local_bucket: Bucket) -> None:
    with local_bucket.watching() as watch:
        local_bucket.send(*[message(record(local_bucket.name, "a.txt"))] * 1000)
        until(lambda: len(watch.deliveries) >= 1000)
        until(lambda: local_bucket.waiting() == 0)
    assert set(watch.uris) == {local_bucket.uri("a.txt")}


def test_a_message_of_many_records_is_one_delivery_with_each_document_once(local_bucket: Bucket) -> None:
    with local_bucket.watching(acknowledge=False) as watch:
        local_bucket.send(message(*(record(local_bucket.name, f"{n % 20}.txt") for n in range(40))))
        until(lambda: len(watch.deliveries) == 1)
        watch.acknowledge_all()
        until(lambda: local_bucket.waiting() == 0)
    assert sorted(watch.uris) == sorted(local_bucket.uri(f"{n}.txt") for n in range(20))


def test_late_and_reordered_events_show_what_is_there_now(bucket: Bucket) -> None:
    """Whatever the order and age of the hints, the look that follows each finds the last write."""
    uri = bucket.put("a.txt", b"first")
    bucket.put("a.txt", b"second")
    old = record(bucket.name, "a.txt") | {"eventTime": "2001-01-01T00:00:00.000Z"}
    removal = record(bucket.name, "a.txt", "ObjectRemoved:Delete") | {"eventTime": "2001-01-01T00:00:00.000Z"}
    bucket.send(message(removal), message(old))

    with bucket.watching() as watch:
        until(lambda: len(watch.uris) >= 4)
    content = watch.source.read(uri)

    assert content is not None
    assert content.data == b"second"  # type: ignore[union-attr]


# Holding messages ---------------------------------------------------------------------------------------------------


def messages_for(bucket: Bucket, count: int) -> list[str]:
    return [message(record(bucket.name, f"{n}.txt")) for n in range(count)]


def test_every_held_message_is_extended_until_it_is_finished(local_bucket: Bucket) -> None:
    with local_bucket.watching(acknowledge=False, visibility=2) as watch:
        local_bucket.send(*messages_for(local_bucket, 25))
        until(lambda: len(watch.deliveries) == 25)

        time.sleep(5)  # two and a half times the visibility

        assert len(watch.deliveries) == 25
        watch.acknowledge_all()
        until(lambda: local_bucket.waiting() == 0)


def test_what_is_unfinished_at_the_end_is_given_back_at_once(local_bucket: Bucket) -> None:
    local_bucket.send(*messages_for(local_bucket, 25))
    with local_bucket.watching(acknowledge=False, visibility=300) as first:
        until(lambda: len(first.deliveries) == 25)

    with local_bucket.watching(visibility=300) as second:
        until(lambda: len(second.deliveries) == 25)


def test_a_slow_pipeline_stops_the_receivers(local_bucket: Bucket) -> None:
    local_bucket.watched = True
    stop, taken = threading.Event(), 0
    local_bucket.send(*messages_for(local_bucket, 100))
    deliveries = local_bucket.source(receivers=1, max_held=20).watch(stop)
    assert next(deliveries) == Delivery(())
    open_ones = [next(deliveries)]

    time.sleep(1.5)

    assert local_bucket.count("NotVisible") <= 30  # the limit, and the batch that reached it
    while taken < 100:
        open_ones.pop().ack()
        taken += 1
        if taken < 100:
            open_ones.append(next(deliveries))  # type: ignore[arg-type]
    stop.set()
    assert list(deliveries) == []


def test_two_watches_on_one_queue_lose_and_double_nothing(local_bucket: Bucket) -> None:
    with local_bucket.watching() as one, local_bucket.watching() as other:
        bodies = messages_for(local_bucket, 300)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda start: local_bucket.send(*bodies[start : start + 10]), range(0, 300, 10)))
        until(lambda: len(one.uris) + len(other.uris) >= 300)
        until(lambda: local_bucket.waiting() == 0)

    assert sorted(one.uris + other.uris) == sorted(local_bucket.uri(f"{n}.txt") for n in range(300))
    assert one.uris
    assert other.uris


PROCESS = """
import sys, threading
from pipeline.sources.s3 import S3Source
source = S3Source(sys.argv[1], queue=sys.argv[2], endpoint=sys.argv[3], wait_seconds=1, visibility=300)
deliveries = source.watch(threading.Event())
taken = [next(deliveries) for _ in range(11)]
if sys.argv[4] == "acknowledge":
    for delivery in taken:
        delivery.ack()
"""


@pytest.mark.parametrize(("manner", "left"), [("acknowledge", 0), ("leave", 10)])
def test_a_process_that_ends_deletes_what_it_finished_and_gives_back_the_rest(local_bucket: Bucket, manner: str, left: int) -> None:
    with local_bucket.watching():
        until(lambda: local_bucket.waiting() == 0)  # the test event of the set-up
    local_bucket.send(*messages_for(local_bucket, 10))

    arguments = [local_bucket.name, local_bucket.queue, local_bucket.endpoint, manner]
    subprocess.run([sys.executable, "-c", PROCESS, *arguments], check=True, timeout=30)

    assert (local_bucket.count(""), local_bucket.count("NotVisible")) == (left, 0)
    with local_bucket.watching() as watch:
        until(lambda: len(watch.uris) == left)


# Faults -------------------------------------------------------------------------------------------------------------


def test_a_queue_that_is_throttled_is_asked_again(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {name: iter([error(503, "ServiceUnavailable")] * 5) for name in ("ReceiveMessage", "DeleteMessageBatch")}
    for name, answers in faults.items():
        inject(monkeypatch, "sqs", name, lambda answers=answers: next(answers, None))  # type: ignore[misc]

    with local_bucket.watching() as watch:
        uri = local_bucket.put("a.txt")
        until(lambda: uri in watch.uris)
        until(lambda: local_bucket.waiting() == 0)
    assert all(next(answers, None) is None for answers in faults.values())


def test_a_lost_extension_is_sent_again(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([error(503, "ServiceUnavailable")] * 4)
    inject(monkeypatch, "sqs", "ChangeMessageVisibilityBatch", lambda: next(answers, None))

    with local_bucket.watching(acknowledge=False, visibility=2) as watch:
        local_bucket.send(*messages_for(local_bucket, 3))
        until(lambda: len(watch.deliveries) == 3)
        time.sleep(3)
        assert len(watch.deliveries) == 3
        watch.acknowledge_all()


def test_a_missing_queue_bucket_or_key_stops_with_a_hint(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    local_bucket.source().check()
    for source in (local_bucket.source(queue="nobody-made-this"), local_bucket.source(queue=f"{local_bucket.queue_url}-not")):
        with pytest.raises(ConfigurationError, match=r"nobody-made-this|-not") as refusal:
            source.check()
        assert "provision" in refusal.value.hint
        with pytest.raises(ConfigurationError):
            next(source.watch(threading.Event()))

    inject(monkeypatch, "s3", "ListObjectsV2", lambda: error(403, "InvalidAccessKeyId"))
    with pytest.raises(ConfigurationError, match="InvalidAccessKeyId") as refusal:
        local_bucket.source().check()
    assert "get-caller-identity" in refusal.value.hint


def test_without_credentials_the_hint_says_so(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it remembers credentials
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(ConfigurationError) as refusal:
        local_bucket.source().check()
    assert "AWS_ACCESS_KEY_ID" in refusal.value.hint


def test_a_queue_that_is_deleted_stops_the_watch(local_bucket: Bucket) -> None:
    with local_bucket.watching() as watch:
        local_bucket.sqs.delete_queue(QueueUrl=local_bucket.queue_url)
        until(lambda: watch.error)
    local_bucket.watched = False
    assert isinstance(watch.error, ConfigurationError)


def test_nobody_at_the_endpoint_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.sources.s3 import S3Source

    inject(monkeypatch, "s3", "Nothing", lambda: None)  # only for its quick backoff
    source = S3Source("documents", queue="events", endpoint="http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        source.check()
    with pytest.raises(Unavailable):
        next(source.watch(threading.Event()))


def test_without_a_queue_the_watch_is_armed_and_silent(local_bucket: Bucket) -> None:
    stop = threading.Event()
    deliveries = local_bucket.source(queue=None).watch(stop)
    assert next(deliveries) == Delivery(())
    stop.set()
    assert list(deliveries) == []
