"""Whatever answers in a receiver's place is shown, and is no reply of ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from bridge.config import AppConfig
from ops import envelopes
from tests.installation import settings


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The URL of a server that answers with this."""
    server = make_server("127.0.0.1", 0, Response(body))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/callback/acme"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b'{"encrypt":"\xff"}', b'{"a":"b"}', b'{"encrypt":1}', b"[]", b'"\xed\xa0\x80"']
)
def test_an_answer_that_is_no_envelope(body: bytes) -> None:
    app = AppConfig.model_validate(settings()["apps"][0])
    with answering(body) as url:
        reply = envelopes.post(url, app, envelopes.payload("check_url", None))
    assert (reply.status, reply.text, reply.body) == (200, None, body.decode(errors="replace"))
