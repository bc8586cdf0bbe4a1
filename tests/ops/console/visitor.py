"""Whoever visits the console: Flask's test client, with the token that every change needs."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PASSWORD = "correct horse battery"


@dataclass
class Visitor:
    client: FlaskClient
    #: Where a proxy serves the console.
    prefix: str = ""
    token: str = field(default="", init=False)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.client.get(self.prefix + path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.client.post(self.prefix + path, headers={"X-CSRFToken": self.token}, **more)

    def data(self, path: str) -> Any:
        """The JSON of a page that is there."""
        answer = self.get(path)
        assert answer.status_code == 200
        return answer.json

    def act(self, path: str) -> int:
        """How many jobs a change that succeeds was about."""
        answer = self.post(path)
        assert answer.status_code == 200
        assert answer.json
        return int(answer.json["count"])

    def log_in(self, name: str = "admin", password: str = PASSWORD, **more: Any) -> TestResponse:
        """Fill in the form; `next` and `environ_overrides` as given."""
        environ = more.pop("environ_overrides", None)
        form = {"csrf_token": csrf(self.get("/login")), "name": name, "password": password, **more}
        answer = self.client.post(f"{self.prefix}/login", data=form, environ_overrides=environ)
        if answer.status_code == 303:
            self.token = csrf(self.get("/"))
        return answer


def csrf(answer: TestResponse) -> str:
    """The token on a page."""
    found = re.search(r'name="csrf[_-]token" (?:value|content)="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


#: Opens a console of its own for a visitor: users, datastore and sections of the configuration as given.
Opener = Callable[..., Visitor]
