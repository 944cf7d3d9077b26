"""The decision record's fallback: the same chords with RabbitMQ as the tasks' broker. Runs where a server is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.support import Pipeline, broker_of, programs, wait_until

SERVER = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}")
"""Debian's own, below /usr/lib, and not its wrapper, which becomes another user that may not write here."""


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    """The URL of a RabbitMQ of our own, on free ports of the loopback interface."""
    if SERVER is None:
        pytest.skip("no RabbitMQ is installed here; Debian has it as rabbitmq-server")
    folder = Path(tempfile.mkdtemp(prefix="rabbit-", dir="/tmp"))
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"dropdex{ports[0]}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(ports[0]),
        "RABBITMQ_DIST_PORT": str(ports[1]),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    with (folder / "out").open("wb") as out:
        server = subprocess.Popen([SERVER], env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: _answers(ports[0]), lambda: f"RabbitMQ to answer: {(folder / 'out').read_text()[-800:]}", 90)
        yield f"amqp://guest:guest@127.0.0.1:{ports[0]}//"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(connection.recv(7))
    except OSError:
        return False


@pytest.mark.timeout(300)
def test_a_watched_folder_is_followed_through_rabbitmq(rabbitmq: str, valkey: str, redis_client: Redis) -> None:
    # Given a pipeline whose tasks go through RabbitMQ, and whose ledger stays in Redis
    with tempfile.TemporaryDirectory(prefix="rabbit-", dir="/tmp") as name:
        root = Path(name).resolve()
        with (
            Pipeline(root, broker_of(valkey), task_broker=rabbitmq, settle_after=0.1) as pipeline,
            programs(root, pipeline.environment) as running,
        ):
            # When documents are there before the start, and others are dropped, changed and removed after it
            for number in range(20):
                pipeline.folder.put(f"early-{number}.txt", f"early document {number}")
            for kind in ("embedding", "indexing"):
                running.start("worker", kind, "--name", kind, name=kind)
            running.start("watch")

            def follows() -> None:
                said = {name: running.said(name)[-400:] for name in ("watch", "embedding", "indexing")}
                wait_until(lambda: pipeline.published() == pipeline.folder.contents(), f"the index to equal the folder: {said}", 90)

            follows()
            pipeline.folder.put("late.txt", "a late document")
            pipeline.folder.put("early-1.txt", "changed")
            pipeline.folder.remove("early-2.txt")
            # Then the index follows, and no task went through Redis
            follows()
            assert not redis_client.keys("*celery:embedding*")
