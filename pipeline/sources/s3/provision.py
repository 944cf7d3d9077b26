"""Creates what the bucket source needs: bucket, queue, dead-letter queue, and the notification between them. Idempotent.

Run twice, it changes nothing; whatever else is configured on the bucket and the queue stays. It imports boto3 and the
standard library only, because LocalStack runs this very file in a Python of its own, where dropdex is not installed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*", "s3:ObjectRestore:Completed"]

MAX_RECEIVES = 5
"""Receipts of one message before it goes to the dead-letter queue."""

VISIBILITY_SECONDS = 60
"""Seconds until a message comes back whose receiver died; a living receiver extends it."""

DEAD_LETTER_SECONDS = 14 * 24 * 3600
"""The longest that SQS keeps a message."""


@dataclass(frozen=True)
class Provisioned:
    """What is there now."""

    bucket: str
    queue: str
    queue_url: str
    dead_letter_url: str


def provision(
    bucket: str,
    queue: str,
    *,
    index: str = "",
    prefix: str = "",
    endpoint: str = "",
    region: str = "",
    visibility: int = VISIBILITY_SECONDS,
) -> Provisioned:
    """Make bucket and queues, and have the bucket tell the queue of every change under `prefix`. Raises botocore's errors.

    With `index`, make a bucket of that name too, of which no queue is told.
    """
    import boto3

    connect: Any = partial(boto3.client, region_name=region or None, endpoint_url=endpoint or None)
    s3, sqs = connect("s3", config=_config(endpoint)), connect("sqs")
    for name in filter(None, (bucket, index)):
        _make_bucket(s3, name)
    dead_url = sqs.create_queue(QueueName=f"{queue}-dead-letters")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=dead_url, Attributes={"MessageRetentionPeriod": str(DEAD_LETTER_SECONDS)})
    url = sqs.create_queue(QueueName=queue)["QueueUrl"]
    arn = _arn(sqs, url)
    attributes = {
        "VisibilityTimeout": str(visibility),
        "ReceiveMessageWaitTimeSeconds": "20",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": _arn(sqs, dead_url), "maxReceiveCount": MAX_RECEIVES}),
        "Policy": _policy(sqs, url, arn, bucket),
    }
    sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
    _notify(s3, bucket, arn, prefix)
    return Provisioned(bucket, queue, url, dead_url)


def _config(endpoint: str) -> Any:
    from botocore.config import Config

    # Path style, because "bucket.localstack" resolves nowhere.
    return Config(s3={"addressing_style": "path"}) if endpoint else None


def _make_bucket(s3: Any, bucket: str) -> None:
    region = s3.meta.region_name or "us-east-1"
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        s3.create_bucket(Bucket=bucket, **place)
    except s3.exceptions.BucketAlreadyOwnedByYou:
        return


def _arn(sqs: Any, url: str) -> str:
    return str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def _policy(sqs: Any, url: str, arn: str, bucket: str) -> str:
    """The queue's policy with our statement in it: S3 may send, for this bucket of this account and for no other."""
    present = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes", {}).get("Policy")
    sid = f"dropdex-{bucket}".replace(".", "-")
    others = [statement for statement in json.loads(present)["Statement"] if statement.get("Sid") != sid] if present else []
    partition, account = arn.split(":")[1], arn.split(":")[4]
    ours = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": f"arn:{partition}:s3:::{bucket}"}, "StringEquals": {"aws:SourceAccount": account}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [*others, ours]})


def _notify(s3: Any, bucket: str, arn: str, prefix: str) -> None:
    name = f"dropdex-{arn.rpartition(':')[2]}"
    present = s3.get_bucket_notification_configuration(Bucket=bucket)
    present.pop("ResponseMetadata", None)
    ours: dict[str, Any] = {"Id": name, "QueueArn": arn, "Events": EVENTS}
    if prefix:
        ours["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}}
    others = [one for one in present.get("QueueConfigurations", []) if one.get("Id") != name]
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={**present, "QueueConfigurations": [*others, ours]})


def main() -> None:
    parser = argparse.ArgumentParser(description="Create the bucket, the queues and the notification that dropdex needs. Idempotent.")
    parser.add_argument("bucket")
    parser.add_argument("queue")
    parser.add_argument("--index", default="", help="a second bucket, for the index")
    parser.add_argument("--endpoint", default="", help="URL of LocalStack or another emulator; AWS itself where left out")
    parser.add_argument("--region", default="", help="AWS region; the environment's where left out")
    parser.add_argument("--prefix", default="", help="only objects whose key starts so are told of")
    print(json.dumps(asdict(provision(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
