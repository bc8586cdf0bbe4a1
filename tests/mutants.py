"""`make mutants`: small faults put into bridge/crypto.py, of which the tests must notice each.

mutmut works in a copy, `mutants/`. Exits 1 for a fault that went unnoticed and is not explained here.
"""

import re
import shutil
import subprocess
import sys

_CAPITALS = "the name of a codec is read in any case"
_BIG = "big is Python's own default"
#: Faults that change nothing, by the line that they make, each with the reason.
EXPLAINED = {
    'parts = sorted([part.encode("UTF-8", "surrogatepass") for part in (token, timestamp, nonce, encrypt)])': _CAPITALS,
    'given = signature.encode("UTF-8", "surrogatepass")': _CAPITALS,
    'cipher = base64.b64decode(encrypted.encode("ASCII").translate(None, _WHITESPACE), validate=True)': _CAPITALS,
    "plain = bytes(FILLER) + len(message).to_bytes(LENGTH, ) + message + owner.encode()": _BIG,
    "end = LENGTH + int.from_bytes(plain[:LENGTH], )": _BIG,
}

MUTMUT = (sys.executable, "-m", "mutmut")


def said(*command: str) -> str:
    return subprocess.run([*MUTMUT, *command], check=True, capture_output=True, text=True).stdout


def main() -> int:
    shutil.rmtree("mutants", ignore_errors=True)  # it would remember
    subprocess.run([*MUTMUT, "run"], check=True)
    states = re.findall(r"^ *(\S+): (.+)$", said("results", "--all", "true"), re.MULTILINE)
    unnoticed = [(name, state) for name, state in states if state != "killed"]
    unexplained = []
    for name, state in unnoticed:
        diff = said("show", name)
        made = re.findall(r"^\+(?!\+\+)\s*(.+)$", diff, re.MULTILINE)
        if not (made and all(line in EXPLAINED for line in made)):
            unexplained.append(f"{name}: {state}\n{diff}")
    killed, explained = len(states) - len(unnoticed), len(unnoticed) - len(unexplained)
    found = f"{killed} killed, {explained} survive and are explained, {len(unexplained)} survive and are not"
    sys.stdout.write("\n".join([*unexplained, found, ""]))
    return 0 if killed and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
