"""`make audit` never takes a database that knows nothing for one that found nothing."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parent.parent / ".ci" / "audit.py"
SKIPPED = {"name": "rq", "skip_reason": "not found"}
CLEAN = {"name": "flask", "version": "3.1.3", "vulns": []}
HIT = {"name": "redis", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "description": "x"}]}


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "lines", "code"),
    [
        ([SKIPPED], [], 0),
        ([], [], 0),
        ([CLEAN], ["1 packages checked, 0 vulnerabilities known"], 0),
        (
            [CLEAN, HIT, SKIPPED],
            [
                "redis 1.0: PYSEC-1, mended in 1.1",
                "2 packages checked, 1 vulnerabilities known",
                "not in the database: rq",
            ],
            1,
        ),
    ],
)
def test_a_report(audit: Any, found: list[dict[str, Any]], lines: list[str], code: int) -> None:
    assert audit.verdict({"dependencies": found}) == (lines, code)


@pytest.mark.parametrize(
    ("stdout", "stderr", "says", "code"),
    [
        ('{"dependencies": [{"name": "rq", "skip_reason": "not found"}]}', "", "no vulnerability database", 0),
        ("", "requests.exceptions.ConnectionError: no such host", "no vulnerability database", 0),
        ("", "requirements.txt: line 3 cannot be read", "line 3 cannot be read", 2),
    ],
)
def test_where_nobody_answers(
    audit: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stdout: str,
    stderr: str,
    says: str,
    code: int,
) -> None:
    done = subprocess.CompletedProcess([], 0, stdout, stderr)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_args, **_more: done)
    assert audit.main() == code
    said = capsys.readouterr().out
    assert says in said and said.count("\n") == 1
