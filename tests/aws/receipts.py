"""A start hook of LocalStack, for tests: it writes down who received which message, one line each, to the file that RECEIPTS names.

A client says who it is by AWS_SDK_UA_APP_ID. A message counts as received once LocalStack answers, whether or not the client lives to
read the answer: SQS counts so too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from localstack.aws.handlers import run_custom_response_handlers  # type: ignore[import-not-found]


def record(_: object, context: Any, __: object) -> None:
    if not context.operation or context.operation.name != "ReceiveMessage":
        return
    name = re.search(r"\bapp/(\S+)", context.request.headers.get("User-Agent", ""))
    received = (context.service_response or {}).get("Messages") or []
    with Path(os.environ["RECEIPTS"]).open("a") as receipts:
        receipts.write("".join(f"{message['MessageId']} {name[1] if name else 'somebody'}\n" for message in received))


if "RECEIPTS" in os.environ:
    run_custom_response_handlers.append(record)
