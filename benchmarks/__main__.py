"""`python -m benchmarks [NAME …]`: run the named benchmarks, all of them by default."""

from __future__ import annotations

import sys

from benchmarks import freshness, ingest, publication, report

BENCHMARKS = {
    "publication": publication.one_file,
    "swaps": publication.swaps,
    "hash": ingest.hashed,
    "freshness": freshness.model,
    "bucket": freshness.bucket,
    "ingest": ingest.model,
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
    return 0


sys.exit(main(sys.argv[1:]))
