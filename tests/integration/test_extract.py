"""Documents of every kind, good and hostile, through real child processes."""

from __future__ import annotations

import io
import mimetypes
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.base.errors import DocumentError, ExtractorDied, Unavailable
from pipeline.base.model import Content
from pipeline.text import Extractor

EXAMPLES = Path(__file__).parents[2] / "examples"
MEMORY = 2 * 2**30
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"

Make = Callable[[str], Extractor]


def content(data: bytes, name: str = "a.html") -> Content:
    return Content(f"file:///inbox/{name}", "1", data, mimetypes.guess_type(name)[0] or "", 0.0)


def page(words: str) -> Content:
    return content(f"<html><p>{words}</p></html>".encode())


def docx(document: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", document)
    return buffer.getvalue()


def paragraph(text: str, declaration: str = "") -> str:
    body = f"<w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>"
    return f'<?xml version="1.0"?>{declaration}<w:document xmlns:w="{WORD}">{body}</w:document>'


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    made = Extractor(1, 30, MEMORY, 100_000)
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An extractor whose children parse with the given body of `parse(media_type, data)` instead of kreuzberg."""
    made: list[Extractor] = []

    def build(body: str, *, processes: int = 1, seconds: float = 10) -> Extractor:
        program = tmp_path / f"child{len(made)}.py"
        program.write_text(
            "import os, signal, sys, time\nfrom pipeline.text.child import serve\n"
            f"def parse(media_type, data):\n    words = data.decode()\n    {body}\n    return words\nserve(parse)\n"
        )
        made.append(Extractor(processes, seconds, 512 * 2**20, 5_000, command=(sys.executable, "-P", str(program))))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tides.md", "spring tide"),
        ("coffee-prices.csv", "Robusta"),
        ("planets.json", "Ganymede"),
        ("sieve.py", "Eratosthenes"),
        ("black-holes.txt", "event horizon"),
        ("honey-bees.html", "waggle"),
        ("volcanoes.html", "Eyjafjallajökull"),
        ("garden-invitation.eml", "tomato seedlings"),
        ("lighthouse-lens.pdf", "Fresnel"),
        ("piano-tuning.docx", "equal temperament"),
        ("hiking-trails.xlsx", "Kungsleden"),
    ],
)
def test_the_examples_are_read(extractor: Extractor, name: str, words: str) -> None:
    text = extractor.extract(content((EXAMPLES / name).read_bytes(), name))
    assert words in text
    assert "<p>" not in text


def test_a_page_is_read_in_its_own_encoding(extractor: Extractor) -> None:
    assert extractor.extract(content("<html><p>déjà vu — “x”</p></html>".encode("cp1252"))) == "déjà vu — “x”"


BOMB = "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'>" + "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(9))
ENCRYPTED_PDF = (
    b"%PDF-1.4\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n2 0 obj\n<</Type/Pages/Kids[]/Count 0>>\nendobj\n3 0 obj\n"
    b"<</Filter/Standard/V 1/R 2/P -4/O<" + b"ab" * 32 + b">/U<" + b"cd" * 32 + b">>>\nendobj\n"
    b"trailer\n<</Root 1 0 R/Encrypt 3 0 R/Size 4/ID[<00><00>]>>\n%%EOF"
)


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "a.txt", "is empty"),
        (b"<html><script>1</script></html>", "a.html", "has no text"),
        (b"\x7fELF\0\0", "a.bin", "not text"),
        (b"%PDF-1.4 broken", "a.pdf", "cannot be read as application/pdf"),
        (ENCRYPTED_PDF, "a.pdf", "is encrypted"),
        (docx(paragraph("")), "a.docx", "has no text"),
        (docx(paragraph("x"))[:-30], "a.docx", "damaged or incomplete"),
        (docx(paragraph("a" * 60_000_000)), "a.docx", "zip bomb"),
        (docx(paragraph("&j;", BOMB + "]>")), "a.docx", "has no text"),
        (docx(paragraph("long words " * 20_000)), "a.docx", "the limit is 100,000"),
        (b"long words " * 20_000, "a.txt", "the limit is 100,000"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "a.doc", "cannot be read as application/msword"),
    ],
    ids=[
        "empty",
        "script",
        "elf",
        "broken-pdf",
        "encrypted-pdf",
        "blank",
        "truncated",
        "zip-bomb",
        "xml-bomb",
        "long-docx",
        "long-txt",
        "ole",
    ],
)
def test_what_cannot_be_read_is_refused_and_the_child_lives(extractor: Extractor, data: bytes, name: str, reason: str) -> None:
    outcome, neighbour = extractor.extract_many([content(data, name), page("still here")])
    assert isinstance(outcome, DocumentError)
    assert not isinstance(outcome, ExtractorDied)
    assert reason in str(outcome)
    assert neighbour == "still here"


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "more than 512 MiB of memory"),
        ("os._exit(3)", "status 3"),
        ("bytearray(2**30)", "more than 512 MiB of memory"),
        ("[None for _ in iter(int, 1)]", "longer than 1 s"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); time.sleep(60)", "longer than 1 s"),
        ("sys.exit('gone')", "status 1"),
    ],
    ids=["segfault", "abort", "exit", "memory", "loop", "deaf", "system-exit"],
)
def test_a_death_costs_one_document_and_no_neighbour(make: Make, deed: str, reason: str) -> None:
    extractor = make(f"if 'bad' in words: {deed}", seconds=1)
    outcomes = extractor.extract_many([page(word) for word in ("one", "bad", "two", "three")])
    assert isinstance(outcomes[1], ExtractorDied)
    assert reason in str(outcomes[1])
    assert [isinstance(outcome, str) for outcome in outcomes] == [True, False, True, True]
    with pytest.raises(ExtractorDied):
        extractor.extract(page("bad"))


def test_a_child_killed_while_idle_costs_nothing(make: Make) -> None:
    extractor = make("words = str(os.getpid())")
    first = int(extractor.extract(page("one")))
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=5)
    assert int(extractor.extract(page("two"))) != first


def test_a_child_is_replaced_before_its_leaks_add_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.extract._DOCUMENTS_PER_CHILD", 3)
    outcomes = make("words = str(os.getpid())").extract_many([page("x")] * 7)
    assert [outcomes.count(pid) for pid in dict.fromkeys(outcomes)] == [3, 3, 1]


def test_plain_text_starts_no_child(make: Make) -> None:
    extractor = make("pass")
    before = set(psutil.Process().children())
    assert extractor.extract(content(b"plain words", "a.txt")) == "plain words"
    assert set(psutil.Process().children()) == before


def test_a_child_knows_no_secret_and_loads_nothing_heavy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("DROPDEX_BROKER", "redis://:hush@host")
    environment = make("words = ' '.join(os.environ.values())").extract(page("x"))
    assert "hush" not in environment
    loaded = make("words = ' '.join(name for name in sys.modules if '.' not in name)").extract(page("x")).split()
    assert not {"torch", "celery", "numpy", "pytest", "pydantic", "boto3", "tokenizers"} & set(loaded)


def test_threads_share_the_children_and_get_their_own_answers(make: Make) -> None:
    extractor = make("time.sleep(0.002)", processes=2)
    batches = [[page(f"{batch}-{number}") for number in range(20)] for batch in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(extractor.extract_many, batches))
    assert [["<html><p>%d-%d</p></html>" % (batch, number) for number in range(20)] for batch in range(4)] == outcomes  # noqa: UP031
    assert len(extractor._children) == 2


def test_children_outlive_the_thread_that_asked_first(make: Make) -> None:
    extractor = make("words = str(os.getpid())")
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(extractor.extract(page("x"))))
    thread.start()
    thread.join()
    assert [extractor.extract(page("x"))] == answers


def test_closing_kills_a_child_at_work_and_blames_no_document(make: Make) -> None:
    extractor = make("time.sleep(60)", seconds=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(extractor.extract_many, [page("x"), page("y")])
        while not (busy := [child for child in extractor._children if child._left < 500]):
            time.sleep(0.01)
        folder = Path(extractor._folder.name)
        extractor.close()
        with pytest.raises(Unavailable):
            waiting.result(timeout=10)
    assert busy[0]._process.returncode == -signal.SIGKILL
    assert not folder.exists()


def test_a_child_that_cannot_start_is_nobodys_document(make: Make) -> None:
    broken = Extractor(1, 5, MEMORY, 1_000, command=(sys.executable, "-c", "raise SystemExit(9)"))
    with pytest.raises(Unavailable, match="no extraction process can be started"):
        broken.extract(page("x"))
    broken.close()


def test_nothing_is_left_behind_in_the_working_directory_or_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    extractor = Extractor(1, 30, MEMORY, 10_000)
    extractor.extract(content((EXAMPLES / "lighthouse-lens.pdf").read_bytes(), "a.pdf"))
    extractor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    program, note = tmp_path / "child.py", tmp_path / "pid"
    program.write_text(
        "import os, time\nfrom pipeline.text.child import serve\n"
        f"def parse(media_type, data):\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\nserve(parse)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pipeline.base.model import Content; from pipeline.text import Extractor\n"
            f"Extractor(1, 60, 2**30, 100, command=(sys.executable, '-P', {str(program)!r}))"
            ".extract(Content('a.html', '1', b'<html>x', 'text/html', 0.0))",
        ]
    )
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = psutil.Process(int(note.read_text()))
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone
