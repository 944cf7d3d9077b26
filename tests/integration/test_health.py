"""Health checks and Flower's door: who is well, who is not, and who is let in."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from redis import Redis

from pipeline.base.errors import ConfigurationError
from pipeline.base.settings import load
from pipeline.context import Context
from pipeline.ledger.ledger import ALIVE_SECONDS
from pipeline.observe import health
from pipeline.tasks.workers import flower_arguments
from tests.support import broker_of

HOST = socket.gethostname()


@pytest.fixture
def context(valkey: str, redis_client: Redis) -> Context:
    return Context(load(broker=broker_of(valkey), model="hash:8"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"watch@{HOST}", "watch"),
        (f"embedding@{HOST}", "embedding"),
        (f"embedding-2@{HOST}", "embedding"),  # as `dropdex up` calls its second one
        (f"beat@{HOST}", "beat"),
    ],
)
def test_a_process_that_showed_life_is_well(context: Context, name: str, kind: str) -> None:
    context.ledger.show_life(name)
    assert health.of(context, kind).well


@pytest.mark.parametrize("name", ["embedding@another-host", f"indexing@{HOST}", f"embeddings@{HOST}"])
def test_the_life_of_another_does_not_count(context: Context, name: str) -> None:
    context.ledger.show_life(name)
    assert not health.of(context, "embedding").well


def test_a_process_that_is_silent_for_too_long_is_not_well(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.ledger.show_life(f"watch@{HOST}")
    later = time.time() + ALIVE_SECONDS + 1
    monkeypatch.setattr("pipeline.ledger.ledger.time.time", lambda: later)
    assert not health.of(context, "watch").well


def test_without_redis_nobody_is_well() -> None:
    # Given a port that nobody listens on
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        context = Context(load(broker=f"redis://127.0.0.1:{taken.getsockname()[1]}/0", model="hash:8"))
        # Then the answer is a sentence and not a traceback
        well, sentence = health.of(context, "watch")
    assert not well
    assert sentence.startswith("redis does not answer")


class _Flower(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthcheck" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def flower_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Flower) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_flower_is_well_while_it_answers(flower_port: int) -> None:
    assert health.of(Context(load(flower_port=flower_port)), "flower").well


def test_flower_is_not_well_where_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not health.of(Context(load(flower_port=taken.getsockname()[1])), "flower").well


def test_a_check_loads_neither_a_model_nor_an_index_nor_celery() -> None:
    # Given what a check does, in a process of its own
    code = (
        "import sys; from pipeline import cli; from pipeline.observe import health\n"
        "from pipeline.context import Context; from pipeline.base.settings import load\n"
        "health.of(Context(load(broker='redis://127.0.0.1:1/0', model='hash:8')), 'watch')\n"
        "print(sorted({'torch', 'sentence_transformers', 'transformers', 'faiss', 'celery', 'boto3', 'kreuzberg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Flower's door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_flower_on_the_loopback_asks_nobody(address: str) -> None:
    assert flower_arguments(5555, address, "") == [f"--address={address}", "--port=5555"]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "10.1.2.3", "flower.example.org"])
def test_flower_elsewhere_needs_credentials(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        flower_arguments(5555, address, "")
    assert "DROPDEX_FLOWER_BASIC_AUTH" in caught.value.hint


def test_flower_elsewhere_with_credentials_asks_for_them() -> None:
    assert "--basic-auth=ann:secret,bob:hidden" in flower_arguments(5555, "0.0.0.0", "ann:secret,bob:hidden")


@pytest.mark.parametrize("credentials", ["ann", "ann:", ":secret", "ann:secret,bob", "ann:secret,"])
def test_half_a_credential_is_refused(credentials: str) -> None:
    with pytest.raises(ConfigurationError):
        flower_arguments(5555, "127.0.0.1", credentials)
