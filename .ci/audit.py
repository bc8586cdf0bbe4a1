"""`make audit`: known vulnerabilities of what dingbridge runs on, as far as a database can be reached.

pip-audit itself says "none found" where its database knew no package at all, as behind a mirror; hence the counting.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

#: pip-audit's names of databases, the first that answers is believed.
SERVICES = ("pypi", "osv")
COMMAND = [sys.executable, "-m", "pip_audit", "--requirement", "requirements.txt", "--format", "json"]
#: What the end of pip-audit's complaint holds where the network is to blame.
NETWORK = ("ConnectionError", "Timeout", "Could not connect", "ServiceError", "HTTPError")


def main() -> int:
    """0 where nothing was found or nobody could be asked, 1 for vulnerabilities, 2 where pip-audit itself fails."""
    for service in SERVICES:
        done = subprocess.run(
            [*COMMAND, "--vulnerability-service", service, "--progress-spinner", "off"],
            capture_output=True,
            text=True,
        )
        if done.stdout.strip():
            lines, code = verdict(json.loads(done.stdout))
        elif any(word in done.stderr for word in NETWORK):
            continue
        else:
            lines, code = [done.stderr.strip()], 2
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            return code
    sys.stdout.write("no vulnerability database can be reached from here; nothing was checked\n")
    return 0


def verdict(report: Mapping[str, Any]) -> tuple[list[str], int]:
    """What a report says, and the exit code; no line where the database knew nothing at all."""
    checked = [found for found in report["dependencies"] if "skip_reason" not in found]
    unknown = sorted(found["name"] for found in report["dependencies"] if "skip_reason" in found)
    if not checked:
        return [], 0
    lines = [
        f"{found['name']} {found['version']}: {vulnerability['id']}, mended in {_versions(vulnerability)}"
        for found in checked
        for vulnerability in found["vulns"]
    ]
    summary = [f"{len(checked)} packages checked, {len(lines)} vulnerabilities known"]
    if unknown:
        summary.append(f"not in the database: {', '.join(unknown)}")
    return [*lines, *summary], 1 if lines else 0


def _versions(vulnerability: Mapping[str, Any]) -> str:
    return ", ".join(vulnerability["fix_versions"]) or "no version yet"


if __name__ == "__main__":
    sys.exit(main())
