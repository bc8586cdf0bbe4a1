"""A callback as tutorials show it, with a pool of Redis connections: open, `Queue.enqueue`, seal.

`python -m benchmarks.peers.textbook PORT REDIS`. No repeat is noticed, nothing waits on the disk.
"""

import json
import sys

import redis
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from rq import Queue

from bridge import config as configuration
from bridge import crypto
from ops import serve
from ops.web import WebServer


def make() -> Flask:
    app = Flask(__name__, static_folder=None)
    ours = configuration.load().apps[0]
    keys, owners = [pair.key() for pair in ours.keys], set(ours.owner_keys)
    queue = Queue("events", connection=redis.Redis(connection_pool=redis.ConnectionPool.from_url(sys.argv[2])))

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/callback/acme")
    def callback() -> ResponseReturnValue:
        given = request.args
        signed = (given["msg_signature"], given["timestamp"], given["nonce"], request.get_json()["encrypt"])
        opened = crypto.open_envelope(keys, owners, *signed)
        queue.enqueue("benchmarks.peers.textbook.handle", json.loads(opened.message))
        return jsonify(crypto.seal(opened.key, b"success", opened.owner, given["timestamp"], given["nonce"]))

    return app


if __name__ == "__main__":
    WebServer(make, "127.0.0.1", int(sys.argv[1]), serve.WORKERS, serve.THREADS, {}).run()
