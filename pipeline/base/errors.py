"""Whose fault, and what next. Each class means one next action; its message is a sentence, its `hint` a command.

A document's fault is recorded and never raised out of a chord's header task: one raise there, and the chord's body
would never run.
"""

from __future__ import annotations


class DropdexError(Exception):
    """Root of everything we raise on purpose. `hint` is the operator's next step."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(DropdexError):
    """The operator asked for something that cannot work. Stop and print the hint."""

    exit_code = 2


class DocumentError(DropdexError):
    """The document cannot be indexed as it is. Dead letter; its last good version stays searchable.

    `version` is what was looked at, where the source knows it: the dead letter is silent until that changes.
    """

    def __init__(self, message: str, *, hint: str = "", version: str = "") -> None:
        super().__init__(message, hint=hint)
        self.version = version


class ExtractorDied(DocumentError):
    """The document's extraction crashed, ran out of memory or out of time. Tried again alone, up to the limit."""


class DocumentInMotion(DropdexError):
    """The document changed while we looked. Nobody's fault: look again later, count nothing."""


class Unavailable(DropdexError):
    """Infrastructure did not answer. Retry with backoff."""

    exit_code = 75


class Conflict(DropdexError):
    """Somebody else moved first. Look again."""

    exit_code = 75


class CorruptIndex(DropdexError):
    """Bytes of the index are not what its manifest says. Refuse the swap, keep the snapshot."""


class TooManyRemovals(DropdexError):
    """A listing misses more documents than one reconcile may remove. Nothing was removed; look whether the source is whole."""

    def __init__(self, removals: int, known: int) -> None:
        super().__init__(
            f"the listing misses {removals} of {known} documents, which is more than one reconcile may remove",
            hint="if they are really gone: dropdex reconcile --allow-removals",
        )
        self.removals = removals
        self.known = known
