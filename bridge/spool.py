"""Events on this host's disk while Redis does not take them.

A spool is a folder of segments. A segment is a file of records, each `length | CRC-32 | JSON of the event`, both
numbers four bytes, big-endian. Its writer holds a lock on it; one without a lock is nobody's, and anybody may drain it.
"""

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import structlog

from bridge.errors import NotDurable
from bridge.events import Event

#: Bytes of all segments above which the spool takes no more: about two million events.
LIMIT_BYTES = 2 << 30
#: Bytes of the disk that are left to others.
RESERVE_BYTES = 64 << 20
#: Bytes after which a new segment begins: drained ones give their room back.
SEGMENT_BYTES = 8 << 20
#: Names of segments, and of what was left of one whose end could not be read.
SUFFIX, TORN_SUFFIX = ".spool", ".torn"

_HEAD = struct.Struct(">II")

log = structlog.get_logger()


class Spool:
    """One process's way into the spool folder; its methods are thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._segment: _Segment | None = None

    def add(self, batch: Sequence[Event]) -> None:
        """Return once these are on the disk. Raises NotDurable when they cannot be."""
        records = b"".join(_record(msgspec.json.encode(event)) for event in batch)
        with self._lock:
            try:
                self._writable().append(records)
            except OSError as error:
                self._drop_segment()
                raise NotDurable(f"the spool took nothing: {os.strerror(error.errno or 0).lower()}") from error

    def room(self) -> bool:
        """Whether the spool would take an event now."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk = os.statvfs(self._folder)
            free = disk.f_bavail * disk.f_frsize
            return os.access(self._folder, os.W_OK) and free > RESERVE_BYTES and self.size() < LIMIT_BYTES
        except OSError:
            return False

    def size(self) -> int:
        """Bytes of all segments, whoever writes them."""
        total = 0
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another drained it meanwhile, or it cannot be opened either
                total += path.stat().st_size
        return total

    def drainable(self) -> Iterator[Path]:
        """Segments to drain, oldest first, each locked while it is at hand: this process's own and orphans.

        Whoever has fed in all records of one deletes it.
        """
        self.close()
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # another drained it meanwhile
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                log.warning("a segment of the spool cannot be opened", segment=path.name, reason=reason)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    yield path
            except BlockingIOError:
                continue  # its writer lives
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the present segment, so that it can be drained; the next event begins another."""
        with self._lock:
            self._drop_segment()

    def _writable(self) -> "_Segment":
        if self._segment is not None and self._segment.length < SEGMENT_BYTES:
            return self._segment
        if not self.room():
            raise OSError(errno.ENOSPC, "")
        self._drop_segment()
        self._segment = _Segment(self._folder)
        return self._segment

    def _drop_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None


class _Segment:
    """A file that this process appends to."""

    def __init__(self, folder: Path) -> None:
        # Sorted by age; the time is for order only.
        path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        nascent = path.with_suffix(".new")
        self._descriptor = os.open(nascent, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.length = 0
        try:
            self._appear(folder, nascent, path)
        except OSError:
            with contextlib.suppress(OSError):
                nascent.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            self.close()
            raise

    def _appear(self, folder: Path, nascent: Path, path: Path) -> None:
        # Locked before it can be seen: whoever drains must not take it for an orphan and delete it.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        nascent.rename(path)
        _sync_folder(folder)

    def append(self, data: bytes) -> None:
        """Write and sync; on failure cut off what was written in part."""
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.length)
            raise
        self.length += len(data)

    def close(self) -> None:
        os.close(self._descriptor)


def read(segment: Path) -> Iterator[Event]:
    """The events of a segment, in order, up to its end or to what was not written to the end.

    A torn end was never acknowledged. Records that this program cannot read are kept aside, never deleted.
    """
    data = segment.read_bytes()
    at = 0
    while at < len(data):
        event, following = _parse(data, at)
        if event is None:
            aside = segment.with_suffix(TORN_SUFFIX)
            _keep(aside, data[at:])
            log.warning("a segment of the spool has an end that cannot be read", kept=aside.name, bytes=len(data) - at)
            return
        yield event
        at = following


def _keep(path: Path, data: bytes) -> None:
    """Durable once this returns: the segment that it comes from is deleted then."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _record(data: bytes) -> bytes:
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def _parse(data: bytes, at: int) -> tuple[Event | None, int]:
    if len(data) - at < _HEAD.size:
        return None, at
    length, checksum = _HEAD.unpack_from(data, at)
    begin = at + _HEAD.size
    body = data[begin : begin + length]
    # One that was cut short has another sum, too.
    if zlib.crc32(body) != checksum:
        return None, at
    try:
        return msgspec.json.decode(body, type=Event), begin + length
    except msgspec.DecodeError:
        return None, at


def _sync_folder(folder: Path) -> None:
    """A new file's name is durable only with its folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some disks over the network know no such thing: there a name is the server's as soon as it is made.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
