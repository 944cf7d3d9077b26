"""The embedded Valkey keeps what it was told, dies with its parent, and is alone in its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection
from redis import Redis

from pipeline.base.errors import ConfigurationError, Unavailable
from pipeline.broker.valkey import EmbeddedBroker, _ping, broker_url, socket_path


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="broker-", dir="/tmp") as name:
        yield Path(name) / "state"


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def client(directory: Path) -> Redis:
    return Redis.from_url(broker_url(f"embedded:{directory}").redis, decode_responses=True)


def is_running(directory: Path) -> bool:
    """Whether the server answers, if only to say that it is still loading."""
    return bool(_ping(socket_path(directory)))


def process_of(directory: Path) -> int:
    with client(directory) as redis:
        return int(redis.info("server")["process_id"])


def start_elsewhere(directory: Path) -> subprocess.Popen[str]:
    """Another process that starts the broker and then waits for its end."""
    script = (
        "import sys, pathlib, pipeline.broker.valkey as b; "
        "b.EmbeddedBroker(pathlib.Path(sys.argv[1])).start(); print('up', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def test_both_kinds_of_client_reach_it(directory: Path) -> None:
    # Given a running broker
    with EmbeddedBroker(directory) as broker:
        # When Celery's transport sends through it
        with Connection(broker.urls.celery) as connection, connection.SimpleQueue("letters") as queue:
            queue.put({"text": "hello"})
        # Then redis-py finds the message there
        with client(directory) as redis:
            assert redis.llen("letters") == 1


def test_what_it_was_told_survives_a_restart(directory: Path) -> None:
    with EmbeddedBroker(directory), client(directory) as redis:
        redis.set("kept", "yes")
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert not is_running(directory)
    with EmbeddedBroker(directory), client(directory) as redis:
        assert redis.get("kept") == "yes"


def test_it_restarts_after_it_was_killed(directory: Path) -> None:
    # Given a server that dies without notice, with a socket left behind and half a command in its file
    broker = EmbeddedBroker(directory)
    broker.start()
    with client(directory) as redis:
        redis.set("kept", "yes")
        time.sleep(0.01)
    os.kill(process_of(directory), signal.SIGKILL)
    assert eventually(lambda: not broker.alive)
    assert socket_path(directory).exists()
    (increment,) = directory.glob("appendonlydir/*.incr.aof")
    with increment.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nhal")
    # When it is started again
    with EmbeddedBroker(directory), client(directory) as redis:
        # Then it has what came before
        assert redis.get("kept") == "yes"


def test_a_second_one_is_refused_at_once(directory: Path) -> None:
    with EmbeddedBroker(directory), pytest.raises(ConfigurationError, match=f"already running, started by process {os.getpid()}"):
        EmbeddedBroker(directory).start()
    # and the first one can be started again
    with EmbeddedBroker(directory):
        assert is_running(directory)


def test_another_process_is_refused_too(directory: Path) -> None:
    other = start_elsewhere(directory)
    try:
        assert is_running(directory)
        with pytest.raises(ConfigurationError, match=f"started by process {other.pid}"):
            EmbeddedBroker(directory).start()
    finally:
        end(other)


def test_it_dies_with_its_parent_and_makes_room_for_the_next(directory: Path) -> None:
    # Given a broker of another process
    other = start_elsewhere(directory)
    with client(directory) as redis:
        redis.set("kept", "yes")
    server = process_of(directory)
    # When that process is killed, then the next start waits for the orphan to leave and finds its data
    end(other)
    with EmbeddedBroker(directory), client(directory) as redis:
        assert redis.get("kept") == "yes"
        assert process_of(directory) != server


def test_it_outlives_the_thread_that_started_it(directory: Path) -> None:
    broker = EmbeddedBroker(directory)
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    time.sleep(0.1)
    assert is_running(directory)
    broker.stop()


def test_ctrl_c_in_the_terminal_does_not_reach_it(directory: Path) -> None:
    other = start_elsewhere(directory)
    try:
        assert os.getpgid(process_of(directory)) != os.getpgid(other.pid)
        assert os.getsid(process_of(directory)) != os.getsid(other.pid)
    finally:
        end(other)


def test_a_long_or_unusual_path_gets_a_short_socket_that_others_find(directory: Path) -> None:
    for name in ("long/" + "x" * 120, "mit Umläuten & 100 %"):
        deep = directory / name
        with EmbeddedBroker(deep) as broker:
            assert len(os.fsencode(socket_path(deep))) < 100
            assert (socket_path(deep).parent.stat().st_mode & 0o777) == 0o700
            with client(deep) as redis, Connection(broker.urls.celery) as connection:
                assert redis.ping()
                assert connection.ensure_connection(max_retries=1)
        socket_path(deep).parent.rmdir()


def test_the_path_does_not_depend_on_how_the_folder_is_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir()
    monkeypatch.chdir(directory.parent)
    assert broker_url("embedded:state") == broker_url(f"embedded:{directory}") == broker_url("embedded:./x/../state")


def test_a_socket_folder_of_somebody_else_is_refused(directory: Path) -> None:
    # Given the folder in /tmp where the socket would be, but open to all
    deep = directory / ("x" * 120)
    folder = socket_path(deep).parent
    folder.mkdir(mode=0o700)
    try:
        folder.chmod(0o777)
        # Then neither the server nor a client trusts it
        with pytest.raises(ConfigurationError, match="not a private folder"):
            EmbeddedBroker(deep).start()
        with pytest.raises(ConfigurationError, match="not a private folder"):
            broker_url(f"embedded:{deep}")
    finally:
        folder.rmdir()


def test_a_broken_file_is_told_with_the_servers_words(directory: Path) -> None:
    # Given an append-only file that is damaged in the middle
    with EmbeddedBroker(directory), client(directory) as redis:
        redis.set("key", "value")
    (increment,) = directory.glob("appendonlydir/*.incr.aof")
    increment.write_bytes(b"nonsense\r\n" + increment.read_bytes())
    # When it is started, then the error carries the log's end and the way out
    with pytest.raises(Unavailable, match=r"(?s)does not start: .*Bad file format") as caught:
        EmbeddedBroker(directory).start()
    assert str(directory) in caught.value.hint
    assert not is_running(directory)


def test_a_folder_that_cannot_be_made_is_the_operators_fault(directory: Path) -> None:
    directory.parent.joinpath("state").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot start a broker"):
        EmbeddedBroker(directory).start()


def test_other_urls_pass_through() -> None:
    for url in ("redis://:secret@host:6379/3", "rediss://host:6380/0?ssl_cert_reqs=none"):
        assert broker_url(url) == (url, url)
    with pytest.raises(ConfigurationError, match="neither") as caught:
        broker_url("amqp://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=required", "?ssl_cert_reqs=CERT_REQUIRED"])
def test_certificates_are_checked_in_the_one_spelling_that_all_clients_read(query: str) -> None:
    assert broker_url(f"rediss://:s%2Fcret@host:6380/0{query}").redis == "rediss://:s%2Fcret@host:6380/0?ssl_cert_reqs=required"
    kept = broker_url("rediss://host?ssl_ca_certs=/etc/ca.pem").celery
    assert kept == "rediss://host?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required"


@pytest.mark.parametrize("url", ["redis://:hunter2/x@host:6379/0", "redis://:hunter2@host:port/0", "rediss://[hunter2"])
def test_a_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        broker_url(url)
    shown = "".join(traceback.format_exception(caught.value)).replace(repr(url), "")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__suppress_context__
    assert "Port could not" not in shown
