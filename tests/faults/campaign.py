"""Many histories, several lanes side by side, each in processes of its own."""

from __future__ import annotations

import multiprocessing
import queue
import time
from typing import Any

from tests.faults.lanes import Outcome, Plan, Runner

STACKS = 2
"""Stacks that run side by side; the other lanes have a process each."""

STUCK_SECONDS = 300.0
"""After the last history was begun; a lane that says nothing until then is stuck."""


def work(lane: str, number: int, plans: list[Plan], deadline: float, until_violation: bool, results: Any) -> None:
    """One process: histories of one lane until they are done or the time is over."""
    with Runner(lane, number) as runner:
        for planned in plans:
            if time.time() > deadline:
                break
            outcome = runner.run(planned)
            if outcome.violations and lane == "stack":
                outcome.violations.append(f"the stack's folder was {runner.stack.root}")
            results.put(outcome)
            if until_violation and outcome.violations:
                break
        results.put((f"{lane} {number}", runner.end()))


def run(plans: list[Plan], minutes: float, *, until_violation: bool = False) -> tuple[list[Outcome], list[str]]:
    """All histories, several lanes side by side. Returns outcomes, and what was left behind at the end."""
    spawn = multiprocessing.get_context("spawn")
    results: Any = spawn.Queue()
    deadline = time.time() + minutes * 60
    shares = []
    for lane in dict.fromkeys(one.lane for one in plans):
        of_lane = [one for one in plans if one.lane == lane]
        among = min(STACKS, len(of_lane)) if lane == "stack" else 1
        shares += [(lane, number, of_lane[number::among]) for number in range(among)]
    processes = [spawn.Process(target=work, args=(*share, deadline, until_violation, results)) for share in shares]
    for process in processes:
        process.start()
    outcomes: list[Outcome] = []
    left: list[str] = []
    while any(process.is_alive() for process in processes) or not results.empty():
        try:
            found = results.get(timeout=0.5)
        except queue.Empty:
            if time.time() > deadline + STUCK_SECONDS:
                for process in processes:
                    process.kill()
            continue
        if isinstance(found, Outcome):
            outcomes.append(found)
            say(found, len(outcomes), len(plans))
        else:
            left += [f"{found[0]}: {problem}" for problem in found[1]]
    left += [f"lane {share[0]} ended with {p.exitcode}" for share, p in zip(shares, processes, strict=True) if p.exitcode]
    return outcomes, left


def say(outcome: Outcome, number: int, total: int) -> None:
    plan = outcome.plan
    print(f"{number:4}/{total} seed {plan.seed} {plan.lane:6} {outcome.seconds:6.1f} s  {', '.join(plan.faults)}", flush=True)
    for violation in outcome.violations:
        print(f"          VIOLATION: {violation}", flush=True)
