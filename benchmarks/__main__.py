"""`python -m benchmarks [NAME …]`: run the named benchmarks, all of them by default."""

from __future__ import annotations

import sys

from benchmarks import freshness, ingest, instructions, merging, plumbing, publication, report, samples, search, swaps
from benchmarks.queues import table as queues
from benchmarks.scale import page as scale

BENCHMARKS = {
    "ingest": ingest.model,
    "mixed": ingest.mixed,
    "hash": plumbing.hashed,
    "static": plumbing.static,
    "restart": plumbing.restart,
    "freshness": freshness.model,
    "backfill": freshness.backfill,
    "bucket": freshness.bucket,
    "publication": publication.one_file,
    "flat": publication.flat,
    "amplification": merging.amplification,
    "rebuild": merging.rebuilt,
    "opening": search.opening,
    "million": freshness.million,
    "swaps": swaps.swaps,
    "search": search.search,
    "instructions": instructions.instructions,
    "samples": samples.samples,
    "queues": queues.compared,
    "scale": scale.measured,
    "simulation": scale.simulated,
}


def main(names: list[str]) -> int:
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        print(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows = []
    for name in names or BENCHMARKS:
        print(name, flush=True)
        for row in BENCHMARKS[name]():
            report.show(row)
            rows.append(row)
        report.write(rows)
    report.draw()
    report.publish()
    return 0


sys.exit(main(sys.argv[1:]))
