"""Checks that the documentation names only what exists: files, links, commands, options, settings and make's targets.

Prose goes stale in silence. What stands in a code span or a code block is a promise that something of this name is
there, so each is looked up where it is defined.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.base.settings import PREFIX, Settings
from pipeline.cli import main as dropdex

ROOT = Path(__file__).parent.parent
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?<![\w/.-])(?:pipeline|tests|docs|demo|localstack|examples|benchmarks)/[\w./*-]*\w")
COMMAND = re.compile(r"(?:^|[$;&|(]\s*|\w=\S+ )(?:\S*/)?dropdex ((?:[^\s#;&|)]+ ?)+)", re.MULTILINE)
SETTING = re.compile(rf"\b{PREFIX}[A-Z_]+\b")
TARGET = re.compile(r"(?:^|[$;&|]\s*)make ([a-z][a-z0-9-]*)", re.MULTILINE)


def problems(page: Path) -> Iterator[str]:
    """A sentence per name on the page that leads nowhere."""
    text = page.read_text()
    for link in LINK.findall(text):
        if "://" not in link and not (page.parent / link).exists():
            yield f"links to {link}, which does not exist"
    for code in (block or span for block, span in CODE.findall(text)):
        yield from code_problems(code)


def code_problems(code: str) -> Iterator[str]:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    yield from (f"{name} is no setting" for name in SETTING.findall(code) if name not in settings)
    yield from (f"{path} does not exist" for path in PATH.findall(code) if not any(ROOT.glob(path)))
    makefile = (ROOT / "Makefile").read_text()
    yield from (f"make {target} is no target" for target in TARGET.findall(code) if f"\n{target}:" not in makefile)
    for words in COMMAND.findall(code):
        yield from command_problems(words.split())


def command_problems(words: list[str]) -> Iterator[str]:
    """Follow the words into click's commands, then look the options up."""
    command: click.Command = dropdex
    for word in words:
        if isinstance(command, click.Group):
            if word.startswith("-"):
                continue
            found = command.commands.get(word)
            if found is None:
                yield f"dropdex {' '.join(words)}: there is no command {word}"
                return
            command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in known:
            yield f"dropdex {' '.join(words)}: there is no option {word}"


def check() -> int:
    found = [f"{page.relative_to(ROOT)}: {problem}" for page in PAGES for problem in problems(page)]
    print("\n".join(found) or f"documentation: {len(PAGES)} pages name only what exists")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(check())
