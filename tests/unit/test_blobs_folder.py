"""What only a folder can break: crashes between two steps, modes, full disks, several processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigurationError, Conflict, DropdexError, Unavailable
from pipeline.blobs import ABSENT
from pipeline.blobs.disk import explained
from pipeline.blobs.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "deep" / "home")


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fsynced from now on, by path, in order."""
    paths: list[str] = []

    def fsync(handle: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{handle}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_a_durable_put_syncs_the_file_and_then_every_folder_up_to_the_roots_own(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = synced(monkeypatch)
    store.put("segments/ab/x", b"x")
    assert paths[0].startswith(f"{store.root}/.tmp/")
    assert paths[1:] == [f"{store.root}/segments/ab", f"{store.root}/segments", str(store.root), str(store.root.parent)]


def test_a_put_that_need_not_last_syncs_nothing(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = synced(monkeypatch)
    store.put("segments/ab/x", b"x", durable=False)
    assert paths == []


def test_the_group_may_read_and_nobody_else(store: FolderStore, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_bytes(b"x")
    built.chmod(0o600)
    store.put("segments/ab/moved", built)
    store.put("segments/ab/written", b"x")
    assert [(store.root / "segments/ab" / name).stat().st_mode & 0o777 for name in ("moved", "written")] == [0o640, 0o640]
    assert [(store.root / name).stat().st_mode & 0o777 for name in (".", "segments", "segments/ab")] == [0o750] * 3


def test_a_crash_before_the_rename_leaves_only_a_temporary_file_that_a_later_process_sweeps(store: FolderStore) -> None:
    # Given a process that dies when all is written and nothing renamed
    script = (
        "import os, sys, pathlib; from pipeline.blobs.folder import FolderStore;"
        "store = FolderStore(pathlib.Path(sys.argv[1])); store._place = lambda *_: os._exit(9); store.put('CURRENT', b'x')"
    )
    assert subprocess.run([sys.executable, "-c", script, str(store.root)], check=False).returncode == 9
    # Then nobody sees a blob
    assert list(store.list("")) == []
    assert store.get("CURRENT") is None
    (left,) = (store.root / ".tmp").iterdir()
    # When it is swept, then only once it is old
    assert store.sweep() == 0
    assert left.exists()
    assert store.sweep(older_than=0) == 1
    assert not left.exists()


def test_the_first_put_sweeps(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"x")
    (store.root / ".tmp" / "1-stale").write_bytes(b"x")
    monkeypatch.setattr("pipeline.blobs.folder.time.time", lambda: 4e9)
    FolderStore(store.root).put("b", b"x")
    assert list((store.root / ".tmp").iterdir()) == []


def test_a_put_that_fails_leaves_nothing(store: FolderStore) -> None:
    store.put("CURRENT", b"x", replacing=ABSENT)
    with pytest.raises(Conflict):
        store.put("CURRENT", b"y", replacing=ABSENT)
    assert list((store.root / ".tmp").iterdir()) == []


def test_a_file_of_another_file_system_is_copied(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk that refuses to rename from outside the store
    built, replace = tmp_path / "built", Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self == built:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    built.write_bytes(b"vectors")
    # When a file from there is put
    store.put("segments/ab/index.faiss", built)
    # Then it has been moved all the same
    assert store.fetch("segments/ab/index.faiss").read_bytes() == b"vectors"
    assert not built.exists()


def test_the_etag_is_the_same_for_every_process(store: FolderStore) -> None:
    script = (
        "import sys, pathlib; from pipeline.blobs.folder import FolderStore;"
        "print(FolderStore(pathlib.Path(sys.argv[1])).put('CURRENT', b'1', replacing=''))"
    )
    etag = subprocess.run([sys.executable, "-c", script, str(store.root)], check=True, capture_output=True, text=True).stdout.strip()
    store.put("CURRENT", b"2", replacing=etag)


def test_no_increment_of_three_processes_is_lost(store: FolderStore) -> None:
    script = """
import sys, pathlib
from pipeline.blobs import ABSENT, Blob
from pipeline.blobs.folder import FolderStore
from pipeline.base.errors import Conflict
store = FolderStore(pathlib.Path(sys.argv[1]))
for _ in range(40):
    while True:
        blob = store.get("CURRENT") or Blob(b"0", ABSENT)
        try:
            store.put("CURRENT", b"%d" % (int(blob.data) + 1), replacing=blob.etag, durable=False)
        except Conflict:
            continue
        break
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(store.root)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (store.root / "CURRENT").read_bytes() == b"120"


def test_deleting_the_last_blob_removes_its_folders_but_not_the_root(store: FolderStore) -> None:
    store.put("segments/ab/x", b"x")
    store.put("segments/cd/x", b"x")
    store.delete("segments/ab/x")
    assert not (store.root / "segments/ab").exists()
    assert (store.root / "segments/cd").exists()
    store.delete("segments/cd/x")
    assert not (store.root / "segments").exists()
    assert store.root.exists()


def test_putting_and_deleting_in_one_folder_at_the_same_time(store: FolderStore) -> None:
    def work(number: int) -> None:
        for _ in range(200):
            store.put(f"segments/ab/{number}", b"x", durable=False)
            store.delete(f"segments/ab/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(store.list("")) == []


def test_a_root_that_is_a_file_is_the_operators_fault(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot write"):
        FolderStore(tmp_path / "home").put("CURRENT", b"x")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EACCES, ConfigurationError),
        (errno.EROFS, ConfigurationError),
        (errno.ENOTDIR, ConfigurationError),
        (errno.ENAMETOOLONG, ConfigurationError),
    ],
)
def test_the_systems_refusals_tell_whose_fault_it_is(code: int, expected: type[DropdexError], tmp_path: Path) -> None:
    with pytest.raises(expected, match=f"cannot write {tmp_path}: {os.strerror(code)}") as caught, explained("write", tmp_path):
        raise OSError(code, os.strerror(code))
    assert caught.value.hint


@pytest.mark.parametrize("act", [lambda store: store.put("b", b"x"), lambda store: store.get("a"), lambda store: list(store.list(""))])
def test_a_folder_without_permission_is_the_operators_fault(store: FolderStore, act: Callable[[FolderStore], object]) -> None:
    store.put("a", b"x")
    store.root.chmod(0)
    if os.access(store.root, os.R_OK):
        pytest.skip("root may read and write everywhere")
    try:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            act(store)
    finally:
        store.root.chmod(0o750)
