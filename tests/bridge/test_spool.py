"""The spool: durable once added, torn ends recognised, segments of the dead drained by the living."""

import errno
import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge import messages, spool
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.spool import Spool


def event(number: int) -> Event:
    message = {"EventType": "user_add_org", "eventId": f"e{number}", "CorpId": "ding1", "userId": ["张三"]}
    return messages.parse(json.dumps(message).encode(), "acme", None).events[0]


def drained(source: Spool) -> list[str]:
    return [found.id for segment in source.drainable() for found in spool.read(segment)]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_what_was_added_is_read_in_order_and_whole(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    first = event(1)
    source.add([first])
    source.add([event(2), event(3)])
    assert drained(source) == ["e1", "e2", "e3"]
    assert next(found for segment in source.drainable() for found in spool.read(segment)) == first


def test_a_segment_that_cannot_be_opened_stands_in_the_way_of_no_other(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    broken = tmp_path / "spool" / f"{'0' * 20}-broken{spool.SUFFIX}"
    broken.symlink_to(broken)  # a loop, which nobody can open
    assert drained(source) == ["e1"]
    assert source.room()


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
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


def test_what_is_added_together_shares_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (syncs.append(1), real(descriptor)))  # type: ignore[func-returns-value]
    source = Spool(tmp_path / "spool")
    source.add([event(number) for number in range(64)])
    assert (len(syncs), len(drained(source))) == (1, 64)


def test_nothing_is_added_before_it_and_its_segments_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = tmp_path / "spool", list[str]()

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(descriptor: int, *arguments: object) -> object:
            result = real(descriptor, *arguments)
            there = os.fstat(descriptor).st_ino
            segments = {path.stat().st_ino for path in folder.glob("*.spool")}
            done.append(f"{name} {'segment' if there in segments else 'folder' if there == inode else there}")
            return result

        monkeypatch.setattr(os, name, watched)

    folder.mkdir()
    inode = folder.stat().st_ino
    for name in ("write", "fdatasync", "fsync"):
        watch(name)
    source = Spool(folder)
    source.add([event(1)])
    assert done == ["fsync folder", "write segment", "fdatasync segment"]
    source.add([event(2)])
    assert done[3:] == ["write segment", "fdatasync segment"]


@pytest.mark.parametrize(("name", "number"), [("flock", errno.ENOLCK), ("rename", errno.EIO), ("fsync", errno.EIO)])
def test_a_segment_that_cannot_be_begun_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    source = Spool(tmp_path / "spool")
    before = open_files()
    with monkeypatch.context() as broken:
        broken.setattr({"flock": fcntl, "rename": Path, "fsync": os}[name], name, refuse)
        for _ in range(3):
            with pytest.raises(NotDurable, match=os.strerror(number).lower()):
                source.add([event(1)])
    assert list((tmp_path / "spool").iterdir()) == []
    assert open_files() <= before
    source.add([event(2)])
    assert drained(source) == ["e2"]


def test_a_disk_that_syncs_no_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some over the network; their server has a name as soon as it is made."""

    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    source = Spool(tmp_path / "spool")
    monkeypatch.setattr(os, "fsync", refuse)
    source.add([event(1)])
    assert drained(source) == ["e1"]


def test_what_could_not_be_synced_is_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(NotDurable, match="input/output error"):
        source.add([event(2)])
    monkeypatch.undo()
    source.add([event(3)])
    assert drained(source) == ["e1", "e3"]


def test_a_write_that_takes_only_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    source = Spool(tmp_path / "spool")
    source.add([event(1), event(2)])
    monkeypatch.undo()
    assert drained(source) == ["e1", "e2"]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    (segment,) = (tmp_path / "spool").glob("*.spool")
    assert [path.stat().st_mode & 0o077 for path in (segment, segment.parent)] == [0, 0]


@pytest.mark.parametrize("left", [1, 7, 8, 9, 60])
def test_of_a_record_whose_beginning_alone_was_written_nothing_comes(tmp_path: Path, left: int) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    (segment,) = source.drainable()
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[:left])
    assert drained(source) == ["e1"]
    assert segment.with_suffix(spool.TORN_SUFFIX).read_bytes() == whole[:left]


def test_a_record_that_is_still_json_but_another_one_is_kept_aside(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    (segment,) = source.drainable()
    segment.write_bytes(segment.read_bytes().replace(b'"e1"', b'"e2"'))
    assert drained(source) == []


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


def test_a_record_of_another_version_is_kept_aside(tmp_path: Path) -> None:
    source = Spool(tmp_path / "spool")
    source.add([event(1)])
    (segment,) = source.drainable()
    body = b'{"of another":"version"}'
    other = struct.pack(">II", len(body), zlib.crc32(body)) + body
    segment.write_bytes(segment.read_bytes() + other)
    assert drained(source) == ["e1"]
    assert segment.with_suffix(spool.TORN_SUFFIX).read_bytes() == other


def test_the_segment_of_a_living_writer_is_left_alone_and_that_of_a_dead_one_drained(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    program = (
        "import sys, time, json; from pathlib import Path\n"
        "from bridge import messages; from bridge.spool import Spool\n"
        "message = json.dumps({'EventType': 'user_add_org', 'eventId': 'theirs', 'CorpId': 'c', 'userId': ['u']})\n"
        "Spool(Path(sys.argv[1])).add(messages.parse(message.encode(), 'acme', None).events)\n"
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
    with_one.close()  # type: ignore[attr-defined]
    assert drained(other) == ["e1"]


def test_a_segment_that_another_drained_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    for number in (1, 2, 3):
        source.add([event(number)])
        source.close()
    first, second, third = sorted((tmp_path / "spool").glob("*.spool"))
    found = source.drainable()
    assert next(found) == first
    second.unlink()  # before it is opened
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        third.unlink()  # between opening and locking
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with capture_logs() as lines:
        assert list(found) == []
    assert lines == []
    monkeypatch.undo()
    first.unlink()
    assert other.size() == 0


def test_a_new_segment_is_locked_before_it_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    seen: list[Path] = []
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        moved = real(path, target)
        seen.extend(Spool(folder).drainable())
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


def test_a_disk_that_is_nearly_full_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(spool, "RESERVE_BYTES", disk.f_blocks * disk.f_frsize)
    source = Spool(tmp_path / "spool")
    assert not source.room()
    with pytest.raises(NotDurable, match="no space left"):
        source.add([event(1)])
    assert list((tmp_path / "spool").iterdir()) == []


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
