"""AWS clients, and what their errors mean: whose fault, what next.

One place decides between "stop, the operator must act" and "try again": a wrong decision there either hides a typo for
ever or stops a pipeline over a busy minute.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from urllib3.exceptions import HTTPError

from pipeline.base.errors import ConfigurationError, DropdexError, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

AwsError = (ClientError, BotoCoreError, HTTPError)
"""Everything that a call of a client raises; the last is urllib3's, which botocore lets through where an answer ends too early."""

MAX_CONNECTIONS = 32
"""Per client, and clients are shared by threads: more than the reads and receivers that run at a time."""

_making = Lock()
"""boto3's clients may be shared by threads, but its session, which makes them, may not."""

_WHO = "see who you are with: aws sts get-caller-identity"
_HINTS = {
    "NoSuchBucket": "create it with: dropdex aws provision",
    "AWS.SimpleQueueService.NonExistentQueue": "create it with: dropdex aws provision",
    "QueueDoesNotExist": "create it with: dropdex aws provision",
    "AccessDenied": "grant what localstack/iam/ lists; " + _WHO,
    "AccessDeniedException": "grant what localstack/iam/ lists; " + _WHO,
    "403": "grant what localstack/iam/ lists; " + _WHO,
    "InvalidAccessKeyId": _WHO,
    "SignatureDoesNotMatch": _WHO,
    "InvalidClientTokenId": _WHO,
    "UnrecognizedClientException": _WHO,
    "AuthFailure": _WHO,
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the bucket's region",
    "InvalidAddress": "check the queue's URL",
    "InvalidBucketName": "check the bucket's name",
}
"""Codes that no retry cures, and the operator's next step. An expired token is not among them: roles renew theirs."""

_LOCAL_HINTS: dict[type[Exception], str] = {
    NoCredentialsError: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or attach a role",
    PartialCredentialsError: "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    NoRegionError: "set AWS_DEFAULT_REGION",
    InvalidRegionError: "check AWS_DEFAULT_REGION",
    ProfileNotFound: "check AWS_PROFILE",
    ParamValidationError: "check the names of bucket and queue",
}


def s3_client(*, endpoint: str = "", region: str = "") -> S3Client:
    client: S3Client = _client("s3", endpoint, region)
    if not is_amazon(client.meta.endpoint_url):
        client = _client("s3", endpoint, region, s3={"addressing_style": "path"})  # "bucket.localstack" resolves nowhere
    return client


def sqs_client(*, endpoint: str = "", region: str = "") -> SQSClient:
    client: SQSClient = _client("sqs", endpoint, region)
    return client


def _client(service: str, endpoint: str, region: str, **options: Any) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=30,  # longer than the longest poll of a queue
        retries={"mode": "standard", "total_max_attempts": 4},  # SlowDown and 5xx back off, with jitter, before they are ours
        max_pool_connections=MAX_CONNECTIONS,
        **options,
    )
    make: Any = boto3.client
    try:
        with _making:
            return make(service, region_name=region or None, endpoint_url=endpoint or None, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"no client for {service}: {error}", hint=_LOCAL_HINTS.get(type(error), "check the AWS_ settings")
        ) from error


def is_amazon(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def region_of_queue(queue: str) -> str:
    """The region that a queue's URL names; "" for a bare name or an emulator's URL."""
    host = urlsplit(queue).hostname or ""
    return host.split(".")[1] if host.startswith("sqs.") and is_amazon(queue) else ""


def code_of(error: Exception) -> str:
    """AWS's word for what went wrong; "" where nobody answered."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def fault(error: Exception, what: str) -> ConfigurationError | Unavailable:
    """What to raise about `what`, where the operator can be asked to act."""
    hint = _HINTS.get(code_of(error)) or next((hint for kind, hint in _LOCAL_HINTS.items() if isinstance(error, kind)), "")
    if hint:
        return ConfigurationError(f"{what} cannot be used: {error}", hint=hint)
    return Unavailable(f"{what} did not answer: {error}")


def unavailable(error: Exception, what: str) -> Unavailable:
    """The same sentence for a caller that must go on: a task may not stop over what a role's next hour cures."""
    found: DropdexError = fault(error, what)
    return Unavailable(str(found), hint=found.hint)
