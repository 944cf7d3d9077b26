"""What is bounded stays bounded, however large the document or the corpus: memory, the queue, and what Redis keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis import Redis

from pipeline.base.errors import DocumentError, ExtractorDied
from pipeline.base.model import Content
from pipeline.ledger.ledger import SILENT_SECONDS
from pipeline.sources.folder import source as folder_module
from pipeline.sources.folder.source import FolderSource
from pipeline.tasks import maintenance
from pipeline.text import Extractor
from tests.data import formats
from tests.support import Pipeline, broker_of, programs, wait_until

MIB = 2**20


def resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


class TestDocuments:
    def test_two_gigabytes_of_text_are_refused_without_a_look_inside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with (tmp_path / "large.txt").open("wb") as file:
            file.truncate(2 * 2**30)
        source = FolderSource(tmp_path)
        before = resident(psutil.Process())
        monkeypatch.setattr(folder_module, "_bytes", lambda *_: pytest.fail("it was read"))
        with pytest.raises(DocumentError, match="2147483648 bytes, more than the 67108864"):
            source.read(source.root + "large.txt")
        assert resident(psutil.Process()) - before < 50 * MIB

    def test_one_that_lies_about_its_size_is_not_read_beyond_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was small when it was measured, and is large when it is read."""
        path = tmp_path / "grows.txt"
        path.write_bytes(b"x" * 10)
        source = FolderSource(tmp_path, max_bytes=100)
        real, asked = os.read, list[int]()

        def read(file: int, size: int) -> bytes:
            if not asked:
                with path.open("ab") as more:
                    more.truncate(10**9)
            asked.append(size)
            return real(file, size)

        monkeypatch.setattr(folder_module.os, "read", read)
        with pytest.raises(folder_module.DocumentInMotion):
            source.read(source.root + "grows.txt")
        assert sum(asked) <= 11

    @pytest.mark.parametrize("number", [10_000])
    def test_a_long_pdf_is_read_within_the_limits(self, number: int) -> None:
        data = formats.pages([f"words on page {page} of many" for page in range(number)])
        with extractor(seconds=60, memory=2**30, chars=10**6) as opened:
            text = opened.extract(Content("file:///long.pdf", "1", data, "application/pdf", 0.0))
        assert "words on page 0 of many" in text
        assert f"words on page {number - 1} of many" in text

    def test_or_refused_within_the_limits(self) -> None:
        data = formats.pages([f"words on page {page} of many" for page in range(2_000)])
        with extractor(seconds=60, memory=2**30, chars=1_000) as opened, pytest.raises(DocumentError, match="the limit is 1,000"):
            opened.extract(Content("file:///long.pdf", "1", data, "application/pdf", 0.0))
        with extractor(seconds=0.01, memory=2**30, chars=10**6) as opened, pytest.raises(ExtractorDied, match="longer than"):
            opened.extract(Content("file:///long.pdf", "1", data, "application/pdf", 0.0))


@contextmanager
def extractor(*, seconds: float, memory: int, chars: int) -> Iterator[Extractor]:
    made = Extractor(1, seconds, memory, chars)
    try:
        yield made
    finally:
        made.close()


class TestCorpus:
    def test_a_watcher_of_many_files_stays_small_and_lets_out_few(self, valkey: str, redis_client: Redis, tmp_path: Path) -> None:
        """No worker takes anything, so all that could pile up piles up."""
        few, many = (self.listed(valkey, redis_client, tmp_path / name, number) for name, number in (("few", 200), ("many", 20_000)))
        assert many - few < 40 * MIB

    def listed(self, valkey: str, redis: Redis, root: Path, files: int) -> int:
        """Bytes that a watcher holds once it has listed so many files and handed over what it may."""
        redis.flushall()
        with (
            Pipeline(root, broker_of(valkey), max_batch=100, window=1_000) as pipeline,
            programs(root, pipeline.environment) as running,
        ):
            for number in range(files):
                (pipeline.folder.path / f"{number}.txt").write_bytes(b"text number %d" % number)
            process = psutil.Process(running.start("watch").pid)
            wait_until(lambda: pipeline.context.ledger.counts()["noticed"] > 0, lambda: running.said("watch"))
            settled = [0, 1]
            while settled[-1] != settled[-2]:
                wait_until(lambda: not process.cpu_percent(0.5) > 20, "the watcher to rest")
                settled.append(pipeline.context.ledger.counts()["noticed"])
            s = pipeline.context.settings
            assert settled[-1] <= min(s.window, s.max_batch * (s.inflight_batches + 1))
            assert pipeline.context.queue_lengths()["embedding"] <= s.inflight_batches + 1
            return resident(process)


class TestRedis:
    @pytest.fixture
    def pipeline(self, valkey: str, redis_client: Redis, tmp_path: Path) -> Iterator[Pipeline]:
        with Pipeline(tmp_path, broker_of(valkey), dead_letter_days=1e-9, orphan_seconds=0) as running:
            yield running

    def sizes(self, pipeline: Pipeline) -> dict[str, int]:
        """Members of every key that grows with documents."""
        redis, found = pipeline.context.redis, {}
        measure = {"hash": redis.hlen, "zset": redis.zcard, "list": redis.llen}
        for key in redis.scan_iter():
            if (kind := redis.type(key)) in measure:
                found[key.rpartition(":")[2]] = int(measure[kind](key))
        return {name: size for name, size in found.items() if name not in {"totals", "freshness"}}

    def test_what_is_gone_is_forgotten(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given documents that come, change, die and go
        for turn in range(3):
            names = [f"{turn}-{n}.txt" for n in range(50)]
            uris = [pipeline.folder.put(name, f"text of {name}") for name in names]
            pipeline.index(*uris, pipeline.folder.put(f"bad-{turn}.txt", b"\0" * (turn + 1)))
            pipeline.index(*(pipeline.folder.put(name, f"other text of {name}") for name in names))
            pipeline.index(*(pipeline.folder.remove(name) for name in [*names, f"bad-{turn}.txt"]))
        pipeline.index(pipeline.folder.put("stays.txt", "what stays"))
        # When the cleanup finds nobody who could still need to know
        monkeypatch.setattr(maintenance, "TOMBSTONE_SECONDS", -1.0)
        maintenance.cleanup()
        # Then Redis remembers what there is, and nothing else
        sizes = {name: size for name, size in self.sizes(pipeline).items() if size}
        assert sizes == {"entries": 1, "names": 1, "contents": 1}

    def test_processes_that_are_long_gone_are_forgotten(self, pipeline: Pipeline) -> None:
        ledger = pipeline.context.ledger
        ledger.show_life("watch@here")
        key = f"{ledger.namespace}:alive"
        long_ago = float(pipeline.context.redis.hget(key, "watch@here") or 0) - SILENT_SECONDS - 1
        pipeline.context.redis.hset(key, mapping={f"watch@container-{n}": str(long_ago) for n in range(100)})
        ledger.sweep(removed_before=0, dead_before=0)
        assert pipeline.context.redis.hkeys(key) == ["watch@here"]

    def test_times_that_are_kept_for_figures_are_bounded(self, pipeline: Pipeline) -> None:
        for _ in range(5):
            pipeline.context.ledger.fresh([0.5] * 700)
        assert len(pipeline.context.ledger.freshness()) == 1000
