"""What `make demo` runs: a watched folder becomes a searchable index, in a folder of its own that is gone afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tour import MODEL, Tour, run, running, show, title

from pipeline import Reader
from pipeline.embedder import open_embedder


class Folder:
    """A watched folder."""

    name = "inbox/"

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, data: bytes) -> None:
        (self._path / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def uri(self, name: str) -> str:
        return (self._path / name).resolve().as_uri()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dropdex-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        title("dropdex up")
        with running(folder) as pipeline:
            embedder = open_embedder(MODEL)
            embedder.warm()  # for our own questions; beside the start of the pipeline it costs no time
            print(pipeline.wait_until_ready())
            with Reader.open(f"file:{folder}/index", embedder=embedder) as reader:
                show(Tour(pipeline, reader, Folder(folder / "inbox")))
            title("dropdex status")
            print(pipeline.ask("status"))
            title("Ctrl-C")
            print(f"stopped all {pipeline.stop()} processes, none is left")


if __name__ == "__main__":
    run(main)
