"""What Prometheus sees: bounded labels, and the sum over all processes of a host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.events import CATALOGUE
from bridge.messages import CHECK_EVENTS
from bridge.metrics import LATENCY_BUCKETS, MULTIPROCESS_VARIABLE, ROOM, Metrics

#: One process of a receiver: it counts, and shows what it sees when it is told to. No file of it may be longer than
#: so many bytes.
PROCESS = """
import resource, sys
from bridge.metrics import Metrics
from ops import logs
logs.configure("serve")
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
metrics = Metrics()
for _ in range(int(sys.argv[1])):
    metrics.count("acme", "user_add_org", "accepted")
    metrics.refused.labels("none", "404").inc()
    metrics.seconds.observe(0.003)
sys.stdout.buffer.write(metrics.render())
"""


def samples(text: bytes, name: str) -> dict[tuple[str, ...], float]:
    """Samples by their labels' values, in the order of the labels' names."""
    families = text_string_to_metric_families(text.decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.delenv(MULTIPROCESS_VARIABLE, raising=False)
    return Metrics()


def test_events_by_app_outcome_and_type(metrics: Metrics) -> None:
    for outcome in ("accepted", "accepted", "repeated"):
        metrics.count("acme", "user_add_org", outcome)
    metrics.count("beta", "check_url", "checked")
    assert samples(metrics.render(), "dingbridge_events_total") == {
        ("acme", "accepted", "user_add_org"): 2,
        ("acme", "repeated", "user_add_org"): 1,
        ("beta", "checked", "check_url"): 1,
    }


def test_a_type_that_nobody_knows_makes_no_label(metrics: Metrics) -> None:
    for number in range(50):
        metrics.count("acme", f"unknown_{number}", "accepted")
    metrics.count("acme", "SYNC_HTTP_PUSH_HIGH", "checked")
    assert samples(metrics.render(), "dingbridge_events_total") == {
        ("acme", "accepted", "other"): 50,
        ("acme", "checked", "other"): 1,
    }


def test_every_known_type_has_its_own(metrics: Metrics) -> None:
    for event_type in (*CATALOGUE, *CHECK_EVENTS):
        metrics.count("acme", event_type, "accepted")
    types = {labels[2] for labels in samples(metrics.render(), "dingbridge_events_total")}
    assert types == set(CATALOGUE) | CHECK_EVENTS


def test_the_time_of_a_callback(metrics: Metrics) -> None:
    for seconds in (0.001, 0.004, 9.0):
        metrics.seconds.observe(seconds)
    buckets = samples(metrics.render(), "dingbridge_callback_seconds_bucket")
    assert set(buckets) == {(str(bound),) for bound in LATENCY_BUCKETS} | {("+Inf",)}
    assert (buckets["0.002",], buckets["0.005",], buckets["2.5",], buckets["+Inf",]) == (1, 2, 2, 3)


def test_two_in_one_process_do_not_mix(metrics: Metrics) -> None:
    Metrics().count("acme", "user_add_org", "accepted")
    assert samples(metrics.render(), "dingbridge_events_total") == {}


def run(program: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    root = str(Path(__file__).parent.parent.parent)
    environment = os.environ | {MULTIPROCESS_VARIABLE: str(folder), "PYTHONPATH": root}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, cwd=root)


def test_all_processes_are_added_up(tmp_path: Path) -> None:
    for count in ("3", "4"):
        text = run(PROCESS, tmp_path, count, "-1").stdout
    assert samples(text, "dingbridge_events_total") == {("acme", "accepted", "user_add_org"): 7}
    assert samples(text, "dingbridge_callbacks_refused_total") == {("none", "404"): 7}
    assert samples(text, "dingbridge_callback_seconds_count") == {(): 7}


@pytest.mark.parametrize("limit", [0, ROOM, 2 * ROOM - 1])
def test_a_process_without_room_for_its_files_counts_for_itself(tmp_path: Path, limit: int) -> None:
    run(PROCESS, tmp_path, "3", "-1")
    done = run(PROCESS, tmp_path, "4", str(limit))
    assert samples(done.stdout, "dingbridge_events_total") == {("acme", "accepted", "user_add_org"): 4}
    assert samples(done.stdout, "dingbridge_callback_seconds_count") == {(): 4}
    assert b"the metrics are those of one process at a time" in done.stderr
    # What it has begun to write is in the way of nobody.
    text = run(PROCESS, tmp_path, "5", "-1").stdout
    assert samples(text, "dingbridge_events_total") == {("acme", "accepted", "user_add_org"): 8}


def test_without_their_folder_processes_count_for_themselves(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        text = run(PROCESS, folder, "4", "-1").stdout
        assert samples(text, "dingbridge_events_total") == {("acme", "accepted", "user_add_org"): 4}


def test_no_file_grows_whatever_is_counted(tmp_path: Path) -> None:
    """What is added to a file that grows is a hole."""
    program = """
from bridge.metrics import Metrics
from bridge.events import CATALOGUE
from bridge.messages import CHECK_EVENTS
metrics = Metrics(3)
for app in ("a" * 63, "b" * 63, "c" * 63, "none"):
    metrics.old_key.labels(app).inc()
    for status in range(400, 432):
        metrics.refused.labels(app, str(status)).inc()
    for event_type in (*CATALOGUE, *CHECK_EVENTS, "unknown") if app != "none" else ():
        for outcome in ("accepted", "repeated", "spooled", "checked"):
            metrics.count(app, event_type, outcome)
"""
    run(program, tmp_path)
    sizes = {path.name.partition("_")[0]: path.stat() for path in tmp_path.iterdir()}
    assert {kind: found.st_size for kind, found in sizes.items()} == {"counter": 4 * ROOM, "histogram": ROOM}
    assert all(found.st_blocks * 512 >= found.st_size for found in sizes.values())
