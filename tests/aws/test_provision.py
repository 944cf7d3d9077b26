from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from emulated import HOOK, ROOT, Bucket, until

from pipeline.sources.s3 import S3Source, aws
from pipeline.sources.s3.provision import EVENTS, provision


def state_of(bucket: Bucket) -> dict[str, Any]:
    notification = bucket.s3.get_bucket_notification_configuration(Bucket=bucket.name)
    notification.pop("ResponseMetadata")
    attributes = bucket.sqs.get_queue_attributes(QueueUrl=bucket.queue_url, AttributeNames=["All"])["Attributes"]
    return {
        "notification": notification,
        "policy": json.loads(attributes["Policy"]),
        "redrive": json.loads(attributes["RedrivePolicy"]),
        "visibility": attributes["VisibilityTimeout"],
    }


def test_it_makes_what_the_source_needs_and_a_second_time_changes_nothing(bucket: Bucket) -> None:
    before = state_of(bucket)

    provision(bucket.name, bucket.queue, endpoint=bucket.endpoint)

    assert state_of(bucket) == before
    (told,) = before["notification"]["QueueConfigurations"]
    (statement,) = before["policy"]["Statement"]
    assert sorted(told["Events"]) == sorted(EVENTS)
    assert told["QueueArn"].endswith(f":{bucket.queue}")
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": f"arn:aws:s3:::{bucket.name}"}
    assert before["redrive"]["deadLetterTargetArn"].endswith(f":{bucket.queue}-dead-letters")
    assert int(before["redrive"]["maxReceiveCount"]) == 5
    bucket.source().check()


def test_it_keeps_what_others_configured(local_bucket: Bucket) -> None:
    theirs = provision(local_bucket.name, f"{local_bucket.name}-theirs", prefix="theirs/", endpoint=local_bucket.endpoint)
    provision(local_bucket.name, local_bucket.queue, endpoint=local_bucket.endpoint)

    told = local_bucket.s3.get_bucket_notification_configuration(Bucket=local_bucket.name)["QueueConfigurations"]
    assert {one["QueueArn"].rpartition(":")[2] for one in told} == {local_bucket.queue, theirs.queue}

    with local_bucket.watching() as watch:
        uri = local_bucket.put("theirs/a.txt")
        until(lambda: uri in watch.uris)


def test_the_hook_provisions_localstack_before_it_is_ready(localstack: str) -> None:
    s3: Any = aws.s3_client(endpoint=localstack)
    (told,) = s3.get_bucket_notification_configuration(Bucket=HOOK["PROVISION_BUCKET"])["QueueConfigurations"]
    assert told["QueueArn"].endswith(f":{HOOK['PROVISION_QUEUE']}")
    s3.head_bucket(Bucket=HOOK["PROVISION_INDEX"])
    S3Source.from_url(f"s3://hooked/in?queue=hooked-events&endpoint={localstack}").check()


# The real account ---------------------------------------------------------------------------------------------------

TEMPLATE = ROOT / "deploy" / "aws" / "storage.yaml"
POLICIES = ROOT / "localstack" / "iam"
NAMES = {
    "${AWS::Partition}": "aws",
    "${AWS::Region}": "REGION",
    "${AWS::AccountId}": "ACCOUNT",
    "${DocumentsBucketName}": "DOCUMENTS",
    "${IndexBucketName}": "INDEX",
    "${QueueName}": "QUEUE",
}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short functions; only !Sub is worked out."""


def substituted(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    for name, value in NAMES.items():
        text = text.replace(name, value)
    return text


Loader.add_constructor("!Sub", substituted)
for function in ("!Ref", "!GetAtt"):
    Loader.add_constructor(function, lambda loader, node: loader.construct_scalar(node))


def resources() -> dict[str, Any]:
    return yaml.load(TEMPLATE.read_text(), Loader)["Resources"]


def test_the_template_is_valid(moto: str) -> None:
    lint = ROOT / ".localstack" / "emulators" / "bin" / "cfn-lint"
    result = subprocess.run([lint, "--template", TEMPLATE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_stack_of_the_template_is_a_usable_source(moto: str) -> None:
    import boto3

    cloudformation: Any = boto3.client("cloudformation", endpoint_url=moto)
    names = {"DocumentsBucketName": "stack-documents", "IndexBucketName": "stack-index", "QueueName": "stack-events"}
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in names.items()]
    cloudformation.create_stack(StackName="s", TemplateBody=TEMPLATE.read_text(), Parameters=parameters, Capabilities=["CAPABILITY_IAM"])

    (stack,) = cloudformation.describe_stacks(StackName="s")["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}

    S3Source.from_url(outputs["Source"], endpoint=moto).check()
    assert outputs["Home"] == "s3://stack-index/index"


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_policy_of_the_template_is_the_one_beside_the_emulators(path: Path) -> None:
    template = resources()[f"{path.stem.capitalize()}Policy"]["Properties"]["PolicyDocument"]
    assert template == json.loads(path.read_text())


def test_the_template_tells_the_queue_of_the_same_events() -> None:
    told = resources()["Documents"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    assert sorted(one["Event"] for one in told) == sorted(EVENTS)
