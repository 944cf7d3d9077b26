"""What the threat model promises: secrets stay secret, paths stay below their root, files are private, doors are locked."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import logging
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis
from redis.exceptions import ConnectionError as RedisAway

from pipeline.base.errors import Unavailable
from pipeline.base.logs import JsonFormatter, TextFormatter
from pipeline.base.model import Content
from pipeline.base.settings import load
from pipeline.blobs.folder import FolderStore
from pipeline.broker.valkey import _binary
from pipeline.cli import _pretty
from pipeline.context import Context
from pipeline.index.snapshot import Hit
from pipeline.sources.folder.source import FolderSource
from pipeline.tasks.embed import embed
from tests.support import Pipeline, broker_of, environment, programs, wait_until

PASSWORD = "hunter2"
CREDENTIALS = "ann:swordfish"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# A server that wants a password, and a tunnel with a certificate before it ----------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Valkey that asks for the password."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "", "--appendonly", "no"]
    with subprocess.Popen([str(_binary()), *options], cwd=tmp_path_factory.mktemp("guarded"), stdout=subprocess.DEVNULL) as process:
        try:
            with Redis(port=port, password=PASSWORD) as client:
                wait_until(lambda: _answers(client), "the server to answer")
            yield port
        finally:
            process.terminate()


def _answers(client: Redis) -> bool:
    with suppress(RedisAway):
        return bool(client.ping())
    return False


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the loopback address that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*private))
    return folder / "ca.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def tunnel(guarded: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port of a tunnel with TLS to the server: the packaged server is built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    loop = asyncio.new_event_loop()  # one thread: a TLS connection must not be read and written by two at a time
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opening = asyncio.start_server(partial(_join, guarded), "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(opening, loop).result(10)
    yield server.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _join(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


class TestRedis:
    @pytest.fixture
    def urls(self, guarded: int, tunnel: int, certificate: tuple[Path, Path]) -> dict[str, str]:
        """Of the same server: with a password, and with TLS as well."""
        return {
            "redis": f"redis://:{PASSWORD}@127.0.0.1:{guarded}/0",
            "rediss": f"rediss://:{PASSWORD}@127.0.0.1:{tunnel}/0?ssl_ca_certs={certificate[0]}",
        }

    @pytest.mark.parametrize(("scheme", "log_format"), [("redis", "text"), ("rediss", "json")])
    def test_a_document_goes_all_the_way_and_nobody_tells_the_password(
        self, tmp_path: Path, urls: dict[str, str], scheme: str, log_format: str
    ) -> None:
        url = urls[scheme]
        chosen = environment(
            tmp_path,
            url,
            flower_basic_auth=CREDENTIALS,
            flower_port=free_port(),
            log_format=log_format,
            log_level="DEBUG",
            settle_after=0.1,
        )
        with (
            Pipeline(tmp_path, url, namespace="secure") as pipeline,
            programs(tmp_path, {**chosen, "DROPDEX_NAMESPACE": "secure"}) as running,
        ):
            for program in (["worker", "embedding"], ["worker", "indexing"], ["watch"], ["beat"], ["flower"]):
                running.start(*program, name=program[-1])
            wait_until(lambda: len(pipeline.context.ledger.alive()) >= 4, lambda: running.said("embedding")[-2000:])
            pipeline.folder.put("a.txt", "words that travel")
            pipeline.folder.put("broken.pdf", b"%PDF-1.4 broken")
            wait_until(
                lambda: len(pipeline.published()) == 1 and pipeline.context.ledger.counts()["dead"] == 1,
                lambda: "\n".join(running.said(name)[-1500:] for name in ("watch", "embedding", "indexing")),
            )
            said = {name: running.said(name) for name in ("embedding", "indexing", "watch", "beat", "flower")}
        assert all(said.values())
        for words in said.values():
            assert PASSWORD not in words
            assert "swordfish" not in words

    @pytest.mark.parametrize("damage", ["password", "certificate"])
    def test_who_is_not_let_in_says_so_and_quotes_nothing(self, tmp_path: Path, guarded: int, tunnel: int, damage: str) -> None:
        url = f"redis://:wrong-{PASSWORD}@127.0.0.1:{guarded}/0" if damage == "password" else f"rediss://:{PASSWORD}@127.0.0.1:{tunnel}/0"
        done = dropdex(tmp_path, "status", broker=url)
        assert done.returncode == 75
        assert "redis does not answer" in done.stderr
        assert PASSWORD not in done.stdout + done.stderr


# Secrets ----------------------------------------------------------------------------------------------------------------


def dropdex(root: Path, *arguments: str, broker: str, **settings: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environment(root, broker, **settings)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], env=environ, cwd=root, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_the_settings_are_shown_with_stars(tmp_path: Path, form: list[str]) -> None:
    done = dropdex(tmp_path, "settings", *form, broker=f"redis://:{PASSWORD}@host", flower_basic_auth=CREDENTIALS)
    assert done.returncode == 0
    assert "**********" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert "swordfish" not in done.stdout + done.stderr


@pytest.mark.parametrize("broker", [f"amqp://:{PASSWORD}@host", f"redis://:{PASSWORD}/x@host", f"redis://:{PASSWORD}@host:port"])
def test_a_broker_that_cannot_be_used_is_not_quoted(tmp_path: Path, broker: str) -> None:
    done = dropdex(tmp_path, "status", broker=broker)
    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr


def test_reprs_and_events_show_stars() -> None:
    settings = load(broker=f"redis://:{PASSWORD}@host", flower_basic_auth=CREDENTIALS)
    context = Context(settings)
    record = logging.makeLogRecord({"name": "pipeline.x", "msg": "settings %s", "args": (settings,)})
    record.settings, record.context = settings, context
    shown = [repr(settings), str(settings), f"{settings!r}", repr(context), repr(vars(context)), settings.model_dump_json()]
    for text in (*shown, TextFormatter().format(record), JsonFormatter().format(record)):
        assert PASSWORD not in text
        assert "swordfish" not in text


def test_a_search_shows_nothing_that_a_terminal_would_obey() -> None:
    hit = Hit(
        "file:///a.txt", "1\x1b[2J\x9b1m words \x07\u202eneddih\u2066 emoji \U0001f469\u200d\U0001f467", 0, 9, 0.5, "text/plain", 0.0, ""
    )
    assert _pretty(hit).splitlines()[1].strip() == "1[2J1m words neddih emoji \U0001f469\u200d\U0001f467"


def test_a_message_names_documents_and_shows_their_number(valkey: str, redis_client: Redis, tmp_path: Path) -> None:
    # Given a hand-over of documents with telling names
    with Pipeline(tmp_path, broker_of(valkey)) as pipeline:
        uris = [pipeline.folder.put(f"salaries of {name}.txt", "so much") for name in ("ann", "bob")]
        call = f"from pipeline.tasks import flow; flow.hand_over([{uris!r}], 'live')"
        code = f"from pipeline.base.model import Origin; {call.replace(repr('live'), 'Origin.LIVE')}"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **pipeline.environment}, check=True)
    # Then what Flower shows of it is a number
    message = json.loads(redis_client.lrange("dropdex:celery:embedding", 0, -1)[0])
    headers = {name: message["headers"][name] for name in ("argsrepr", "kwargsrepr")}
    assert headers == {"argsrepr": "2 documents, live", "kwargsrepr": "{}"}
    assert message["content-type"] == "application/json"


# Files ------------------------------------------------------------------------------------------------------------------


def test_what_is_created_is_for_its_user_and_group_only(tmp_path: Path) -> None:
    """All of it, with the usual umask, from a start in an empty folder."""
    settings = environment(tmp_path, f"embedded:{tmp_path / 'broker'}", settle_after=0.1)
    before = os.umask(0o022)
    try:
        with programs(tmp_path, settings) as running:
            (tmp_path / "inbox").mkdir()
            up = running.start("up")
            wait_until(lambda: "watch" in running.said("up") or (tmp_path / "state" / "logs").exists(), lambda: running.said("up"))
            (tmp_path / "inbox" / "a.html").write_text("<html><p>words</p></html>")
            wait_until((tmp_path / "index" / "CURRENT").exists, lambda: running.said("up"))
            up.send_signal(signal.SIGINT)
            up.wait(60)
    finally:
        os.umask(before)
    assert {"logs", "scratch"} <= {path.name for path in (tmp_path / "state").iterdir()}
    assert too_open(tmp_path / "index") + too_open(tmp_path / "state") + too_open(tmp_path / "broker") == []


def too_open(folder: Path) -> list[str]:
    """What is more open than 0750 for a folder and 0640 for everything else."""
    found = []
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & (0o027 if stat.S_ISDIR(mode) else 0o137 if stat.S_ISREG(mode) else 0o077):
            found.append(f"{path.relative_to(folder.parent)} {stat.filemode(mode)}")
    return found


# Paths ------------------------------------------------------------------------------------------------------------------

ESCAPES = (
    "../secret.txt",
    "sub/../../secret.txt",
    "%2E%2E/secret.txt",
    "..%2Fsecret.txt",
    "/etc/passwd",
    "//etc/passwd",
    "./a.txt",
    "sub//a.txt",
    "a.txt%00",
    "link.txt",
    "folder-link/secret.txt",
    "",
    ".",
    "..",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    inbox = tmp_path / "inbox"
    (inbox / "sub").mkdir(parents=True)
    (inbox / "a.txt").write_text("words")
    (inbox / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inbox / "folder-link").symlink_to(tmp_path)
    return inbox


@pytest.mark.parametrize("name", ESCAPES)
def test_no_uri_leads_out_of_a_folder(root: Path, name: str) -> None:
    source = FolderSource(root)
    assert source.read(source.root + name) is None
    assert list(source.list(source.root + name)) in ([], list(source.list()))


@pytest.mark.parametrize("name", ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "a//b", ".lock", "", "a/.", "a\\b", "a\0b"])
def test_no_name_leads_out_of_a_store(root: Path, name: str) -> None:
    store = FolderStore(root)
    verbs: tuple[Callable[[], object], ...] = (
        lambda: store.get(name),
        lambda: store.put(name, b"x"),
        lambda: store.fetch(name),
        lambda: store.delete(name),
    )
    for verb in verbs:
        with pytest.raises(ValueError, match="no name for a blob"):
            verb()
    assert (root.parent / "secret.txt").read_text() == "secret"


def test_no_race_leads_out_of_a_folder(root: Path) -> None:
    """A folder that somebody swaps for a link to the outside, again and again, while a file in it is read."""
    source = FolderSource(root)
    (root / "sub" / "secret.txt").write_text("inside")
    with swapping(root):
        seen = [source.read(f"{source.root}sub/secret.txt") for _ in range(300) if not pause_a_tick()]
    assert {found.data for found in seen if isinstance(found, Content)} <= {b"inside"}


def pause_a_tick() -> None:
    threading.Event().wait(0.0005)


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "sub").rename(root / "aside")
            (root / "sub").symlink_to(root.parent)
            (root / "sub").unlink()
            (root / "aside").rename(root / "sub")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        stop.set()
        swapper.join()


def test_a_uri_of_no_configured_source_is_refused_and_not_read(valkey: str, redis_client: Redis, tmp_path: Path) -> None:
    with Pipeline(tmp_path, broker_of(valkey)) as pipeline:
        pipeline.notice("file:///etc/passwd")
        with pytest.raises(Unavailable, match="no source is configured"):
            embed(["file:///etc/passwd"], "live")
        pipeline.build()
        assert pipeline.published() == {}
        assert pipeline.context.ledger.entries(["file:///etc/passwd"]) == [None]
