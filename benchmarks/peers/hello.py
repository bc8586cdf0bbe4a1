"""The least that Flask can do under the receiver's gunicorn: `python -m benchmarks.peers.hello PORT`."""

import sys

from flask import Flask

from ops import serve
from ops.web import WebServer


def make() -> Flask:
    app = Flask(__name__, static_folder=None)

    @app.get("/readyz")
    def hello() -> str:
        return "hello"

    return app


if __name__ == "__main__":
    WebServer(make, "127.0.0.1", int(sys.argv[1]), serve.WORKERS, serve.THREADS, {}).run()
