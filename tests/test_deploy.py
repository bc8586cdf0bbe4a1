"""The files in deploy/, each tried."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.config import AppConfig
from ops import envelopes
from tests.installation import Installation, answers, installed
from tests.servers import free_port, missing, wait_until

ROOT = Path(__file__).parent.parent


@contextmanager
def nginx(folder: Path, port: int, receivers: tuple[int, int]) -> Iterator[None]:
    """The shipped configuration, on ports of its own."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        missing("nginx")
        return
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for shipped, ours in (("8000", receivers[0]), ("8010", receivers[1]), ("listen 8080", f"listen 127.0.0.1:{port}")):
        assert shipped in text
        text = text.replace(shipped, str(ours))
    path = folder / "nginx.conf"
    path.write_text(text)
    command = [program, "-c", str(path), "-p", str(folder), "-e", str(folder / "error.log")]
    settings = f"daemon off; pid {folder}/nginx.pid;"
    process = subprocess.Popen([*command, "-g", settings], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: not answers(f"http://127.0.0.1:{port}/") and process.poll() is None, 10, "nginx")
        yield
    finally:
        process.terminate()
        process.wait(10)


def post(place: Installation, app: AppConfig, port: int) -> tuple[int, str | None]:
    message = envelopes.payload("user_modify_org", app.corp_id, ["nobody"])
    reply = envelopes.post(f"http://127.0.0.1:{port}/callback/acme", app, message)
    return reply.status, reply.text


def test_nginx_goes_on_with_the_other_receiver(redis_url: str, tmp_path: Path) -> None:
    port, second = free_port(), free_port()
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        app = place.config.apps[0]
        with place.receiving(second), nginx(tmp_path, port, (place.port, second)):
            with place.receiving():
                wait_until(lambda: post(place, app, port) == (200, "success"), 10, "nginx")
                assert [post(place, app, port) for _ in range(20)] == [(200, "success")] * 20
            # One receiver is gone.
            assert [post(place, app, port) for _ in range(20)] == [(200, "success")] * 20
        assert place.parts.connection.llen("rq:queue:user_modify_org") >= 40
