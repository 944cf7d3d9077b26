"""`python -m tests.faults`: random histories with faults among them, and what must hold after each of them.

Exits with 1 where anything was violated. Every history is printed with its seed; `--seed N --histories 1` runs one again.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults import report
from tests.faults.campaign import run
from tests.faults.lanes import plan, possible

MINUTES = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--histories", type=int, default=515)
    parser.add_argument("--seed", type=int, default=1, help="of the first history; the others follow")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no further history is begun")
    parser.add_argument("--lane", choices=["stack", "folder", "bucket", "disk"], help="only histories of this kind")
    parser.add_argument("--fault", help="only histories with this fault")
    parser.add_argument("--first-violation", action="store_true", help="end with the first history that has one")
    arguments = parser.parse_args()
    plans, why = possible([plan(arguments.seed + number) for number in range(arguments.histories)])
    plans = [one for one in plans if arguments.lane in (None, one.lane) and arguments.fault in (None, *one.faults)]
    begin = time.time()
    outcomes, left = run(plans, arguments.minutes, until_violation=arguments.first_violation)
    seconds = time.time() - begin
    print("\n".join(["", *report.table(outcomes), "", report.summary(outcomes, arguments.seed, seconds), *([why] if why else []), *left]))
    if len(outcomes) >= 500:
        report.write(outcomes, arguments.seed, seconds)
    return 1 if left or any(outcome.violations for outcome in outcomes) or len(outcomes) < len(plans) else 0


if __name__ == "__main__":
    sys.exit(main())
