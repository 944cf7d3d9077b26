"""Alarms: the schedule that fell silent, and alert rules and a dashboard that name only what is exported and written down."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from pipeline.base.errors import CorruptIndex, Unavailable
from pipeline.cli import main
from pipeline.context import QUEUES
from pipeline.index import upkeep
from pipeline.index.draft import Draft
from pipeline.index.manifest import FileRef, Manifest
from pipeline.index.writer import Writer
from pipeline.ledger.lease import Lease
from pipeline.ledger.progress import STAGES, Progress
from pipeline.observe.metrics import Exporter
from pipeline.observe.status import JOBS, figures, overdue, periods
from pipeline.tasks.embed import embed
from pipeline.tasks.maintenance import cleanup, statistics
from pipeline.tasks.merge import rebuild
from tests.support import Pipeline, broker_of

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())


@pytest.fixture
def pipeline(valkey: str, redis_client: Redis, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(tmp_path, broker_of(valkey)) as running:
        yield running


def registry_of(pipeline: Pipeline) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Exporter(pipeline.context))
    return registry


EVERY = {"cleanup": 100.0, "statistics": 10.0}


class TestOverdue:
    @pytest.mark.parametrize(
        ("ages", "late"),
        [
            ({}, []),
            ({"cleanup": 199.0, "statistics": 20.0}, []),
            ({"cleanup": 201.0, "statistics": 20.0}, ["cleanup"]),
            ({"statistics": 21.0, "cleanup": 1e9}, ["cleanup", "statistics"]),
        ],
    )
    def test_older_than_twice_its_period(self, ages: dict[str, float], late: list[str]) -> None:
        assert overdue(ages, EVERY) == late

    def test_each_job_leaves_word_when_it_succeeds(self, pipeline: Pipeline) -> None:
        assert not any(f"{job}_age" in figures(pipeline.context) for job in JOBS)
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        for job in (cleanup, statistics, rebuild):
            job()
        pipeline.context.ledger.note("reconciled", str(time.time()))  # as the relay does once it has listed every source
        report = figures(pipeline.context)
        assert all(0 <= report[f"{job}_age"] < 60 for job in JOBS)
        assert report["overdue"] == []

    @pytest.mark.parametrize("job", JOBS)
    def test_one_that_fell_silent_is_told_in_status_and_to_prometheus(self, pipeline: Pipeline, job: str) -> None:
        every = periods(pipeline.context.settings)
        for name, note in JOBS.items():
            age = every[name] * (2.1 if name == job else 1.9)
            pipeline.context.ledger.note(note, str(time.time() - age))
        assert figures(pipeline.context)["overdue"] == [job]
        registry = registry_of(pipeline)
        told = {name: registry.get_sample_value("dropdex_job_overdue", {"job": name}) for name in JOBS}
        assert told == {name: float(name == job) for name in JOBS}
        assert registry.get_sample_value("dropdex_job_period_seconds", {"job": job}) == every[job]


class TestErrors:
    """What we depend on failed: counted by who it was."""

    def counted(self, pipeline: Pipeline, service: str) -> float | None:
        return registry_of(pipeline).get_sample_value("dropdex_errors_total", {"service": service})

    def test_a_source_that_is_away(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.folder.path.rename(pipeline.root / "unmounted")
        pipeline.notice(uri)
        with pytest.raises(Unavailable):
            embed([uri], "live")
        assert self.counted(pipeline, "source") == 1
        assert self.counted(pipeline, "home") is None

    def test_a_home_that_is_away(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: Any, **__: Any) -> str:
            raise Unavailable("the disk is full")

        uri = pipeline.folder.put("a.txt", "words")
        monkeypatch.setattr(pipeline.context.blobs, "put", away)
        pipeline.notice(uri)
        with pytest.raises(Unavailable):
            embed([uri], "live")
        assert self.counted(pipeline, "home") == 1


class TestWork:
    """What is going on, as status and Prometheus tell it."""

    def stages(self, pipeline: Pipeline) -> set[str]:
        told = {s.labels["stage"]: s.value for m in registry_of(pipeline).collect() if m.name == "dropdex_stage" for s in m.samples}
        assert told.keys() == set(STAGES)
        return {name for name, value in told.items() if value}

    def test_from_rest_to_rest(self, pipeline: Pipeline) -> None:
        ledger = pipeline.context.ledger
        uri = pipeline.folder.put("a.txt", "words")
        assert figures(pipeline.context)["stage"] == "idle"
        pipeline.notice(uri)
        assert figures(pipeline.context)["stage"] == "waiting"
        for name in ("embedding-1@a", "indexing@a", "watch@a"):
            ledger.show_life(name)
        ledger.note("progress:watch@a", Progress(waiting=9, rate=2.5).to_json())
        report = figures(pipeline.context)
        assert (report["stage"], report["documents_per_second"], report["eta_seconds"]) == ("embedding", 2.5, 4.0)
        assert registry_of(pipeline).get_sample_value("dropdex_eta_seconds") == 4.0
        assert registry_of(pipeline).get_sample_value("dropdex_documents_per_second") == 2.5
        ledger.note("progress:watch@a", Progress().to_json())
        embed([uri], "live")
        assert self.stages(pipeline) == {"indexing"}
        pipeline.build()
        assert self.stages(pipeline) == {"idle"}

    def test_leases_tell_of_builds_and_merges(self, pipeline: Pipeline) -> None:
        namespace = pipeline.context.ledger.namespace
        for name, expected in (("merge", "merging"), ("build", "indexing")):
            lease = Lease(pipeline.context.redis, f"{namespace}:{name}", 30)
            assert lease.acquire()
            assert figures(pipeline.context)["stage"] == expected
            lease.release()

    def test_what_nobody_knows_is_no_figure(self, pipeline: Pipeline) -> None:
        assert figures(pipeline.context)["eta_seconds"] is None
        told = registry_of(pipeline).get_sample_value("dropdex_eta_seconds")
        assert told is not None
        assert math.isnan(told)
        said = CliRunner().invoke(main, ["status"]).output.splitlines()
        assert "stage                  idle" in said
        assert "eta_seconds" in [line.strip() for line in said]

    def test_a_rollback_is_told_where_it_holds_something_up(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "one"))
        upkeep.rollback(pipeline.context.home, 1)
        pipeline.look(pipeline.folder.put("b.txt", "two"))
        assert figures(pipeline.context)["stage"] == "held"


def bent(draft: Draft) -> Draft:
    """One bit of a file is another one than its digest says."""
    path = next(content for _, content in draft.files if isinstance(content, Path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return draft


def without_passages(draft: Draft) -> Draft:
    """Every digest is right, and what was written is nonsense: vectors whose passages are gone."""
    path = next(content for name, content in draft.files if name.endswith(".sqlite") and isinstance(content, Path))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM passages")
        db.commit()
    *others, last = draft.manifest.segments
    segments = (*others, type(last)(**{**dict(last), "passages": FileRef.of(path)}))
    return replace(draft, manifest=Manifest(**{**dict(draft.manifest), "segments": segments}))


@pytest.mark.parametrize("plant", [bent, without_passages])
class TestRefusals:
    """A generation that is not what it should be is not served, and that is an alarm of its own."""

    def refusals(self, pipeline: Pipeline) -> float | None:
        return registry_of(pipeline).get_sample_value("dropdex_canary_refusals_total")

    def test_a_bad_draft_raises_the_alarm_and_keeps_the_old_generation(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plant: Callable[[Draft], Draft]
    ) -> None:
        # Given a served generation, and a builder that writes nonsense
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        before = pipeline.published()
        assert self.refusals(pipeline) == figures(pipeline.context)["canary_refusals_total"] == 0
        real = Writer.draft

        def planted(writer: Writer, *args: Any, **more: Any) -> Draft | None:
            draft = real(writer, *args, **more)
            return plant(draft) if draft else None

        monkeypatch.setattr(Writer, "draft", planted)
        pipeline.look(pipeline.folder.put("b.txt", "other words"))
        # When it builds, again and again
        for _ in range(2):
            with pytest.raises(CorruptIndex), caplog.at_level(logging.WARNING, "pipeline.tasks.build"):
                pipeline.build()
        # Then that is counted and told, and nothing of it is served
        assert self.refusals(pipeline) == figures(pipeline.context)["canary_refusals_total"] == 2
        assert [(record.action, record.generation) for record in caplog.records] == [("refused", 2)] * 2  # type: ignore[attr-defined]
        assert pipeline.manifest().generation == 1
        assert pipeline.published() == before
        assert pipeline.context.ledger.counts()["settled"] == 1
        # And the next good build publishes what waited
        monkeypatch.undo()
        pipeline.build()
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_bad_merge_as_well(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Draft], Draft]) -> None:
        for name in "ab":
            pipeline.index(pipeline.folder.put(f"{name}.txt", f"words of {name}"))
        real = Writer.merge
        monkeypatch.setattr(Writer, "merge", lambda writer, plan: plant(real(writer, plan)))
        with pytest.raises(CorruptIndex):
            rebuild(force=True)
        assert self.refusals(pipeline) == 1
        assert pipeline.manifest().generation == 2


class TestRules:
    @pytest.fixture
    def exported(self, pipeline: Pipeline) -> set[str]:
        """Every name that a scrape can contain, of a pipeline that has published something."""
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        names = {"up"}
        for metric in Exporter(pipeline.context).collect():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            names |= {metric.name + ending for ending in endings}
        return names

    def named(self, expression: str) -> set[str]:
        return set(re.findall(r"\bdropdex_\w+", expression))

    def test_they_name_what_is_exported(self, exported: set[str]) -> None:
        for rule in RULES:
            assert self.named(rule["expr"]) <= exported, rule["alert"]

    def test_the_dashboard_names_what_is_exported(self, exported: set[str]) -> None:
        expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
        named = set().union(*map(self.named, expressions))
        assert named <= exported
        assert len(named) > 20

    def test_every_alarm_says_what_is_wrong_and_where_to_read_on(self) -> None:
        headings = set(re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
        assert len({rule["alert"] for rule in RULES}) == len(RULES)
        for rule in RULES:
            assert rule["alert"].startswith("Dropdex")
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"]["summary"].endswith(".")
            assert rule["annotations"]["runbook"] in headings

    def test_they_know_every_kind_of_process_by_the_names_it_gives_itself(self) -> None:
        patterns = [re.search(r'process=~"([^"]+)"', rule["expr"]) for rule in RULES]
        matching = [re.compile(found[1]) for found in patterns if found]
        for name in ("watch@a", "beat@a", *(f"{queue}@a" for queue in QUEUES), *(f"{queue}-2@a" for queue in QUEUES)):
            assert sum(bool(pattern.fullmatch(name)) for pattern in matching) == 1, name
        everything = f"{'-'.join(QUEUES)}@a"  # a worker for all queues
        assert sum(bool(pattern.fullmatch(everything)) for pattern in matching) == len(QUEUES)

    def test_panels_do_not_overlap_and_have_names_of_their_own(self) -> None:
        cells: set[tuple[int, int]] = set()
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            mine = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
            assert place["x"] + place["w"] <= 24
            assert not mine & cells
            cells |= mine
        assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len({panel["title"] for panel in DASHBOARD["panels"]})

    @pytest.mark.parametrize(
        "arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"], ["check", "config", "prometheus.yml"]]
    )
    def test_prometheus_agrees(self, arguments: list[str]) -> None:
        if not shutil.which("promtool"):
            pytest.skip("promtool is not installed; it comes with Debian's package prometheus")
        done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_can_read_a_scrape(pipeline: Pipeline) -> None:
    pipeline.index(pipeline.folder.put("a.txt", "words"), pipeline.folder.put("bad.txt", b"\0"))
    scrape = generate_latest(registry_of(pipeline)).decode()
    read = {(s.name, *s.labels.values()): s.value for family in text_string_to_metric_families(scrape) for s in family.samples}
    assert read[("dropdex_looks_total", "present")] == read[("dropdex_looks_total", "dead")] == 1
    assert read[("dropdex_dead",)] == read[("dropdex_published_documents",)] == 1
