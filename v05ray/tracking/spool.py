"""A queue of JSON records on disk: appended by one thread, sent on by another, and there again after `kill -9`.

Appending is one write of one line, microseconds and no waiting. A record leaves the queue only by `acknowledge`, after
the receiver has it, so a crash between the two sends it again: receivers must take a repetition for what it is.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v05ray.storage import durable


@dataclass(frozen=True, slots=True)
class Spooled:
    """One record in the queue."""

    end: int
    """Where it ends in the file, in bytes: what `acknowledge` wants."""
    record: Mapping[str, Any]


class Spool:
    """The queue in `path`; how far it was sent is in `path` + `.sent`. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Opens the queue, with what an earlier process left in it. Raises `OSError`."""
        self.path = path
        self._sent_path = path.with_name(path.name + ".sent")
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = self._drop_partial_line()
        self._sent = self._read_sent()
        self._num_pending = os.pread(self._file, self._size, 0)[self._sent :].count(b"\n")

    def __len__(self) -> int:
        """Records not yet acknowledged."""
        with self._lock:
            return self._num_pending

    def append(self, record: Mapping[str, Any]) -> None:
        """Raises `OSError` when the disk refuses; the queue is then as it was."""
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            try:
                written = os.write(self._file, line)
                if written != len(line):
                    raise OSError(28, "No space left on device", str(self.path))
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += written
            self._num_pending += 1

    def peek(self, max_bytes: int = 200_000) -> list[Spooled]:
        """The oldest records, about `max_bytes` of them and at least one if there is any."""
        with self._lock:
            start, size = self._sent, self._size
            chunk = b""
            while start + len(chunk) < size and (not chunk or not chunk.count(b"\n")):
                chunk += os.pread(self._file, max_bytes, start + len(chunk))
        records = []
        end = start
        for line in chunk.split(b"\n")[:-1]:
            end += len(line) + 1
            records.append(Spooled(end, _parse(line)))
        return records

    def acknowledge(self, end: int) -> None:
        """Everything up to `end` is with the receiver. Raises `OSError`."""
        with self._lock:
            self._num_pending -= os.pread(self._file, end - self._sent, self._sent).count(b"\n")
            if end < self._size:
                durable.replace_text(self._sent_path, str(end))
                self._sent = end
            else:  # 0 first: killed between the two, everything is sent again, never too little
                durable.replace_text(self._sent_path, "0")
                os.ftruncate(self._file, 0)
                self._size = self._sent = 0

    def flush(self) -> None:
        """To the disk itself, against a power cut; waits for the disk, so it is no call for the appending thread."""
        os.fsync(self._file)

    def close(self) -> None:
        """Frees the file; records stay."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _drop_partial_line(self) -> int:
        content = self.path.read_bytes()
        size = content.rfind(b"\n") + 1
        if size != len(content):
            os.ftruncate(self._file, size)
        return size

    def _read_sent(self) -> int:
        try:
            sent = int(self._sent_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return sent if sent <= self._size else 0


def _parse(line: bytes) -> Mapping[str, Any]:
    """The record, or `{"kind": "damaged", "text": ...}`: one bad block must not hold up what comes after it."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict):
        return record
    return {"kind": "damaged", "text": line.decode(errors="replace")}
