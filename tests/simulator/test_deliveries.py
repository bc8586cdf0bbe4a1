"""Callbacks arrive signed and encrypted; failures are retried, then listed; faults lose, double and reorder."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from dingtalk.crypto import DingTalkCrypto

from simulator.server import SimApp, Simulator, create_simulator
from tests.servers import wait_until
from tests.simulator.helpers import AES_KEY, TOKEN, Receiver


def idle(sim: Simulator) -> dict[str, Any]:
    assert sim.deliveries.wait_idle(15)
    return sim.deliveries.as_dict()


def test_a_callback_arrives_as_dingtalk_sends_it(sending: Simulator, receiver: Receiver) -> None:
    made = sending.change("acme", "user_modify_org", generation="B")
    state = idle(sending)
    assert state["delivered"] == len(made) == len(receiver.messages) and state["failed"] == 0
    by_id = {message["eventId"]: message for message in receiver.messages}
    assert by_id == {row["payload"]["eventId"]: row["payload"] for row in made}
    query = receiver.queries[0]
    assert query["signature"] == query["msg_signature"] and len(query["nonce"][0]) == 8
    assert abs(int(query["timestamp"][0]) - time.time() * 1000) < 60_000


def test_generation_a(sending: Simulator, receiver: Receiver) -> None:
    sending.change("acme", "user_active_org", generation="A")
    idle(sending)
    assert {type(message["TimeStamp"]) for message in receiver.messages} == {str}
    assert receiver.messages[-1].keys() >= {"CorpId", "EventType", "UserId"}


def test_not_delivered_when_not_asked_to(sending: Simulator, receiver: Receiver) -> None:
    made = sending.change("acme", "user_modify_org", deliver=False)
    assert made[0]["delivery"] is None and idle(sending)["delivered"] == 0 and not receiver.messages


def test_alone_it_sends_nothing(sending: Simulator, receiver: Receiver) -> None:
    assert idle(sending) == {"waiting": 0, "delivered": 0, "failed": 0, "lost": 0, "deliveries": []}
    assert not receiver.messages and not sending.app("acme").failures


@pytest.mark.parametrize("answer", [500, 302, b"success", b"[]", b'{"errcode":0}', "fail"])
def test_any_other_answer_is_a_failure_and_is_retried(sending: Simulator, receiver: Receiver, answer: Any) -> None:
    sending.faults.set({"retry_delays": [0.05, 0.05]})
    receiver.answers = [answer]
    sending.change("acme", "org_dept_create")
    state = idle(sending)
    assert state["delivered"] == 1 and state["deliveries"][0]["attempts"] == 2
    assert receiver.messages[0] == receiver.messages[1]


def test_a_reply_for_another_owner_is_a_failure(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"retry_delays": []})
    foreign = DingTalkCrypto(TOKEN, AES_KEY, "somebodyelse").encrypt_message("success")
    receiver.answers = [json.dumps(foreign).encode()]
    sending.change("acme", "org_dept_create")
    assert idle(sending)["failed"] == 1


def test_after_the_last_retry_it_is_on_the_failed_list(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"retry_delays": [0.02, 0.02]})
    receiver.answers = [500, 500, 500]
    made = sending.change("acme", "org_dept_create")
    state = idle(sending)
    assert state["failed"] == 1 and len(receiver.messages) == 3
    failure = sending.app("acme").failures[0]
    assert failure.tag == "org_dept_create" and failure.payload == made[0]["payload"]


def test_nobody_there(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"retry_delays": [0.01]})
    receiver.close()
    sending.change("acme", "org_dept_create")
    assert idle(sending)["failed"] == 1


def test_lost_and_doubled(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"lose_rate": 1})
    sending.change("acme", "org_dept_create")
    assert idle(sending)["lost"] == 1 and not receiver.messages and not sending.app("acme").failures
    sending.faults.set({"lose_rate": 0, "double_rate": 1})
    sending.change("acme", "org_dept_create", generation="B")
    idle(sending)
    assert len(receiver.messages) == 2 and receiver.messages[0] == receiver.messages[1]


def test_shuffled(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"shuffle_ms": 200})
    made = [row for _ in range(30) for row in sending.change("acme", "org_dept_create", generation="B")]
    idle(sending)
    sent = [row["payload"]["eventId"] for row in made]
    came = [message["eventId"] for message in receiver.messages]
    assert Counter(sent) == Counter(came) and sent != came


@pytest.fixture
def shop() -> Iterator[tuple[Simulator, Receiver]]:
    receiver = Receiver("suitekey1")
    app = SimApp("shop", "suite", TOKEN, AES_KEY, "suitekey1", None, "", "", "suitekey1", "s", receiver.url)
    simulator = create_simulator([app], 20, 1)
    yield simulator, receiver
    simulator.close()
    receiver.close()


def test_a_suites_messages_carry_its_own_owner(shop: tuple[Simulator, Receiver]) -> None:
    sim, receiver = shop
    sim.push("shop", "suite_ticket")
    sim.change("shop", "user_modify_org")
    assert idle(sim)["failed"] == 0
    assert {message["EventType"] for message in receiver.messages} == {"suite_ticket", "SYNC_HTTP_PUSH_MEDIUM"}


def test_the_check_of_a_suite_in_creation(shop: tuple[Simulator, Receiver]) -> None:
    sim, receiver = shop
    receiver.owner = "suite4xxxxxxxxxxxxxxx"
    sim.push("shop", "check_create_suite_url")
    assert idle(sim)["delivered"] == 1
    assert len(receiver.messages[0]["Random"]) == 8


def test_close_drops_what_waits(sending: Simulator, receiver: Receiver) -> None:
    sending.faults.set({"retry_delays": [600]})
    receiver.answers = [500]
    sending.change("acme", "org_dept_create")
    wait_until(lambda: sending.deliveries.as_dict()["deliveries"][0]["attempts"] == 1)
    begun = time.monotonic()
    sending.close()
    assert time.monotonic() - begun < 5 and sending.deliveries.wait_idle(0)
    sending.change("acme", "org_dept_create")
    assert idle(sending)["delivered"] == 1
