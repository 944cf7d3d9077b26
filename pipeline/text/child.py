"""The program that parses what strangers wrote: one document in, one reply out, over one inherited socket.

It may hang, crash or be taken over by what it reads. So it holds one document at a time, has limits that it cannot
raise, knows no secret, and answers with plain text: nothing it says is ever unpickled.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

from pipeline.base.errors import DocumentError
from pipeline.text import kinds, protocol
from pipeline.text.archive import document_type

_PR_SET_PDEATHSIG: Final = 1
_REASON_CHARS: Final = 200

Parse = Callable[[str, bytes], str]


def serve(parse: Parse) -> None:
    """Answer until the other end hangs up. The arguments are: descriptor, memory in bytes, characters of text."""
    descriptor, memory_bytes, max_chars = (int(argument) for argument in sys.argv[1:4])
    _confine(memory_bytes)
    with Connection(descriptor) as connection:
        connection.send_bytes(protocol.READY)
        while True:
            try:
                media_type, data = connection.recv_bytes().decode(), connection.recv_bytes()
            except (EOFError, ConnectionError):
                return
            status, reply = _answer(parse, media_type, data, max_chars)
            connection.send_bytes(status)
            connection.send_bytes(reply.encode("utf-8", "replace"))


def _confine(memory_bytes: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then hangs up
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _answer(parse: Parse, media_type: str, data: bytes, max_chars: int) -> tuple[bytes, str]:
    try:
        text = parse(media_type, data)
    except DocumentError as error:
        return protocol.REFUSED, str(error)
    except MemoryError:
        os._exit(protocol.OUT_OF_MEMORY)
    if len(text) > max_chars:
        return protocol.REFUSED, protocol.too_long(len(text), max_chars)
    return protocol.TEXT, text


def parser() -> Parse:
    """Parse with kreuzberg: no text recognition in images, no cache on the disk, one thread."""
    import kreuzberg

    config = kreuzberg.ExtractionConfig(  # type: ignore[call-arg]  # disable_ocr is missing from the package's stub
        use_cache=False,
        disable_ocr=True,
        postprocessor=kreuzberg.PostProcessorConfig(enabled=False),
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
    )

    def parse(media_type: str, data: bytes) -> str:
        if media_type == kinds.ZIP:
            media_type = document_type(data)
        try:
            text: str = kreuzberg.extract_bytes_sync(data, media_type, config).content
        except kreuzberg.ValidationError as error:
            raise DocumentError(f"documents of the type {media_type} are not read") from error
        except kreuzberg.KreuzbergError as error:
            raise DocumentError(_reason(media_type, str(error))) from error
        return text

    return parse


def _reason(media_type: str, message: str) -> str:
    if "password" in message.lower() or "encrypt" in message.lower():
        return "the document is encrypted"
    detail = " ".join(message.partition(": ")[2].split()) or message
    shown = "".join(letter if letter.isprintable() else "?" for letter in detail[:_REASON_CHARS])  # it may quote the document
    return f"the document cannot be read as {media_type}: {shown}"


if __name__ == "__main__":
    serve(parser())
