"""Two watchers and three embedding workers on one queue and an S3 home: nothing lost, nothing doubled, nothing embedded twice."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated import Bucket
from history import History, cluster, reconcile, take

from pipeline.verify import problems

OPERATIONS, KILLS = 150, 3


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path is short."""
    folder = Path(tempfile.mkdtemp(prefix="dropdex-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(400)
def test_index_equals_bucket_after_lost_and_doubled_events_and_kills(
    localstack: str, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two watchers and three embedding workers, and somebody who steals and doubles messages
    monkeypatch.setenv("AWS_ENDPOINT_URL", localstack)
    history = History(Bucket(localstack, "localstack"), random.Random(7))
    with cluster(localstack, history.bucket, short_folder) as (made, context):
        # When objects are put, overwritten, copied and deleted while processes are killed
        thief = take(history, made, OPERATIONS, KILLS)
        assert thief.lost > 0
        assert thief.doubled > 0
        # Then one reconcile makes the index equal the bucket, and every message is answered
        reconcile(history, context)
        assert list(problems(context)) == []
        # And nothing was embedded twice, beyond what a killed worker had in its hands
        assert context.ledger.totals()["embeddings"] <= len(history.written)
        # And a difference that is planted is told
        made.stop()
        planted = history.bucket.put("planted.txt")
        assert list(problems(context)) == [f"{planted} is in the source, but not in the index"]
    assert history.bucket.dead() == []
