"""What is installed, against what is known to be vulnerable and against the lock. Exits with 1 where something is wrong.

The advisories come from PyPI, by pip-audit. Where they cannot be reached, that is said in so many words, for silence must not
pass for good news; what can be checked without them is checked always: that each installed archive is the one of the lock, by
its digest as pip noted it when it was set up, and that no installed file was changed since.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONSTRAINTS, LOCK = ROOT / "constraints.txt", ROOT / "constraints.lock"
ADVISORIES = "https://pypi.org/pypi/pip/24.0/json"
"""Where the advisories of a release can be read, those of this one can: a mirror may have those of the newest only."""

EXEMPT = {
    "torch": "a CPU build from PyTorch's own index, or a mirror's: see constraints.lock",
    "pip": "came with Python",
    "setuptools": "came with Python",
    "dropdex": "is this",
}
"""What no lock can name."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, tuple[str, set[str]]]:
    """Name → version and sha256 digests, of a lock as pip reads it."""
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)(.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return {canonical(name): (version, set(re.findall(r"sha256:([0-9a-f]{64})", rest))) for name, version, rest in pins}


def noted(reports: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Name → version and sha256 of the archive it was installed from, of pip's reports, the last word counting."""
    found = {}
    for report in reports:
        for item in report["install"]:
            digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
            found[canonical(item["metadata"]["name"])] = (item["metadata"]["version"], digest)
    return found


def strangers(
    installed: Mapping[str, str], archives: Mapping[str, tuple[str, str]], lock: Mapping[str, tuple[str, set[str]]]
) -> Iterator[str]:
    """A sentence per package that is not what the lock says. `installed` is name → version."""
    for name, version in sorted(installed.items()):
        pinned, digests = lock.get(name, ("", set()))
        if name in EXEMPT:
            continue
        if version != pinned:
            yield f"{name} {version} is installed, the lock has {pinned or 'none'}"
        elif name not in archives or archives[name][0] != version:
            yield f"{name} {version}: nobody noted which archive it came from; set up anew: make clean setup"
        elif archives[name][1] not in digests:
            yield f"{name} {version} came from an archive with sha256 {archives[name][1] or 'unknown'}, which the lock does not have"


def changed(distribution: Distribution) -> Iterator[str]:
    """Installed files that are not what their wheel's RECORD says."""
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.hash is None or file.hash.mode != "sha256":
            continue
        if not path.exists():
            yield f"{file} of {distribution.name} is gone"
        elif file.hash.value != base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode():
            yield f"{file} of {distribution.name} was changed after it was installed"


def vulnerable(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Advisories, and packages that nothing is known of, of pip-audit's report, which passes over the latter in silence."""
    advisories, unknown = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for found in package.get("vulns", ()):
            fixed = f"fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not fixed yet"
            advisories.append(f"{package['name']} {package['version']}: {found['id']}, {fixed}")
    return advisories, unknown


def reachable() -> str:
    """Why the advisories cannot be read; empty where they can."""
    try:
        with urllib.request.urlopen(ADVISORIES, timeout=20) as answer:
            return "" if "vulnerabilities" in json.load(answer) else "the answer has none"
    except (OSError, ValueError) as error:
        return str(error)


def advisories(python: str) -> tuple[list[str], list[str]]:
    """Ask pip-audit, which runs in an environment of its own, about every pin."""
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--requirement", str(CONSTRAINTS)]
    done = subprocess.run([python, "-m", "pip_audit", *options], capture_output=True, text=True, check=False)
    try:
        return vulnerable(json.loads(done.stdout))
    except ValueError:
        sys.exit(f"pip-audit failed: {done.stderr[-2000:]}")


def main(python: str, reports: Path) -> int:
    """`python` has pip-audit; `reports` holds what pip noted while it installed."""
    problems: list[str] = []
    if why := reachable():
        print(f"NOT CHECKED: the advisories of PyPI cannot be reached ({why}), so nothing is known here about vulnerabilities.")
    else:
        found, unknown = advisories(python)
        problems += found
        print(f"advisories: {len(found)} for the pins of {CONSTRAINTS.name}")
        if unknown:  # every pin was published there, so this is an index that passes for PyPI, or one that is behind
            print(f"NOT CHECKED: {len(unknown)} pins that the advisories know nothing of, such as {', '.join(unknown[:5])}.")
    here = [d for d in distributions(path=sys.path[1:]) if d.name]
    archives = noted(json.loads(path.read_text()) for path in sorted(reports.glob("installed-*.json")))
    problems += strangers({canonical(d.name): d.version for d in here}, archives, locked(LOCK.read_text()))
    problems += [problem for d in here if canonical(d.name) not in EXEMPT for problem in changed(d)]
    print(f"{len(here)} packages compared with {LOCK.name}, except {', '.join(sorted(EXEMPT))}")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
