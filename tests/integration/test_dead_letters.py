"""A dead letter has a life: it is counted and dated, tried again, healed, and at last forgotten. And it costs no neighbour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from pipeline import operate
from pipeline.base.errors import ConfigurationError
from pipeline.base.model import DeadLetter
from pipeline.observe.metrics import Exporter
from pipeline.observe.status import figures, whereabouts
from pipeline.tasks.embed import embed
from pipeline.tasks.maintenance import cleanup
from tests.support import Pipeline, wait_until

Opened = Callable[..., Pipeline]


def letter_of(pipeline: Pipeline, uri: str) -> DeadLetter:
    letter = pipeline.context.ledger.dead_letter(uri)
    assert letter
    return letter


def counted(pipeline: Pipeline) -> tuple[int, float | None]:
    """Dead letters, as `dropdex status` and as Prometheus see them."""
    registry = CollectorRegistry()
    registry.register(Exporter(pipeline.context))
    return figures(pipeline.context)["dead"], registry.get_sample_value("dropdex_dead")


class TestLife:
    def test_it_is_counted_while_it_lasts(self, pipeline: Pipeline) -> None:
        assert counted(pipeline) == (0, 0)
        bad = [pipeline.folder.put(f"{n}.txt", b"\0" * n) for n in (1, 2)]
        pipeline.index(*bad, pipeline.folder.put("good.txt", "words"))
        assert counted(pipeline) == (2, 2)
        pipeline.folder.remove("1.txt")
        pipeline.folder.put("2.txt", "healed")
        pipeline.reconcile()
        assert counted(pipeline) == (0, 0)

    def test_its_trouble_is_as_old_as_the_first_time(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", b"\0")
        begin = time.time()
        pipeline.index(uri)
        first = letter_of(pipeline, uri)
        pipeline.folder.put("a.txt", b"\0\0 still bad")
        pipeline.index(uri)
        second = letter_of(pipeline, uri)
        assert begin <= first.first_at == first.last_at == second.first_at < second.last_at <= time.time()
        assert second.version != first.version
        assert "DocumentError" in second.detail
        assert "Traceback" in second.detail or "DocumentError: " in second.detail

    def test_nothing_tries_it_again_until_it_changes(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", b"\0")
        pipeline.index(uri)
        for _ in range(3):
            assert pipeline.reconcile() == []
        pipeline.folder.put("a.txt", "words")
        assert pipeline.reconcile() == [uri]
        assert whereabouts(pipeline.context, uri).searchable

    def test_where_tells_its_reason(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", b"\0")
        pipeline.index(uri)
        searchable, sentence = whereabouts(pipeline.context, uri)
        assert not searchable
        assert letter_of(pipeline, uri).reason in sentence

    def test_it_expires_and_stays_silent_until_it_changes(self, opened: Opened) -> None:
        pipeline = opened(dead_letter_days=1e-9)
        uri = pipeline.folder.put("a.txt", b"\0")
        pipeline.index(uri)
        cleanup()
        assert pipeline.context.ledger.dead_letter(uri) is None
        assert counted(pipeline) == (0, 0)
        assert pipeline.reconcile() == []
        pipeline.folder.put("a.txt", "words")
        assert pipeline.reconcile() == [uri]
        assert pipeline.published() == pipeline.folder.contents()

    def test_one_that_is_young_outlives_a_cleanup(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", b"\0")
        pipeline.index(uri)
        cleanup()
        assert letter_of(pipeline, uri)


class TestRetry:
    def dead(self, opened: Opened, number: int) -> list[str]:
        """Documents that are too large for the settings of then."""
        strict = opened(max_document_bytes=10)
        uris = [strict.folder.put(f"{n}.txt", f"document number {n}, longer than that") for n in range(number)]
        strict.index(*uris)
        return uris

    def test_one(self, opened: Opened) -> None:
        uris = self.dead(opened, 3)
        pipeline = opened()
        assert operate.retry(pipeline.context, [str(pipeline.folder.path / "1.txt")], every=False) == 1
        assert pipeline.handed_over == [[uris[1]]]
        embed(pipeline.handed_over[0], "live")
        pipeline.build()
        assert set(pipeline.published()) == {uris[1]}
        assert {letter.uri for letter in pipeline.context.ledger.dead_letters()} == {uris[0], uris[2]}

    def test_all(self, opened: Opened) -> None:
        uris = self.dead(opened, 5)
        pipeline = opened(max_batch=2)
        assert operate.retry(pipeline.context, [], every=True) == 5
        assert [len(batch) for batch in pipeline.handed_over] == [2, 2, 1]
        for batch in pipeline.handed_over:
            embed(batch, "live")
        pipeline.build()
        assert set(pipeline.published()) == set(uris)
        assert counted(pipeline) == (0, 0)
        assert operate.retry(pipeline.context, [], every=True) == 0

    def test_what_is_no_dead_letter_is_refused(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("good.txt", "words"))
        with pytest.raises(ConfigurationError, match="none of these is a dead letter"):
            operate.retry(pipeline.context, [str(pipeline.folder.path / "good.txt")], every=False)

    def test_in_vain(self, opened: Opened) -> None:
        (uri,) = self.dead(opened, 1)
        pipeline = opened(max_document_bytes=10)
        operate.retry(pipeline.context, [uri], every=False)
        embed([uri], "live")
        assert letter_of(pipeline, uri).attempts == 1


# Culprits ---------------------------------------------------------------------------------------------------------------

WORKER = """
import ctypes, os, signal, sys
from pipeline.ledger import ledger
from pipeline.embedder.hashing import HashEmbedder

ledger.CLAIM_SECONDS = 0.3  # so that the claim of the dead is soon void
real = HashEmbedder.embed

def embed(self, texts, ids=None):
    if any("poison" in text for text in texts):
        {deed}
    return real(self, texts, ids)

HashEmbedder.embed = embed
from pipeline.tasks.embed import embed as task
task(sys.argv[1:], "live")
"""
DEEDS = {
    "segfault": ("ctypes.string_at(0)", -signal.SIGSEGV),
    "out of memory": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "abort": ("os.abort()", -signal.SIGABRT),
}


def lives(pipeline: Pipeline, deed: str, *uris: str) -> list[int]:
    """Deliver the same message to one worker after the other until one survives it; what each of them ended with."""
    codes: list[int] = []
    while not codes or codes[-1] != 0:
        wait_until(lambda: "live" not in pipeline.context.ledger.claims(uris), "the claims of the dead to be void")
        code = WORKER.format(deed=deed)
        done = subprocess.run(
            [sys.executable, "-c", code, *uris], env={**os.environ, **pipeline.environment}, capture_output=True, check=False
        )
        codes.append(done.returncode)
        assert len(codes) < 12
    return codes


class TestCulprits:
    """Native code that dies takes the whole worker along. So the attempt is counted before, and the next worker goes one by one."""

    @pytest.mark.parametrize("deed", DEEDS)
    def test_a_document_that_kills_the_worker_itself_costs_only_itself(self, opened: Opened, deed: str) -> None:
        pipeline = opened(max_attempts=2)
        good = [pipeline.folder.put(f"{name}.txt", f"good {name}") for name in "abyz"]
        killer = pipeline.folder.put("killer.txt", "poison")
        batch = [*good[:2], killer, *good[2:]]
        pipeline.notice(*batch)
        code, status = DEEDS[deed]
        # Once in company, once alone, and then never again
        assert lives(pipeline, code, *batch) == [status, status, 0]
        pipeline.build()
        letter = letter_of(pipeline, killer)
        assert letter.attempts == 2
        assert "the worker died 2 times" in letter.reason
        assert pipeline.published().keys() == set(good)
        assert counted(pipeline) == (1, 1)

    def test_two_culprits_in_one_batch(self, opened: Opened) -> None:
        pipeline = opened(max_attempts=2)
        batch = [pipeline.folder.put(f"{n}.txt", f"{'poison' if n in {1, 3} else 'good'} {n}") for n in range(5)]
        pipeline.notice(*batch)
        assert lives(pipeline, "os.abort()", *batch)[-1] == 0
        pipeline.build()
        assert {letter.uri for letter in pipeline.context.ledger.dead_letters()} == {batch[1], batch[3]}
        assert pipeline.published().keys() == {batch[0], batch[2], batch[4]}

    def test_with_one_attempt_nobody_is_blamed_for_the_company_it_was_in(self, opened: Opened) -> None:
        pipeline = opened(max_attempts=1)
        batch = [pipeline.folder.put(f"{name}.txt", "poison" if name == "m" else f"good {name}") for name in "amz"]
        pipeline.notice(*batch)
        lives(pipeline, "os.abort()", *batch)
        pipeline.build()
        assert [letter.uri for letter in pipeline.context.ledger.dead_letters()] == [batch[1]]
        assert pipeline.published().keys() == {batch[0], batch[2]}

    def test_changing_it_heals_it(self, opened: Opened) -> None:
        pipeline = opened(max_attempts=2)
        uri = pipeline.folder.put("killer.txt", "poison")
        pipeline.notice(uri)
        lives(pipeline, "os.abort()", uri)
        pipeline.folder.put("killer.txt", "harmless now")
        pipeline.reconcile()
        assert pipeline.context.ledger.dead_letter(uri) is None
        assert pipeline.published() == pipeline.folder.contents()

    def test_one_that_kills_its_extractor_has_all_its_attempts_counted(self, opened: Opened) -> None:
        pipeline = opened(max_attempts=3, extract_memory_bytes=2**29, extract_seconds=0.001)
        uri = pipeline.folder.put("slow.html", f"<html>{'<p>words</p>' * 300_000}</html>")
        good = pipeline.folder.put("good.txt", "plain words")
        pipeline.index(uri, good)
        letter = letter_of(pipeline, uri)
        assert letter.attempts == 3
        assert "longer than 0.001 s" in letter.reason
        assert set(pipeline.published()) == {good}
