"""An operator's URL becomes a store, or a sentence with a hint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigurationError
from pipeline.blobs.folder import FolderStore
from pipeline.blobs.open import open_store
from pipeline.blobs.s3 import S3Store


def test_a_folder_is_made_absolute_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for url, expected in {
        "file:./index": f"file:{tmp_path}/index",
        "file:index": f"file:{tmp_path}/index",
        "file:/srv/index": "file:/srv/index",
        "file:///srv/index": "file:/srv/index",
        "file:~/index": "file:/home/somebody/index",
    }.items():
        assert open_store(url).url == expected
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_and_its_prefix(tmp_path: Path) -> None:
    for url, expected in {
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://bucket/a/index/": "s3://bucket/a/index",
    }.items():
        store = open_store(url, cache_dir=tmp_path)
        assert isinstance(store, S3Store)
        assert store.url == expected


@pytest.mark.parametrize(
    "url", ["", "index", "./index", "file:", "file://srv/index", "s3://", "s3:///index", "s3://b/p?region=x", "ftp://x"]
)
def test_anything_else_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "file:" in caught.value.hint


def test_a_folder_needs_no_aws_libraries() -> None:
    script = "import sys; from pipeline.blobs.open import open_store; open_store('file:x'); sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert isinstance(open_store("file:x"), FolderStore)
