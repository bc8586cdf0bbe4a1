"""A callback as tutorials show it, with a pool of Redis connections: open, `Queue.enqueue`, seal.

`python -m benchmarks.peers.textbook PORT REDIS`. No repeat is noticed, nothing waits on the disk. Its crypto is as in
DingTalk's samples: a cipher for each message.
"""

import base64
import hashlib
import json
import secrets
import sys

import redis
from Crypto.Cipher import AES
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from rq import Queue

from bridge import config as configuration
from ops import serve
from ops.web import WebServer


def make() -> Flask:
    app = Flask(__name__, static_folder=None)
    ours = configuration.load().apps[0]
    pair = ours.keys[0].key()
    token, key, owner = pair.token, pair.secret, ours.owner_keys[0]
    queue = Queue("events", connection=redis.Redis(connection_pool=redis.ConnectionPool.from_url(sys.argv[2])))

    def sign(*parts: str) -> str:
        return hashlib.sha1("".join(sorted((token, *parts))).encode(), usedforsecurity=False).hexdigest()

    def decrypt(encrypted: str) -> bytes:
        plain = AES.new(key, AES.MODE_CBC, key[:16]).decrypt(base64.b64decode(encrypted))
        plain = plain[: -plain[-1]]
        end = 20 + int.from_bytes(plain[16:20], "big")
        assert plain[end:].decode() == owner
        return plain[20:end]

    def encrypt(message: bytes) -> str:
        plain = secrets.token_bytes(16) + len(message).to_bytes(4, "big") + message + owner.encode()
        pad = 32 - len(plain) % 32
        return base64.b64encode(AES.new(key, AES.MODE_CBC, key[:16]).encrypt(plain + bytes([pad] * pad))).decode()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/callback/acme")
    def callback() -> ResponseReturnValue:
        stamp, nonce, encrypted = request.args["timestamp"], request.args["nonce"], request.get_json()["encrypt"]
        assert sign(stamp, nonce, encrypted) == request.args["msg_signature"]
        queue.enqueue("benchmarks.peers.textbook.handle", json.loads(decrypt(encrypted)))
        reply = encrypt(b"success")
        signature = sign(stamp, nonce, reply)
        return jsonify({"msg_signature": signature, "timeStamp": stamp, "nonce": nonce, "encrypt": reply})

    return app


if __name__ == "__main__":
    WebServer(make, "127.0.0.1", int(sys.argv[1]), serve.WORKERS, serve.THREADS, {}).run()
