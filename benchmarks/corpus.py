"""Text to measure on: sentences of English words with the lengths asked for, the same for the same seed."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


@cache
def vocabulary() -> tuple[str, ...]:
    """Words of real prose: the example documents and the licences and readmes of installed packages."""
    texts = [path.read_text(errors="ignore") for path in sorted(EXAMPLES.glob("*.[tm]*"))]
    texts += [(_installed("sentence_transformers") / "__init__.py").read_text()]
    return tuple(word for word in " ".join(texts).split() if word.isalpha())


def texts(number: int, words: int | tuple[int, int] = 100, *, seed: int = 1) -> Iterator[str]:
    """`number` texts of `words` words, or of a length drawn between two bounds on a logarithmic scale."""
    chance = random.Random(seed)
    known = vocabulary()
    for _ in range(number):
        length = words if isinstance(words, int) else int(words[0] * (words[1] / words[0]) ** chance.random())
        yield " ".join(chance.choice(known) for _ in range(length)) + "."


def prose(number: int, words: int = 100) -> list[str]:
    """The first `words` words of `number` different docstrings: people's sentences, of which some mean nearly the same."""
    found: dict[str, None] = {}
    for package in ("numpy", "scipy", "sklearn"):
        for path in sorted(_installed(package).rglob("*.py")):
            for docstring in _docstrings(path):
                text = docstring.split()
                if len(text) >= words:
                    found[" ".join(text[:words])] = None
                if len(found) == number:
                    return list(found)
    raise ValueError(f"no {number} docstrings of {words} words are installed here")


def _installed(package: str) -> Path:
    """Its folder, without importing it: that would take seconds, and minutes where instructions are counted."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed here")
    return Path(spec.origin).parent


def _docstrings(path: Path) -> Iterator[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring


def fill(folder: Path, number: int, words: int | tuple[int, int] = 100, *, seed: int = 1) -> None:
    """Write one file per text, a thousand to a folder."""
    for place, text in enumerate(texts(number, words, seed=seed)):
        below = folder / f"{place // 1000:03}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{place:06}.txt").write_text(text)
