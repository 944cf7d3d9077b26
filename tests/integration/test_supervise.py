"""Programs of one terminal, with real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.up.supervise import Program, Supervisor


@pytest.fixture
def running(tmp_path: Path) -> Iterator[dict[str, int]]:
    programs = [Program("first", ["sleep", "60"]), Program("later", ["sleep", "60"], background=True)]
    supervisor = Supervisor([programs], {}, tmp_path)
    supervisor.start()
    assert [program.name for program in programs if program.process] == ["first"]
    supervisor.check()
    supervisor.start_background()
    supervisor.start_background()
    yield {program.name: program.process.pid for program in programs if program.process}
    supervisor.stop()
    assert all(program.process and program.process.poll() is not None for program in programs)


def test_a_terminal_s_ctrl_c_reaches_none_of_them(running: dict[str, int]) -> None:
    assert [os.getpgid(pid) for pid in running.values()] == list(running.values())


def test_what_nobody_waits_for_gives_way_to_the_others(running: dict[str, int]) -> None:
    assert os.getpriority(os.PRIO_PROCESS, running["later"]) == 10
    # Niceness counts among the processes of one session only, where the kernel groups them so
    assert {os.getsid(pid) for pid in running.values()} == {os.getsid(0)}
