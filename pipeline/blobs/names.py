"""What a blob may be called: relative, with slashes, in plain sight. Pure.

A name that could leave its store ("../x"), or hide among a store's own files (".lock"), never reaches a disk or a bucket.
"""

from __future__ import annotations


def checked(name: str) -> str:
    """`name`, or ValueError where it is no name for a blob."""
    if not name or any(_bad(part) for part in name.split("/")):
        raise ValueError(f"{name!r} is no name for a blob: it must be relative, without empty or hidden parts")
    return name


def checked_prefix(prefix: str) -> str:
    """`prefix`, or ValueError where no blob's name can start so. It may be empty, or end within or after a part."""
    *folders, last = prefix.split("/")
    if any(_bad(part) for part in folders) or (last and _bad(last)):
        raise ValueError(f"no name of a blob starts with {prefix!r}: it must be relative, without empty or hidden parts")
    return prefix


def _bad(part: str) -> bool:
    return not part or part.startswith(".") or "\0" in part or "\\" in part
