"""Which history a seed stands for, and how it is run: in this process, against a bucket, or with a stack of real processes.

A seed says everything: its lane, its faults and every random choice. So `--seed N --histories 1` runs one again.
"""

from __future__ import annotations

import logging
import random
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.broker.valkey import EmbeddedBroker
from tests.faults.bucket import BUCKET_FAULTS, BucketLaboratory
from tests.faults.faults import FOLDER_FAULTS, SmallDisk, can_mount, full_disk
from tests.faults.laboratory import Laboratory
from tests.faults.stack import STACK_FAULTS, Stack
from tests.s3_emulator import s3_emulator

DISK_FAULTS = {"disk full": full_disk}

LANES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("stack", STACK_FAULTS, 100),
    ("folder", FOLDER_FAULTS, 300),
    ("bucket", BUCKET_FAULTS, 90),
    ("disk", DISK_FAULTS, 25),
)
"""Name, faults, and how many histories of it there are among SHARES."""

SHARES = sum(share for _, _, share in LANES)


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    lane: str
    faults: tuple[str, ...]


@dataclass
class Outcome:
    """What came of a history."""

    plan: Plan
    seconds: float
    hits: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    asked: int = 0
    generations: int = 0


def plan(seed: int) -> Plan:
    """Lane and faults of a history: the lanes in proportion, the faults of a lane in turn, and up to two more by chance."""
    place = seed * 89 % SHARES  # spreads the lanes evenly over consecutive seeds
    for lane, faults, share in LANES:
        if place < share:
            names = sorted(faults)
            chance = random.Random(f"{seed}")
            first = names[place % len(names)]
            others = [names[(place + 1 + place // len(names)) % len(names)]]
            others += chance.sample(names, k=int(lane == "stack" or chance.random() < 0.5))
            return Plan(seed, lane, tuple(dict.fromkeys((first, *others))))
        place -= share
    raise AssertionError("the shares add up")


class Runner:
    """Runs the histories of one lane, one after the other; a stack is kept from history to history."""

    def __init__(self, lane: str, number: int = 0) -> None:
        self._lane, self._number = lane, number
        self._open = ExitStack()

    def __enter__(self) -> Runner:
        logging.disable(logging.CRITICAL)  # faults are loud, and violations are told by themselves
        if self._lane == "stack":
            self.stack = self._open.enter_context(Stack(self._number))
        else:
            folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp")))
            self._open.enter_context(EmbeddedBroker(folder))
            self._broker = f"embedded:{folder}"
            self._endpoint = self._open.enter_context(s3_emulator()) if self._lane == "bucket" else ""
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        logging.disable(logging.NOTSET)

    def run(self, planned: Plan) -> Outcome:
        outcome, begin = Outcome(planned, 0.0), time.monotonic()
        try:
            self._run_stack(outcome) if self._lane == "stack" else self._run_laboratory(outcome)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.violations.append(f"{error!r} at {Path(where.filename).name}:{where.lineno}")
        outcome.seconds = time.monotonic() - begin
        return outcome

    def _run_stack(self, outcome: Outcome) -> None:
        asked, generations = self.stack.questioner.asked, self.stack.generations
        hits, outcome.violations = self.stack.run(outcome.plan.seed, [(name, STACK_FAULTS[name]) for name in outcome.plan.faults])
        outcome.hits = dict(hits)
        outcome.asked, outcome.generations = self.stack.questioner.asked - asked, self.stack.generations - generations

    def _run_laboratory(self, outcome: Outcome) -> None:
        table: dict[str, Any] = next(faults for lane, faults, _ in LANES if lane == self._lane)
        with self._laboratory(outcome.plan.seed) as laboratory:
            try:
                laboratory.run([(name, table[name]) for name in outcome.plan.faults], steps=24 if self._lane != "bucket" else 12)
            finally:
                outcome.hits, outcome.violations = dict(laboratory.hits), laboratory.violations
                outcome.asked, outcome.generations = laboratory.questioner.asked, laboratory.generations

    def _laboratory(self, seed: int) -> Laboratory:
        if self._lane == "bucket":
            return BucketLaboratory(self._broker, seed, self._endpoint)
        return (SmallDisk if self._lane == "disk" else Laboratory)(self._broker, seed)

    def end(self) -> list[str]:
        """Stop everything and look for what is left behind."""
        return self.stack.stop() if self._lane == "stack" else []


def possible(planned: Sequence[Plan]) -> tuple[list[Plan], str]:
    """The histories that this machine can run, and why not the others."""
    if can_mount():
        return list(planned), ""
    return [one for one in planned if one.lane != "disk"], "a full disk needs a small tmpfs, and this user may not mount one"
