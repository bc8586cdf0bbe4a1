"""A client that posts callbacks at a steady rate, whatever becomes of them, as DingTalk does.

Run as `python -m tests.chaos.client CONFIG URL RATE OUT`; it ends on SIGTERM and leaves one line of JSON per callback.
"""

import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3

from bridge import crypto
from bridge.config import AppConfig, Config
from bridge.errors import Refused
from ops import envelopes

#: Callbacks under way at the same time, at most.
THREADS = 64
#: Seconds after which a callback without an answer counts as refused: what DingTalk waits at most.
TIMEOUT = 2.5
#: How often each type comes.
TYPES = {"user_modify_org": 6, "user_add_org": 2, "label_user_change": 2, "user_leave_org": 1, "org_dept_modify": 1}


class Outcome(msgspec.Struct):
    """What became of one callback: `status` 0 stands for no answer at all. Seconds count from when it was due."""

    id: str
    type: str
    status: int
    acknowledged: bool
    at: float
    seconds: float


class Sender:
    """Signs and posts for one app, and reads the replies."""

    def __init__(self, app: AppConfig, url: str) -> None:
        self._app = app
        self._url = f"{url}/callback/{app.name}"
        self._keys = [pair.key() for pair in app.keys]
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=False, maxsize=THREADS, block=True)

    def send(self, message: Mapping[str, Any], due: float) -> Outcome:
        timestamp, nonce = str(time.time_ns() // 1_000_000), f"{random.getrandbits(48):x}"
        text = json.dumps(message, ensure_ascii=False).encode()
        sealed = crypto.seal(self._keys[0], text, self._app.owner_keys[0], timestamp, nonce)
        query = urlencode({"msg_signature": sealed["msg_signature"], "timestamp": timestamp, "nonce": nonce})
        status, acknowledged = 0, False
        try:
            answer = self._http.request("POST", f"{self._url}?{query}", json={"encrypt": sealed["encrypt"]})
            status, acknowledged = answer.status, self._says_success(answer.data)
        except urllib3.exceptions.HTTPError:
            pass  # counted: nothing was acknowledged
        seconds = time.monotonic() - due
        return Outcome(message["eventId"], message["EventType"], status, acknowledged, time.time(), seconds)

    def _says_success(self, body: bytes) -> bool:
        try:
            reply = msgspec.json.decode(body, type=dict[str, str])
            signed = (reply["msg_signature"], reply["timeStamp"], reply["nonce"], reply["encrypt"])
            return crypto.open_envelope(self._keys, set(self._app.owner_keys), *signed).message == b"success"
        except (msgspec.DecodeError, KeyError, Refused):
            return False


def messages(corp_id: str, users: Sequence[str], departments: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Endless changes of people and departments that exist."""
    names, weights = list(TYPES), list(TYPES.values())
    while True:
        name = random.choices(names, weights)[0]
        if name.startswith("org_dept"):
            yield envelopes.payload(name, corp_id, departments=[random.choice(departments)])
        else:
            yield envelopes.payload(name, corp_id, [random.choice(users)])


def run(sender: Sender, source: Iterator[dict[str, Any]], rate: float, stopping: threading.Event) -> list[Outcome]:
    """Post at that rate until told to stop; a late answer holds up no other callback."""
    outcomes: list[Outcome] = []
    begun, numbers, lock = time.monotonic(), itertools.count(), threading.Lock()

    def post() -> None:
        while not stopping.is_set():
            with lock:
                number, message = next(numbers), next(source)
            due = begun + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            outcomes.append(sender.send(message, due))

    threads = [threading.Thread(target=post) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main() -> None:
    """The client's process."""
    config, url, rate, out = sys.argv[1:]
    given = json.loads(Path(config).read_text())
    app = Config.model_validate(given["config"]).apps[0]
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signum, _frame: stopping.set())
    source = messages(app.corp_id or "", given["users"], given["departments"])
    outcomes = run(Sender(app, url), source, float(rate), stopping)
    Path(out).write_bytes(msgspec.json.encode(outcomes))


if __name__ == "__main__":
    main()
