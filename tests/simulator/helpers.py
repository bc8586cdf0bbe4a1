"""Two apps, a caller of the API, and a receiver with somebody else's crypto."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3
from dingtalk.crypto import DingTalkCrypto

from simulator.server import SimApp

TOKEN = "token123456"
AES_KEY = "4g5j64qlyl3zvetqxz5jiocdr586fn2zvjpa8zls3ij"
CORP = "dingcorp0001"
ACME = SimApp("acme", "internal", TOKEN, AES_KEY, "dingappkey1", CORP, "dingappkey1", "secret1")
SUITE = SimApp("shop", "suite", TOKEN, AES_KEY, "suitekey1", suite_key="suitekey1", suite_secret="secret2")


class Api:
    """Calls a simulator as one app."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.http = urllib3.PoolManager()
        self.token = ""

    def login(self, key: str = "dingappkey1", secret: str = "secret1") -> dict[str, Any]:
        answer = self.get("/gettoken", appkey=key, appsecret=secret)
        self.token = answer.get("access_token", "")
        return answer

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        query.setdefault("access_token", self.token)
        return self.json("GET", path, fields=query)

    def post(self, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        query.setdefault("access_token", self.token)
        return self.json("POST", f"{path}?{urlencode(query)}", json=body or {})

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.json(method, f"/_sim{path}", **({} if body is None else {"json": body}))

    def json(self, method: str, path: str, **more: Any) -> Any:
        return json.loads(self.raw(method, path, **more).data)

    def raw(self, method: str, path: str, **more: Any) -> urllib3.BaseHTTPResponse:
        return self.http.request(method, self.base + path, **more)


class Receiver:
    """Takes callbacks with the crypto of dingtalk-sdk. `answers` are what the next posts get; then success."""

    def __init__(self, owner: str = "dingappkey1", answers: list[Any] | None = None) -> None:
        self.owner = owner
        self.messages: list[dict[str, Any]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.answers = answers or []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, body = receiver.take(self)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/callback/acme"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def take(self, request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        query = parse_qs(urlsplit(request.path).query)
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        crypto = DingTalkCrypto(TOKEN, AES_KEY, self.owner)
        signature, timestamp, nonce = (query[name][0] for name in ("signature", "timestamp", "nonce"))
        message = json.loads(crypto.decrypt_message(body, signature, timestamp, nonce))
        self.queries.append(query)
        self.messages.append(message)
        answer = self.answers.pop(0) if self.answers else "success"
        if isinstance(answer, int):
            return answer, b"no"
        if isinstance(answer, bytes):
            return 200, answer
        return 200, json.dumps(crypto.encrypt_message(answer, nonce, timestamp)).encode()

    def close(self) -> None:
        """Also when closed already."""
        if not self.thread.is_alive():
            return
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
