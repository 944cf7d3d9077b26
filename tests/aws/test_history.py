"""Two watchers and three embedding workers on one queue and an S3 home: nothing lost, nothing doubled, nothing embedded twice."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from emulated import Bucket, free_port, server
from history import History, cluster, index_of, reconcile, take, unexplained
from support import wait_until

from pipeline.observe.verify import problems

OPERATIONS, KILLS = 150, 3

LONGER_THAN_AWAY = 30
"""Seconds of visibility: a message held while the queue was away is still held when the queue is back."""


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


@pytest.mark.timeout(400)
def test_index_follows_a_bucket_that_is_killed_and_comes_back(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a cluster on a LocalStack that keeps its state, documents and index together
    port = free_port()

    def localstack() -> AbstractContextManager[str]:
        return server("localstack", short_folder, port=port, KEEP_STATE=str(short_folder / "kept"))

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with ExitStack() as whole:
        with localstack() as endpoint:
            history = History(Bucket(endpoint, "localstack"), random.Random(11))
            made, context = whole.enter_context(cluster(endpoint, history.bucket, short_folder, visibility=LONGER_THAN_AWAY))
            # When it is killed in the middle of their work, twice
            for number in range(30):
                history.step(number)
        for begin in (30, 45):
            with localstack():
                for number in range(begin, begin + 15):
                    history.step(number)
        # Then the index comes to equal the bucket without a reconcile, and every message is answered
        whole.enter_context(localstack())
        wait_until(lambda: index_of(context) == history.expected(), "the index to equal the bucket", 240)
        wait_until(lambda: history.bucket.waiting() == 0, "the queue to be empty", 60 + LONGER_THAN_AWAY)
        assert list(problems(context)) == []
        assert history.bucket.dead() == []
        made.stop()


@pytest.mark.parametrize(
    ("receivers", "may_be_dead"),
    [
        (["w.0", "w.1", "w.2", "w.3", "w.4"], True),
        (["w.0", "w.1", "w.2", "w.3", "w.9"], False),  # the last of them lived on
        (["w.0", "w.0", "w.1", "w.2", "w.3"], False),  # one of them let it expire in its hands
        (["w.0", "w.1", "w.2", "w.3"], False),  # somebody else put it there
    ],
)
def test_a_message_may_be_dead_only_after_five_killed_receivers(receivers: list[str], may_be_dead: bool) -> None:
    assert unexplained({"message": receivers}, {f"w.{n}" for n in range(6)}) == ({} if may_be_dead else {"message": receivers})
