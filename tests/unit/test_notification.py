"""Bodies are as AWS documents them and as LocalStack 4.13.1, ministack 1.5 and moto 5.2 sent them, shortened."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.s3.notification import Change, Notification, NotificationError, Record, parse

KEY = "a b+c%20d ü/日本.txt"


def s3_record(key: object, name: str = "ObjectCreated:Put", bucket: str = "docs", **other: object) -> dict[str, Any]:
    return {"eventSource": "aws:s3", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key, **other}}}


def s3_message(*records: object) -> str:
    return json.dumps({"Records": records})


def sns(message: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:000000000000:t", "Message": message})


def eventbridge(key: str, name: str = "Object Created", **other: object) -> str:
    detail = {"version": "0", "bucket": {"name": "docs"}, "object": {"key": key, **other}, "reason": "PutObject"}
    return json.dumps({"version": "0", "detail-type": name, "source": "aws.s3", "detail": detail})


TEST_EVENT = json.dumps(
    {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "docs", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB"}
)


@pytest.mark.parametrize("encode", [quote, quote_plus, lambda key: quote(key, safe="")], ids=["localstack", "aws", "moto"])
@pytest.mark.parametrize("wrap", [str, sns, lambda body: sns(sns(body))], ids=["direct", "sns", "sns-in-sns"])
def test_a_key_is_decoded_whoever_encoded_it(encode: Any, wrap: Any) -> None:
    body = wrap(s3_message(s3_record(encode(KEY), size=3)))

    assert parse(body).records == (Record("docs", KEY, Change.CREATED, 3),)
    assert parse(body.encode()) == parse(body)


def test_every_record_of_a_message_is_read() -> None:
    found = parse(s3_message(s3_record("a"), s3_record("b", "ObjectRemoved:Delete"), s3_record("c", bucket="other")))

    assert [(record.bucket, record.key) for record in found.records] == [("docs", "a"), ("docs", "b"), ("other", "c")]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ObjectCreated:Put", Change.CREATED),
        ("s3:ObjectCreated:Put", Change.CREATED),
        ("ObjectCreated:Post", Change.CREATED),
        ("ObjectCreated:Copy", Change.CREATED),
        ("ObjectCreated:CompleteMultipartUpload", Change.CREATED),
        ("ObjectRemoved:Delete", Change.REMOVED),
        ("ObjectRemoved:DeleteMarkerCreated", Change.REMOVED),
        ("LifecycleExpiration:Delete", Change.REMOVED),
        ("LifecycleExpiration:DeleteMarkerCreated", Change.REMOVED),
        ("ObjectRestore:Completed", Change.OTHER),
        ("ReducedRedundancyLostObject", Change.OTHER),
        ("SomethingNew:In2031", Change.OTHER),
    ],
)
def test_what_may_change_content_is_looked_at(name: str, change: Change) -> None:
    assert parse(s3_message(s3_record("a", name))).records == (Record("docs", "a", change),)


@pytest.mark.parametrize(
    "name",
    ["ObjectTagging:Put", "ObjectAcl:Put", "ObjectRestore:Post", "ObjectRestore:Delete", "LifecycleTransition", "IntelligentTiering"],
)
def test_what_leaves_the_content_is_not_looked_at(name: str) -> None:
    assert parse(s3_message(s3_record("a", name))) == Notification()


@pytest.mark.parametrize(
    ("name", "change"),
    [("Object Created", Change.CREATED), ("Object Deleted", Change.REMOVED), ("Object Restore Completed", Change.OTHER)],
)
def test_events_of_eventbridge(name: str, change: Change) -> None:
    assert parse(eventbridge("ü.txt", name, size=7)).records == (Record("docs", "ü.txt", change, 7),)
    assert parse(sns(eventbridge("ü.txt", name))).records == (Record("docs", "ü.txt", change),)


def test_eventbridge_on_tags_is_not_looked_at() -> None:
    assert parse(eventbridge("a", "Object Tags Added")) == Notification()


@pytest.mark.parametrize("sent", [KEY, quote(KEY)], ids=["aws-raw", "localstack-encoded"])
def test_a_key_of_eventbridge_is_looked_at_in_both_readings(sent: str) -> None:
    keys = [record.key for record in parse(eventbridge(sent)).records]

    assert sent in keys
    assert KEY in keys
    assert len(keys) <= 2


@pytest.mark.parametrize("body", [TEST_EVENT, sns(TEST_EVENT), s3_message()])
def test_nothing_to_look_at(body: str) -> None:
    assert parse(body) == Notification()


@pytest.mark.parametrize("size", [None, -1, "7", 1.5, True, [1]])
def test_a_size_that_is_none_is_unknown(size: object) -> None:
    assert parse(s3_message(s3_record("a", size=size))).records[0].size is None


@pytest.mark.parametrize("key", [None, "", 7, [], "%ff%fe", "\ud800"])
def test_a_record_without_a_key_is_a_fault_and_hides_no_other(key: object) -> None:
    found = parse(s3_message(s3_record("before"), s3_record(key), s3_record("after")))

    assert [record.key for record in found.records] == ["before", "after"]
    assert len(found.faults) == 1


@pytest.mark.parametrize("record", [None, 3, {}, {"s3": None}, {"s3": {"object": {"key": "a"}}}, {"s3": {"bucket": {"name": 1}}}])
def test_a_record_that_is_none_is_a_fault(record: object) -> None:
    assert parse(s3_message(record)).records == ()
    assert len(parse(s3_message(record)).faults) == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        b"\xff\xfe\x00",
        "[" * 100_000,
        "9" * 5000,
        "{}",
        '{"Message": 3}',
        '{"Message": "{"}',
        '{"Event": 1}',
    ],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_no_notification(body: str | bytes) -> None:
    with pytest.raises(NotificationError):
        parse(body)


def test_wrapping_has_an_end() -> None:
    body = TEST_EVENT
    for _ in range(5):
        body = sns(body)

    with pytest.raises(NotificationError, match="wrapped"):
        parse(body)


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)


@given(KEYS)
def test_any_key_survives_every_envelope(key: str) -> None:
    for body in (s3_message(s3_record(quote(key))), sns(s3_message(s3_record(quote_plus(key))))):
        assert [record.key for record in parse(body).records] == [key]
    for body in (eventbridge(key), eventbridge(quote(key))):
        assert key in [record.key for record in parse(body).records]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Records", "Message", "Event", "detail-type", "detail", "eventName", "s3", "bucket", "object", "name", "key", "size", "x"]
            ),
            inner,
        )
    ),
)


@given(JSON.map(json.dumps) | st.binary() | st.text() | JSON.map(lambda value: sns(json.dumps(value))) | JSON.map(s3_message))
def test_any_bytes_give_a_notification_or_our_error(body: str | bytes) -> None:
    try:
        found = parse(body)
    except NotificationError:
        return
    for record in found.records:
        assert record.bucket
        assert record.key.encode()
