"""Records of local files, as people have them: JSON lines, a JSON array or object, Parquet; packed or not.

What a file is, is seen in its first bytes, not in its name. A record that cannot be read is a `BadRow`; a file that
cannot be read is a `ConfigError` that names it.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from v05ray.data.rows import BadRow
from v05ray.registry import ConfigError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PARQUET = b"PAR1"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


def record_name(file: Path) -> str:
    """The file's name without its endings: `sums` of `sums.jsonl.gz`."""
    return Path(file.stem).stem if file.suffix.casefold() in _PACKED_SUFFIXES else file.stem


def is_parquet(file: Path) -> bool:
    """By the file's first bytes."""
    return _start(file).startswith(_PARQUET)


def check_no_pointer(file: Path) -> None:
    """Raises `ConfigError` for a file that git-lfs has not fetched: a clone without it leaves a few lines of text."""
    if _start(file).startswith(_LFS_POINTER):
        raise ConfigError(f"{file} is a Git LFS pointer, not the data itself; fetch it with `git lfs pull`")


def json_records(file: Path) -> Iterator[tuple[str, object]]:
    """(file and row, record or `BadRow`) of JSON lines, of one JSON array, or of one JSON object that spans lines."""
    check_no_pointer(file)
    if is_parquet(file):
        raise ConfigError(f"{file} is a Parquet file; read it with `name: parquet`")
    try:
        with _unpacked(file) as lines:
            yield from _json_records(file, lines)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ConfigError(
            f"{file} cannot be read: {one_line(error)}; the file is damaged or cut off, fetch it once more"
        ) from error


def _json_records(file: Path, lines: BinaryIO) -> Iterator[tuple[str, object]]:
    first, before = _first_line(lines)
    if first.startswith(_UTF16_MARKS):
        raise ConfigError(f"{file} is UTF-16 text; save it as UTF-8")
    if first.startswith(b"[") or (first.startswith(b"{") and not _is_json(first)):
        whole = first + lines.read()
        records = _records_of_whole(whole)
        if records is not None:
            for number, record in enumerate(records, start=1):
                yield f"{file}:{number}", record
            return
        if first.startswith(b"[") and not _is_json(first):
            raise ConfigError(f"{file} begins a JSON array that {_broken(whole)}; the file is damaged or cut off")
        first, *rest = whole.splitlines(keepends=True)
        lines = cast(BinaryIO, io.BytesIO(b"".join(rest)))
    yield from _json_lines(file, first, lines, before + 1)


def _first_line(lines: BinaryIO) -> tuple[bytes, int]:
    """The first line that is not empty, without a byte order mark, and the number of lines before it."""
    for number, line in enumerate(lines):
        text = line.removeprefix(_UTF8_MARK) if number == 0 else line
        if text.strip():
            return text.lstrip(b" \t") if text.lstrip()[:1] in (b"[", b"{") else text, number
    return b"", 0


def _json_lines(file: Path, first: bytes, rest: BinaryIO, number: int) -> Iterator[tuple[str, object]]:
    # Bytes, not text: a line that is not UTF-8 is one bad row, not the end of the file.
    line = first
    while line:
        where = f"{file}:{number}"
        if line.strip():
            try:
                yield where, json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield where, BadRow(where, f"not UTF-8: {error}")
            except (ValueError, RecursionError) as error:  # also numbers of too many digits, and too deep nesting
                yield where, BadRow(where, f"not JSON: {one_line(error)}")
        line, number = rest.readline(), number + 1


def _records_of_whole(content: bytes) -> list[Any] | None:
    """The elements of an array, or of the one array that an object holds; else the one object; None if broken."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(whole, dict) and len(whole) == 1:
        (only,) = whole.values()
        if isinstance(only, list):
            return only
    return whole if isinstance(whole, list) else [whole]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _broken(content: bytes) -> str:
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"does not parse ({one_line(error)})"
    return "does not parse"


def parquet_records(file: Path) -> Iterator[tuple[str, object]]:
    """(file and row, record) of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_no_pointer(file)
    failures = (pa.ArrowException, OSError, ValueError)
    try:
        table = pq.ParquetFile(file)
    except failures as error:
        raise ConfigError(f"{file} is not a Parquet file: {one_line(error)}") from error
    number = 0
    with table:
        batches = iter(table.iter_batches(batch_size=1024))
        while True:
            try:
                batch = next(batches, None)
                records = [] if batch is None else batch.to_pylist()
            except failures as error:
                raise ConfigError(
                    f"{file}: damaged after row {number}: {one_line(error)}; fetch the file once more"
                ) from error
            if batch is None:
                return
            for record in records:
                number += 1
                yield f"{file}:{number}", record


def _unpacked(file: Path) -> BinaryIO:
    start = _start(file)
    openers: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"\x28\xb5\x2f\xfd": _open_zstd,
        b"BZh": bz2.open,
        b"\xfd7zXZ": lzma.open,
    }
    for magic, opener in openers.items():
        if start.startswith(magic):
            return opener(file)
    if file.suffix.casefold() in _PACKED_SUFFIXES:
        raise ConfigError(f"{file} is not packed as its ending {file.suffix} says; rename it, or fetch it once more")
    return file.open("rb")


def _open_zstd(file: Path) -> io.BytesIO:
    import pyarrow as pa

    with pa.input_stream(str(file), compression="zstd") as stream:
        return io.BytesIO(stream.read())


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(len(_LFS_POINTER))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """A library's message on one line; its name where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
