"""A kind of document, how it is made, and what is stated to become of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Searchable:
    """It is found, and `says` is in its text. What is in `never` is not."""

    says: str = ""
    never: str = "root:x:0"


@dataclass(frozen=True)
class Dead:
    """It is a dead letter, and this is part of its reason."""

    reason: str


@dataclass(frozen=True)
class Absent:
    """It is not a document: nothing is said of it anywhere."""


Outcome = Searchable | Dead | Absent
Make = Callable[[bytes], None]


@dataclass(frozen=True)
class Kind:
    """One way to be hostile. `make` writes it to a path that does not exist, in a folder that does."""

    what: str
    name: bytes
    make: Make
    outcome: Outcome


def kind_of(what: str, name: str | bytes, make: bytes | str | Callable[[], bytes] | Make, outcome: Outcome) -> Kind:
    data = make.encode() if isinstance(make, str) else make
    return Kind(what, os.fsencode(name), partial(write_to, data) if isinstance(data, bytes) else data, outcome)


def write_to(data: bytes, path: bytes) -> None:
    Path(os.fsdecode(path)).write_bytes(data)


def later(make: Callable[[], bytes]) -> Make:
    """For what is large: made when it is written and not when this is imported."""
    return lambda path: write_to(make(), path)
