"""The audit finds what is not as locked, and never takes silence for good news."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
assert _spec
assert _spec.loader
audit: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

A, B = "a" * 64, "b" * 64
LOCK = f"""# Some words about torch==9
amqp==5.4.2 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
async-timeout==5.0.1 ; python_full_version < '3.11.3' \\
    --hash=sha256:{B}
Zope.Interface==1.0 --hash=sha256:{A}
"""


class TestLock:
    def test_it_is_read_as_pip_reads_it(self) -> None:
        assert audit.locked(LOCK) == {"amqp": ("5.4.2", {A, B}), "async-timeout": ("5.0.1", {B}), "zope-interface": ("1.0", {A})}

    def test_ours_pins_exactly_what_the_constraints_pin(self) -> None:
        """Renewing one and forgetting the other is found here."""
        pins = audit.locked((ROOT / "constraints.txt").read_text())
        lock = audit.locked((ROOT / "constraints.lock").read_text())
        assert {name: version for name, (version, _) in (lock | {"torch": pins["torch"]}).items()} == {n: v for n, (v, _) in pins.items()}
        assert all(digests for _, digests in lock.values())


class TestStrangers:
    @pytest.mark.parametrize(
        ("installed", "archives", "said"),
        [
            ({"amqp": "5.4.2"}, {"amqp": ("5.4.2", A)}, ""),
            ({"torch": "2.13.0+cpu"}, {}, ""),
            ({"amqp": "5.4.3"}, {"amqp": ("5.4.3", A)}, "the lock has 5.4.2"),
            ({"typo": "1"}, {"typo": ("1", A)}, "the lock has none"),
            ({"amqp": "5.4.2"}, {"amqp": ("5.4.2", B)}, "which the lock does not have"),
            ({"amqp": "5.4.2"}, {"amqp": ("5.4.2", "")}, "sha256 unknown"),
            ({"amqp": "5.4.2"}, {}, "nobody noted"),
            ({"amqp": "5.4.2"}, {"amqp": ("5.4.1", A)}, "nobody noted"),
        ],
    )
    def test_what_is_not_as_locked_is_told(self, installed: dict[str, str], archives: dict[str, Any], said: str) -> None:
        sentences = list(audit.strangers(installed, archives, {"amqp": ("5.4.2", {A})}))
        assert len(sentences) == bool(said)
        assert said in "".join(sentences)

    def test_the_last_word_of_pip_counts(self) -> None:
        def report(version: str, digest: str) -> dict[str, Any]:
            info = {"archive_info": {"hashes": {"sha256": digest}}}
            return {"install": [{"metadata": {"name": "AMQP", "version": version}, "download_info": info}]}

        assert audit.noted([report("5.4.1", A), report("5.4.2", B)]) == {"amqp": ("5.4.2", B)}
        editable = {"install": [{"metadata": {"name": "dropdex", "version": "1"}, "download_info": {"dir_info": {}}}]}
        assert audit.noted([editable]) == {"dropdex": ("1", "")}


class TestFiles:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        (tmp_path / "module.py").write_text("x = 1\n")
        info = tmp_path / "package-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: package\nVersion: 1\n")
        (info / "RECORD").write_text(
            "module.py,sha256=nia_NpkRxFwkPGhBR7I_yeHc_PJX0pmhxjIBam_NM_Q,6\n__pycache__/module.cpython-311.pyc,,\n"
        )
        return tmp_path

    def changed(self, package: Path) -> list[str]:
        return list(audit.changed(Distribution.at(package / "package-1.dist-info")))

    def test_as_they_were_installed(self, package: Path) -> None:
        assert self.changed(package) == []

    def test_changed_or_gone(self, package: Path) -> None:
        (package / "module.py").write_text("x = 2\n")
        assert self.changed(package) == ["module.py of package was changed after it was installed"]
        (package / "module.py").unlink()
        assert self.changed(package) == ["module.py of package is gone"]


class TestAdvisories:
    def test_each_is_a_sentence(self) -> None:
        report = {
            "dependencies": [
                {"name": "good", "version": "1", "vulns": []},
                {"name": "bad", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}, {"id": "PYSEC-2", "fix_versions": []}]},
                {"name": "unheard-of", "skip_reason": "not on PyPI"},
            ]
        }
        found, unknown = audit.vulnerable(report)
        assert found == ["bad 1: PYSEC-1, fixed in 2", "bad 1: PYSEC-2, not fixed yet"]
        assert unknown == ["unheard-of"]

    def test_that_they_cannot_be_reached_is_said(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr(audit, "ADVISORIES", "http://127.0.0.1:9/")
        monkeypatch.setattr(audit, "distributions", lambda path: [])
        assert audit.main("no-python", tmp_path) == 0
        assert "NOT CHECKED: the advisories of PyPI cannot be reached" in capsys.readouterr().out

    def test_so_is_that_they_know_nothing_of_a_package(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr(audit, "reachable", lambda: "")
        monkeypatch.setattr(audit, "distributions", lambda path: [])
        monkeypatch.setattr(audit, "advisories", lambda python: ([], ["celery", "kombu"]))
        assert audit.main("no-python", tmp_path) == 0
        assert "NOT CHECKED: 2 pins that the advisories know nothing of, such as celery, kombu." in capsys.readouterr().out

    @pytest.mark.parametrize(("vulns", "code"), [([], 0), ([{"id": "PYSEC-1", "fix_versions": []}], 1)])
    def test_an_advisory_fails_the_audit(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vulns: list[Any], code: int) -> None:
        # Given advisories that can be reached, and a pip-audit that says this
        said = json.dumps({"dependencies": [{"name": "bad", "version": "1", "vulns": vulns}]})
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho '{said}'\n")
        python.chmod(0o755)
        monkeypatch.setattr(audit, "reachable", lambda: "")
        monkeypatch.setattr(audit, "distributions", lambda path: [])
        assert audit.main(str(python), tmp_path) == code

    def test_a_pip_audit_that_says_nothing_is_no_good_news(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(audit, "reachable", lambda: "")
        with pytest.raises(SystemExit, match="pip-audit failed"):
            audit.main("/bin/false", tmp_path)
