"""How tests ask a receiver, and what its answers must be like."""

import json
from typing import Any

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from tests.bridge.callbacks import OLD_KEY, OLD_TOKEN, OWNER, SUITE_OWNER, TOKEN, Callback
from tests.installation import AES_KEY, CORP

SECRETS = (TOKEN, AES_KEY, OLD_TOKEN, OLD_KEY, OWNER, SUITE_OWNER, CORP, "s3cretForTests", "zhangsan")


def post(http: FlaskClient, callback: Callback, **changed: Any) -> TestResponse:
    return http.post(callback.url, **{"data": callback.body, "content_type": "application/json"} | changed)


def taken(http: FlaskClient, callback: Callback, **changed: Any) -> str:
    """The text that is answered to a callback which must be taken."""
    response = post(http, callback, **changed)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return callback.plain(response.data)


def refused(response: TestResponse, status: int) -> str:
    """The reason that is given, in a line that tells no secret."""
    assert (response.status_code, response.mimetype) == (status, "application/json")
    assert "Location" not in response.headers
    assert b"\n" not in response.data
    body = json.loads(response.data)
    assert set(body) == {"error"} and body["error"]
    assert not [secret for secret in SECRETS if secret in body["error"]]
    return str(body["error"])


def counts(http: FlaskClient, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """A counter's samples by the values of these labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels[label] for label in labels): sample.value for sample in samples}


def event_counts(http: FlaskClient) -> dict[tuple[str, ...], float]:
    return counts(http, "dingbridge_events_total", "app", "type", "outcome")


def refusal_counts(http: FlaskClient) -> dict[tuple[str, ...], float]:
    return counts(http, "dingbridge_callbacks_refused_total", "app", "status")
