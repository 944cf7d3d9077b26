"""A real folder, real kernel events: what people and programs do to files, and what must not get in or be lost."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyFD
from watched import Watched

from pipeline.base.errors import ConfigurationError, DocumentError, DocumentInMotion, Unavailable
from pipeline.base.model import Content
from pipeline.base.settings import DEFAULT_IGNORE
from pipeline.sources.folder import kernel
from pipeline.sources.folder import source as module
from pipeline.sources.folder.source import FolderSource

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def source(root: Path) -> FolderSource:
    return open_folder(root)


def open_folder(root: Path, *, settle_after: float = 0.05, polling: bool = False) -> FolderSource:
    return FolderSource(root, ignore=DEFAULT_IGNORE, settle_after=settle_after, polling=polling, polling_interval=0.02)


def listed(source: FolderSource) -> list[str]:
    return [line.uri.removeprefix(source.root) for line in source.list()]


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything, so root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_root() -> Iterator[Path]:
    """A folder that everybody can reach; pytest's own are private."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    for each in path.rglob("*"):
        each.chmod(0o755)
    shutil.rmtree(path)


# Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"two\nlines.txt", b"latin\xe9.txt", b"100%.txt", b"%41.txt", b"\x01bell.txt", "e\u0301.txt".encode()])
def test_any_name_that_the_system_allows_is_a_document(root: Path, name: bytes) -> None:
    source = open_folder(root)
    with Watched(source) as watched:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")

        (line,) = source.list()
        watched.wait_for(line.uri)

    assert isinstance(source.read(line.uri), Content)
    assert line.uri.splitlines() == [line.uri]


def test_a_linked_root_is_resolved_once(tmp_path: Path, root: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    assert open_folder(tmp_path / "link").root == f"file://{root}/"


def test_ignored_names_are_neither_listed_nor_read_nor_told(root: Path, source: FolderSource) -> None:
    (root / ".git").mkdir()
    with Watched(source) as watched:
        for name in (".hidden", "draft.txt~", ".git/config", "download.pdf.part"):
            (root / name).write_bytes(b"x")
        (root / "last.txt").write_bytes(b"x")
        watched.wait_for(source.root + "last.txt")

    assert set(watched.told) == {source.root + "last.txt"}
    assert listed(source) == ["last.txt"]
    assert source.read(source.root + ".git/config") is None
    assert list(source.list(source.root + ".git/")) == []


# Nothing outside the root, nothing but regular files ---------------------------------------------------------------


def test_links_are_never_followed(tmp_path: Path, root: Path, source: FolderSource) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(b"secret")
    (root / "inside.txt").write_bytes(b"x")
    (root / "file.txt").symlink_to(outside / "secret.txt")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "double.txt").symlink_to(root / "inside.txt")

    assert listed(source) == ["inside.txt"]
    for name in ("file.txt", "folder/secret.txt", "loop/inside.txt", "double.txt", "../outside/secret.txt"):
        assert source.read(source.root + name) is None
    assert list(source.list(source.root + "folder/")) == []


def test_no_race_between_a_folder_and_a_link_opens_a_way_out(tmp_path: Path, root: Path, source: FolderSource) -> None:
    outside = tmp_path / "outside"
    for folder, text in ((outside, b"secret"), (root / "a", b"public")):
        folder.mkdir()
        (folder / "x.txt").write_bytes(text)
    (root / "b").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "a").rename(root / "c")
            (root / "b").rename(root / "a")
            (root / "a").rename(root / "b")
            (root / "c").rename(root / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    for _ in range(3000):
        with suppress(DocumentInMotion):
            content = source.read(source.root + "a/x.txt")
            seen.add(content.data if isinstance(content, Content) else None)
    stop.set()
    swapper.join()

    assert b"secret" not in seen
    assert b"public" in seen


def test_special_files_are_no_documents_and_never_block(root: Path, source: FolderSource) -> None:
    os.mkfifo(root / "fifo.txt")
    (root / "folder.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.txt"))

        assert listed(source) == []
        for name in ("fifo.txt", "folder.txt", "socket.txt"):
            assert source.read(source.root + name) is None


# Versions and motion -----------------------------------------------------------------------------------------------


def test_writes_in_quick_succession_are_never_taken_for_one(root: Path, source: FolderSource) -> None:
    uri, file = source.root + "a.txt", root / "a.txt"

    for number in range(10):
        file.write_bytes(b"%04d" % (2 * number))
        first = source.read(uri)
        file.write_bytes(b"%04d" % (2 * number + 1))
        assert isinstance(first, Content)
        second = source.read(uri, first.version)

        assert isinstance(second, Content)
        assert second.data == b"%04d" % (2 * number + 1)


def test_no_version_is_younger_than_a_tick_of_the_clock_that_stamps_it(root: Path, source: FolderSource) -> None:
    (root / "a.txt").write_bytes(b"x")

    assert isinstance(source.read(source.root + "a.txt"), Content)

    assert time.time() - (root / "a.txt").stat().st_ctime >= module.TICK


def test_content_that_changed_under_an_old_time_is_another_version(root: Path, source: FolderSource) -> None:
    file = root / "a.txt"
    file.write_bytes(b"old")
    os.utime(file, (1e9, 1e9))
    before = source.read(source.root + "a.txt")
    assert isinstance(before, Content)

    file.write_bytes(b"new")
    os.utime(file, (1e9, 1e9))
    after = source.read(source.root + "a.txt", before.version)

    assert isinstance(after, Content)
    assert (after.data, after.modified_at) == (b"new", 1e9)


def replaced(file: Path) -> None:
    file.with_name("other").write_bytes(file.read_bytes())
    file.with_name("other").replace(file)


def appended(file: Path) -> None:
    with file.open("ab") as writer:
        writer.write(b"more")


@pytest.mark.parametrize("change", [appended, replaced, lambda file: os.truncate(file, 1), lambda file: file.write_bytes(b"NEW!")])
def test_a_document_that_changes_under_the_look_is_in_motion(
    root: Path, source: FolderSource, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    file = root / "a.txt"
    file.write_bytes(b"old!")
    read = module._bytes

    def disturbed(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        change(file)
        return data

    monkeypatch.setattr(module, "_bytes", disturbed)

    with pytest.raises(DocumentInMotion):
        source.read(source.root + "a.txt")


def test_a_document_that_goes_under_the_look_is_gone(root: Path, source: FolderSource, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "a.txt"
    file.write_bytes(b"x")

    def removed(descriptor: int, size: int) -> bytes:
        file.unlink()
        return b"x"

    monkeypatch.setattr(module, "_bytes", removed)

    assert source.read(source.root + "a.txt") is None


# Permissions and a missing root ------------------------------------------------------------------------------------


def test_an_unreadable_document_is_its_own_fault_and_has_a_version(public_root: Path) -> None:
    source = open_folder(public_root)
    (public_root / "a.txt").write_bytes(b"x")
    (public_root / "a.txt").chmod(0)

    with without_privileges():
        (line,) = source.list()
        with pytest.raises(DocumentError, match="Permission denied") as denial:
            source.read(line.uri)

    (public_root / "a.txt").chmod(0o644)
    (later,) = source.list()

    assert denial.value.version == line.version != later.version


def test_an_unreadable_folder_is_no_empty_folder_but_the_rest_is_listed(public_root: Path) -> None:
    source = open_folder(public_root)
    (public_root / "locked").mkdir(mode=0)
    (public_root / "z.txt").write_bytes(b"x")
    lines = source.list()

    with without_privileges():
        assert next(lines).uri == source.root + "z.txt"
        with pytest.raises(Unavailable, match="locked"):
            next(lines)


def test_a_folder_that_becomes_readable_is_watched(public_root: Path) -> None:
    source = open_folder(public_root)
    (public_root / "locked").mkdir(mode=0)
    with without_privileges(), Watched(source) as watched:
        with _privileged():
            (public_root / "locked").chmod(0o755)
            (public_root / "locked" / "a.txt").write_bytes(b"x")

        watched.wait_for(source.root + "locked/a.txt")


@contextmanager
def _privileged() -> Iterator[None]:
    before = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_root_that_cannot_be_watched_is_refused_with_a_hint(tmp_path: Path, public_root: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (public_root / "locked").mkdir(mode=0)

    for path, message, hint in ((tmp_path / "missing", "does not exist", "mkdir"), (tmp_path / "file", "not a folder", "DROPDEX_SOURCES")):
        with pytest.raises(ConfigurationError, match=message) as refusal:
            open_folder(path).check()
        assert hint in refusal.value.hint
    with without_privileges(), pytest.raises(ConfigurationError, match="cannot be read"):
        open_folder(public_root / "locked").check()


def test_a_missing_root_is_out_of_reach_and_not_empty(root: Path, source: FolderSource) -> None:
    root.rmdir()

    with pytest.raises(Unavailable):
        list(source.list())
    with pytest.raises(Unavailable):
        source.read(source.root + "a.txt")
    with pytest.raises(Unavailable):
        next(source.watch(threading.Event()))


def test_another_file_system_under_the_root_is_out_of_reach(root: Path, source: FolderSource, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(source) == []
    monkeypatch.setattr(source, "_device", -1)

    with pytest.raises(Unavailable, match="another file system"):
        source.read(source.root + "a.txt")


@pytest.mark.parametrize("polling", [False, True])
def test_a_root_that_vanishes_ends_the_watch(root: Path, polling: bool) -> None:
    with Watched(open_folder(root, polling=polling)) as watched:
        root.rename(root.with_name("elsewhere"))

        assert isinstance(watched.wait_for_error(), Unavailable)


def test_a_root_that_was_replaced_ends_the_watch(root: Path, source: FolderSource) -> None:
    with Watched(source) as watched:
        root.rename(root.with_name("elsewhere"))
        root.mkdir()

        assert isinstance(watched.wait_for_error(), Unavailable)


# How files are written ---------------------------------------------------------------------------------------------


def test_a_file_is_told_when_it_is_closed_and_not_before(root: Path) -> None:
    source = open_folder(root, settle_after=60)
    with Watched(source) as watched:
        with (root / "slow.txt").open("wb") as slow:
            for _ in range(5):
                slow.write(b"x" * 100_000)
                slow.flush()
                (root / "other.txt").write_bytes(b"x")
            watched.wait_for(source.root + "other.txt")
            assert source.root + "slow.txt" not in watched.told

        watched.wait_for(source.root + "slow.txt")


def test_a_file_that_nobody_closes_is_told_when_it_rests(root: Path, source: FolderSource) -> None:
    with Watched(source) as watched, (root / "open.log").open("wb", buffering=0) as log:
        log.write(b"one")
        watched.wait_for(source.root + "open.log")
        watched.told.clear()
        log.write(b"two")
        watched.wait_for(source.root + "open.log")


def test_a_file_opened_before_the_watch_is_told_when_it_is_closed(root: Path) -> None:
    source = open_folder(root, settle_after=60)
    with (root / "early.txt").open("wb") as early, Watched(source) as watched:
        early.write(b"x")
        early.close()

        watched.wait_for(source.root + "early.txt")


def test_saving_by_rename_tells_the_final_name_only(root: Path) -> None:
    source = open_folder(root, settle_after=60)
    (root / "notes.txt").write_bytes(b"old")
    with Watched(source) as watched:
        (root / "notes.txt.tmp").write_bytes(b"new")
        (root / "notes.txt.tmp").replace(root / "notes.txt")

        watched.wait_for(source.root + "notes.txt")

    assert set(watched.told) == {source.root + "notes.txt"}


def test_hard_links_and_a_changed_mode_are_told_after_a_rest(tmp_path: Path, root: Path, source: FolderSource) -> None:
    (tmp_path / "outside.txt").write_bytes(b"x")
    (root / "mode.txt").write_bytes(b"x")
    with Watched(source) as watched:
        os.link(tmp_path / "outside.txt", root / "linked.txt")
        (root / "mode.txt").chmod(0o600)

        watched.wait_for(source.root + "linked.txt", source.root + "mode.txt")


# Folders that come, go and move --------------------------------------------------------------------------------------


def test_new_folders_are_watched_and_what_is_in_them_already_is_told(root: Path, source: FolderSource) -> None:
    with Watched(source) as watched:
        uris = []
        for number in range(50):
            deep = root / f"d{number}" / "e" / "f"
            deep.mkdir(parents=True)
            (deep / "a.txt").write_bytes(b"x")
            uris.append(f"{source.root}d{number}/e/f/a.txt")

        watched.wait_for(*uris)
        (root / "d7" / "e" / "f" / "late.txt").write_bytes(b"x")
        watched.wait_for(source.root + "d7/e/f/late.txt")


def test_a_folder_moved_in_brings_its_files_and_is_watched(tmp_path: Path, root: Path) -> None:
    source = open_folder(root, settle_after=60)
    (tmp_path / "new" / "sub").mkdir(parents=True)
    (tmp_path / "new" / "sub" / "a.txt").write_bytes(b"x")
    with Watched(source) as watched:
        (tmp_path / "new").rename(root / "new")
        watched.wait_for(source.root + "new/sub/a.txt")

        (root / "new" / "sub" / "b.txt").write_bytes(b"x")
        watched.wait_for(source.root + "new/sub/b.txt")


def test_a_folder_moved_out_calls_for_a_listing_of_its_name_and_is_watched_no_longer(tmp_path: Path, root: Path) -> None:
    source = open_folder(root, settle_after=60)
    (root / "old" / "sub").mkdir(parents=True)
    with Watched(source) as watched:
        (root / "old").rename(tmp_path / "old")
        watched.wait_for_overflow(source.root + "old/")

        (tmp_path / "old" / "sub" / "outside.txt").write_bytes(b"x")
        (root / "last.txt").write_bytes(b"x")
        watched.wait_for(source.root + "last.txt")

    assert set(watched.told) == {source.root + "last.txt"}


def test_a_renamed_folder_is_told_under_both_names_and_watched_under_the_new_one(root: Path) -> None:
    source = open_folder(root, settle_after=60)
    (root / "one" / "sub").mkdir(parents=True)
    (root / "one" / "sub" / "a.txt").write_bytes(b"x")
    with Watched(source) as watched:
        for old, new in (("one", "two"), ("two", "three"), ("three", "one")):
            (root / old).rename(root / new)
            (root / new / "sub" / "b.txt").write_bytes(b"x")
            watched.wait_for(f"{source.root}{new}/sub/a.txt", f"{source.root}{new}/sub/b.txt")
            watched.wait_for_overflow(f"{source.root}{old}/")
            watched.told.clear()
            watched.overflows.clear()


def test_folders_renamed_faster_than_they_can_be_followed_end_watched(root: Path) -> None:
    source = open_folder(root)
    (root / "d0" / "sub").mkdir(parents=True)
    with Watched(source) as watched:
        for number in range(200):
            (root / f"d{number}").rename(root / f"d{number + 1}")
        (root / "d200" / "sub" / "a.txt").write_bytes(b"x")
        watched.wait_for(source.root + "d200/sub/a.txt")
        watched.told.clear()

        (root / "d200" / "sub" / "b.txt").write_bytes(b"x")
        watched.wait_for(source.root + "d200/sub/b.txt")


def test_a_removed_tree_tells_every_file(root: Path, source: FolderSource) -> None:
    uris = []
    for number in range(20):
        (root / "tree" / f"{number}").mkdir(parents=True)
        (root / "tree" / f"{number}" / "a.txt").write_bytes(b"x")
        uris.append(f"{source.root}tree/{number}/a.txt")
    with Watched(source) as watched:
        shutil.rmtree(root / "tree")

        watched.wait_for(*uris)


# Many, and too many ------------------------------------------------------------------------------------------------


def test_a_burst_of_five_thousand_files_loses_none(root: Path, source: FolderSource) -> None:
    for folder in range(10):
        (root / f"{folder}").mkdir()
    with Watched(source) as watched:
        for number in range(5000):
            (root / f"{number % 10}" / f"{number}.txt").write_bytes(b"x")

        watched.wait_for(*(f"{source.root}{number % 10}/{number}.txt" for number in range(5000)))

    assert watched.overflows == []


def test_a_kernel_queue_that_overflows_calls_for_a_listing_and_watches_are_taken_anew(
    tmp_path: Path, root: Path, source: FolderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing = threading.Event()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    class Stalled(kernel.Inbox):
        def moving(self, uri: str) -> None:
            overflowing.wait(30)
            super().moving(uri)

    monkeypatch.setattr(kernel, "Inbox", Stalled)
    (root / "leaves").mkdir()
    with Watched(source) as watched:
        for number in range(limit // 2 + 1000):
            (root / f"{number % 10}.txt").write_bytes(b"x")
        (root / "unheard").mkdir()
        (root / "leaves").rename(tmp_path / "left")
        overflowing.set()
        watched.wait_for_overflow(source.root)

        (tmp_path / "left" / "outside.txt").write_bytes(b"x")
        (root / "unheard" / "a.txt").write_bytes(b"x")
        watched.wait_for(source.root + "unheard/a.txt")

    assert source.root + "leaves/outside.txt" not in watched.told


def test_a_full_inbox_calls_for_a_listing() -> None:
    inbox = kernel.Inbox("file:///r/", 0.5, capacity=3)

    for name in "abbac":
        inbox.changed(f"file:///r/{name}")
    assert inbox.take(2, 0) == (["file:///r/a", "file:///r/b"], [])
    for name in "dexyz":
        inbox.changed(f"file:///r/{name}")

    assert inbox.take(10, 0) == (["file:///r/c", "file:///r/d", "file:///r/e"], ["file:///r/"])
    assert inbox.take(10, 0) == ([], [])


@pytest.mark.parametrize(("number", "limit"), [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances")])
def test_a_reached_limit_of_the_kernel_is_named_with_a_way_out(
    root: Path, source: FolderSource, monkeypatch: pytest.MonkeyPatch, number: int, limit: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "limit reached")

    with Watched(source) as watched:
        monkeypatch.setattr(InotifyFD, "add_callback", refuse)
        (root / "one folder more").mkdir()
        later = watched.wait_for_error()

    with pytest.raises(ConfigurationError) as refusal:
        next(source.watch(threading.Event()))

    for error in (refusal.value, later):
        assert isinstance(error, ConfigurationError)
        assert limit in error.hint
        assert "DROPDEX_POLLING=true" in error.hint


def test_a_watch_gives_its_descriptors_back(root: Path, source: FolderSource) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with Watched(source):
        pass
    before = descriptors()
    for _ in range(5):
        with Watched(source):
            (root / "a.txt").write_bytes(b"x")

    assert descriptors() == before


# Polling -----------------------------------------------------------------------------------------------------------


def test_polling_follows_moves_and_new_folders_and_no_links(tmp_path: Path, root: Path) -> None:
    source = open_folder(root, polling=True)
    (root / "one").mkdir()
    (root / "one" / "a.txt").write_bytes(b"x")
    (root / "loop").symlink_to(root)
    (root / ".git").mkdir()
    with Watched(source) as watched:
        (root / "one").rename(root / "two")
        (root / ".git" / "config").write_bytes(b"x")
        (root / "new").mkdir()
        (root / "new" / "b.txt").write_bytes(b"x")
        watched.wait_for(*(source.root + name for name in ("one/a.txt", "two/a.txt", "new/b.txt")))

        (root / "two").rename(tmp_path / "gone")
        watched.told.clear()
        watched.wait_for(source.root + "two/a.txt")

    assert not any("loop" in uri or ".git" in uri for uri in watched.told)
