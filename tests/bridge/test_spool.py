"""The spool: durable once added, torn ends recognised, segments of the dead drained by the living."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge import events, spool
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.spool import Spool


def event(number: int) -> Event:
    message = {"EventType": "user_add_org", "eventId": f"e{number}", "CorpId": "ding1", "userId": ["张三"]}
    return events.parse(json.dumps(message).encode(), "acme", None).events[0]


def drained(source: Spool) -> list[str]:
    return [found.id for segment in source.drainable() for found in spool.read(segment)]


def test_what_was_added_is_read_in_order_and_whole(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    first = event(1)
    source.add([first])
    source.add([event(2), event(3)])
    assert drained(source) == ["e1", "e2", "e3"]
    assert next(found for segment in source.drainable() for found in spool.read(segment)) == first


def test_many_threads_share_syncs_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (syncs.append(1), real(descriptor)))
    source = Spool(tmp_path / "spool")

    def add(numbers: Sequence[int]) -> None:
        for number in numbers:
            source.add([event(number)])

    threads = [threading.Thread(target=add, args=(range(start, 800, 16),)) for start in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drained(source)) == sorted(f"e{number}" for number in range(800))
    assert len(syncs) < 800


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_end_costs_nothing_that_was_acknowledged(tmp_path: Path, cut: int) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    source.add([event(2)])
    (segment,) = source.drainable()
    segment.write_bytes(segment.read_bytes()[:-cut])
    assert drained(source) == ["e1"]
    assert [path.suffix for path in segment.parent.iterdir() if path != segment] == [spool.TORN_SUFFIX]


@pytest.mark.parametrize("at", [0, 5, 9, 60])
def test_a_record_that_was_changed_is_kept_aside(tmp_path: Path, at: int) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1), event(2)])
    (segment,) = source.drainable()
    data = bytearray(segment.read_bytes())
    data[at] ^= 0xFF
    segment.write_bytes(data)
    assert drained(source) == []
    assert segment.with_suffix(spool.TORN_SUFFIX).read_bytes() == data


def test_the_segment_of_a_living_writer_is_left_alone_and_that_of_a_dead_one_drained(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    program = (
        "import sys, time, json; from pathlib import Path; from bridge import events; from bridge.spool import Spool\n"
        "message = json.dumps({'EventType': 'user_add_org', 'eventId': 'theirs', 'CorpId': 'c', 'userId': ['u']})\n"
        "Spool(Path(sys.argv[1])).add(events.parse(message.encode(), 'acme', None).events)\n"
        "print('added', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"added\n"
        ours = Spool(folder)
        ours.add([event(1)])
        assert drained(ours) == ["e1"]
        writer.kill()
        writer.wait()
        assert sorted(drained(ours)) == ["e1", "theirs"]


def test_two_drainers_never_hold_the_same_segment(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    other = Spool(tmp_path / "spool")
    with_one = source.drainable()
    next(with_one)
    assert drained(other) == []
    with_one.close()
    assert drained(other) == ["e1"]


def test_a_new_segment_is_locked_before_it_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    seen: list[str] = []
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        moved = real(path, target)
        seen.extend(drained(Spool(folder)))
        assert list(folder.glob("*.spool")) == [target]
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    source = Spool(folder)
    source.add([event(1)])
    monkeypatch.undo()
    assert seen == []
    assert drained(source) == ["e1"]


def test_a_full_disk_is_never_acknowledged_and_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(NotDurable, match="no space left"):
        source.add([event(2)])
    monkeypatch.undo()
    source.add([event(3)])
    assert drained(source) == ["e1", "e3"]
    assert not list((tmp_path / "spool").glob(f"*{spool.TORN_SUFFIX}"))


def test_a_folder_that_cannot_be_written_takes_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    source = Spool(blocked / "spool")
    assert not source.room()
    with pytest.raises(NotDurable):
        source.add([event(1)])


def test_a_spool_at_its_limit_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LIMIT_BYTES", 2000)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 500)
    source = Spool(tmp_path / "spool")
    added = 0
    with pytest.raises(NotDurable):
        for number in range(100):
            source.add([event(number)])
            added += 1
    assert not source.room()
    assert len(drained(source)) == added > 3
