"""HTTP to DingTalk by libcurl: a third of the CPU of clients in Python, and for a whole call it lets other threads run.

Errors tell nothing of the target, which holds a token.
"""

import ssl
import threading
from io import BytesIO
from typing import NamedTuple

import pycurl

_FAULTS = {
    pycurl.E_COULDNT_CONNECT: "unreachable",
    pycurl.E_COULDNT_RESOLVE_HOST: "unreachable",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_PEER_FAILED_VERIFICATION: "untrusted-certificate",
}


class Timeout(NamedTuple):
    """Seconds for the connection, and for all until the answer is whole."""

    connect: float
    answer: float


class Response(NamedTuple):
    """What came back; `redirect` is where it points to, or empty. No redirect is followed."""

    status: int
    body: bytes
    redirect: str


class NoAnswer(Exception):
    """No whole answer came; says why in a word, or by libcurl's number."""


class Http(threading.local):
    """Each thread has a connection of its own to each server, and keeps it."""

    def __init__(self) -> None:
        self._curl = curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, True)  # threads and signals do not go together
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.PROXY, "")  # whatever the environment says
        curl.setopt(pycurl.USERAGENT, "dingbridge")
        curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json"])
        # The library comes with no list of authorities of its own: those that Python trusts.
        trusted = ssl.get_default_verify_paths()
        for option, path in ((pycurl.CAINFO, trusted.cafile), (pycurl.CAPATH, trusted.capath)):
            if path is not None:
                curl.setopt(option, path)

    def request(self, url: str, body: bytes | None, timeout: Timeout, *, once: bool = False) -> Response:
        """One request, a POST where there is a body. Raises NoAnswer.

        Where a kept connection ends before an answer begins, libcurl sends the request again on another. `once` never
        sends it again: it goes by a connection of its own.
        """
        curl, received = self._curl, BytesIO()
        curl.setopt(pycurl.URL, url)
        if body is None:
            curl.setopt(pycurl.HTTPGET, True)
        else:
            curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(timeout.connect * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, round(timeout.answer * 1000))
        curl.setopt(pycurl.FRESH_CONNECT, once)
        curl.setopt(pycurl.WRITEDATA, received)
        try:
            curl.perform()
        except pycurl.error as error:
            fault = _FAULTS.get(int(error.args[0]), f"curl-{error.args[0]}")
        else:
            status, redirect = curl.getinfo(pycurl.RESPONSE_CODE), curl.getinfo(pycurl.REDIRECT_URL)
            return Response(status, received.getvalue(), redirect or "")
        raise NoAnswer(fault)

    def close(self) -> None:
        """Close this thread's connections; others' close with their threads."""
        self._curl.close()
